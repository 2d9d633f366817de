"""Ops through which no gradient flows: piecewise constant, integer, boolean or text outputs, random numbers, shapes."""

from __future__ import annotations

from ..engine import gradient_free

gradient_free("Ceil", "Floor", "Hardmax", "Round", "Sign")
gradient_free("Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual")
gradient_free("And", "Not", "Or", "Xor")
gradient_free("BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor")
gradient_free("ArgMax", "ArgMin", "NonZero")
gradient_free("NonMaxSuppression", "OptionalHasElement", "SequenceLength", "TfIdfVectorizer")
gradient_free("ImageDecoder", "RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit")
gradient_free("Constant", "ConstantOfShape", "EyeLike", "MelWeightMatrix", "Shape", "Size")
gradient_free("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")

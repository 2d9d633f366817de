"""The scalar definition of the samplers, one sample at a time: the oracle for the vectorised ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from caffestat.fillers.ziggurat import exponential_table, normal_table

F = np.float32
Word = Callable[[], int]

NX, NY = (column.tolist() for column in normal_table())
EX, EY = (column.tolist() for column in exponential_table())
NX32, NY32, EX32, EY32 = ([F(value) for value in column] for column in (NX, NY, EX, EY))


def exp32(x: np.float32) -> np.float32:
    return F(math.exp(x))


def unit_uniform(word: Word) -> np.float32:
    while True:
        value = F(word()) * F(2.0**-32)
        if value < 1:
            return value


def unit_exponential(word: Word) -> np.float32:
    shift = F(0)
    while True:
        u = word()
        i = u & 255
        x = F(u >> 8) * F(2.0**-24) * EX32[i]
        if x < EX32[i + 1]:
            return shift + x
        if i == 0:
            shift = shift + EX32[1]
            continue
        y01 = unit_uniform(word)
        y = EY32[i] + y01 * F(EY[i + 1] - EY[i])
        above_upper = F(EX[i] - EX[i + 1]) * y01 - (EX32[i] - x)
        above_lower = y - (EY32[i + 1] + (EX32[i + 1] - x) * EY32[i + 1])
        if above_upper < 0 and (above_lower < 0 or y < exp32(-x)):
            return x + shift


def tail(word: Word) -> np.float32:
    while True:
        x = unit_exponential(word) / NX32[1]
        y = unit_exponential(word)
        if F(2) * y > x * x:
            return x + NX32[1]


def unit_normal(word: Word) -> np.float32:
    while True:
        u = word()
        sign, i = F((u & 1) * 2 - 1), (u & 255) >> 1
        x = F(u >> 8) * F(2.0**-24) * NX32[i]
        if float(x) < NX[i + 1]:
            return x * sign
        if i == 0:
            return tail(word) * sign
        y01 = unit_uniform(word)
        y = NY32[i] + y01 * F(NY[i + 1] - NY[i])
        chord = F(NX[i] - NX[i + 1]) * y01 - (NX32[i] - x)
        tangent = y - (NY32[i] + (NX32[i] - x) * NY32[i] * NX32[i])
        above_upper, above_lower = (chord, tangent) if NX[i] >= 1 else (tangent, chord)
        if above_upper < 0 and (above_lower < 0 or y < exp32(-(x * x / F(2)))):
            return x * sign


def gaussian(word: Word, n: int, mean: float, std: float) -> NDArray[np.float32]:
    return np.array([unit_normal(word) * F(std) + F(mean) for _ in range(n)], F)


def uniform(word: Word, n: int, low: float, high: float) -> NDArray[np.float32]:
    end = np.nextafter(F(high), F(np.inf))
    samples: list[np.float32] = []
    while len(samples) < n:
        value = F(word()) / F(2.0**32) * (end - F(low)) + F(low)
        if value < end:
            samples.append(value)
    return np.array(samples, F)

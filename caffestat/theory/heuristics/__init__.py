"""Approximations that are not exact in the limit of wide layers, one per module, each with its derivation and range."""

"""Functions of arrays that NumPy itself does not have."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["cuts", "reverse", "sigmoid", "softplus"]

Array = npt.NDArray[Any]


def sigmoid(array: Array) -> Array:
    """Return 1 / (1 + exp(-x)), as a shifted tanh: exact in the tails and never overflowing."""
    half = np.asarray(0.5, array.dtype)
    result: Array = np.tanh(array * half) * half + half
    return result


def softplus(array: Array) -> Array:
    """Return log(1 + exp(x)) as max(x, 0) + log1p(exp(-|x|))."""
    return np.maximum(array, 0) + np.log1p(np.exp(-np.abs(array)))


def cuts(parts: int | Sequence[int], size: int) -> list[int]:
    """Return where `numpy.split` cuts an axis of `size` for so many equal parts, or for parts of these sizes."""
    if isinstance(parts, int):
        return [size // parts * index for index in range(1, parts)]
    return list(itertools.accumulate(parts[:-1]))


def reverse(array: Array, valid_length: Array | None) -> Array:
    """Reverse (T, N, ...) in time, each row within its valid length; what lies past it stays."""
    if valid_length is None:
        return array[::-1]
    times = np.arange(array.shape[0])[:, None]
    source = np.where(times < valid_length, valid_length - 1 - times, times)
    return np.take_along_axis(array, source.reshape(source.shape + (1,) * (array.ndim - 2)), axis=0)

"""Checks of numbers that users give, with errors that name them."""

from __future__ import annotations

import math
import numbers

from rnnx.errors import ShapeError

__all__ = ["finite", "fraction", "whole"]


def whole(name: str, value: object, least: int = 1) -> int:
    """Return `value` as an int; `ShapeError` unless it is a whole number of at least `least`."""
    if not isinstance(value, numbers.Integral):
        raise ShapeError(f"{name} is {value!r}, expected a whole number")
    if value < least:
        raise ShapeError(f"{name} is {value}, expected at least {least}")
    return int(value)


def finite(name: str, value: object) -> float:
    """Return `value` as a float; `ShapeError` unless it is a finite number."""
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ShapeError(f"{name} is {value!r}, expected a finite number")
    return float(value)


def fraction(name: str, value: object) -> float:
    """Return `value` as a float; `ShapeError` unless it is a number from 0 to 1."""
    if not isinstance(value, numbers.Real):
        raise ShapeError(f"{name} is {value!r}, expected a number")
    number = float(value)
    if not 0 <= number <= 1:
        raise ShapeError(f"{name} is {value}, expected a fraction from 0 to 1")
    return number

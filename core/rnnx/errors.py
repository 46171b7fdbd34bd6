"""The errors of rnnx: one root, and the built-in exception each one also is."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "BackendMismatchError",
    "BackendNotFoundError",
    "RNNXError",
    "ShapeError",
    "UnsupportedError",
    "WeightFormatError",
    "class_name",
    "nearest",
]


class RNNXError(Exception):
    """Root of every error that rnnx raises on purpose."""


class BackendNotFoundError(RNNXError, ImportError):
    """A backend is not installed, or its framework does not import."""


class BackendMismatchError(RNNXError, TypeError):
    """Arrays of two frameworks, devices or dtypes meet where one was expected."""


class UnsupportedError(RNNXError, NotImplementedError):
    """What was asked for has no equivalent here; the message says what to do instead."""


class ShapeError(RNNXError, ValueError):
    """An argument has the wrong shape, length or layout."""


class WeightFormatError(RNNXError, ValueError):
    """Weights, or a file of weights, are not what they should be."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `` (nearest: 'x')`` for the known name closest to `name`, or nothing."""
    import difflib  # only an error needs it, and it is not small

    found = difflib.get_close_matches(name, list(known), n=1)
    return f" (nearest: {found[0]!r})" if found else ""


def class_name(kind: type) -> str:
    """Return a class's full name, ``"module.Class"``."""
    return f"{kind.__module__}.{kind.__qualname__}"

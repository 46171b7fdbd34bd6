"""Shapes of which a graph that is being made may know only some sizes; the others are the framework's scalars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["agree", "filled", "known"]


def known(shape: Sequence[Any]) -> tuple[int | None, ...]:
    """Return a shape with None for every size that is not known yet."""
    return tuple(size if isinstance(size, int) else None for size in shape)


def agree(found: Sequence[Any], expected: Sequence[Any]) -> bool:
    """Say whether two shapes are the same, as far as the sizes of both are known."""
    one, other = known(found), known(expected)
    return len(one) == len(other) and all(None in pair or pair[0] == pair[1] for pair in zip(one, other, strict=True))


def filled(shape: Sequence[int], batch: Any) -> tuple[Any, ...]:
    """Return a state's shape with the batch size in the place of 0."""
    return tuple(size or batch for size in shape)

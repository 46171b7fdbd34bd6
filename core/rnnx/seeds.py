"""Random seeds made from a seed: SplitMix64 (Steele, Lea and Flood, 2014)."""

from __future__ import annotations

import os
from collections.abc import Iterator

__all__ = ["folded", "seeds"]

_GAMMA = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def seeds(seed: int | None) -> Iterator[int]:
    """Yield an endless stream of 63-bit seeds, the same for the same `seed`; None starts from the system's entropy.

    Each place that draws at random takes the next one, so a network draws the same whether its layers are fused or not.
    """
    state = int.from_bytes(os.urandom(8), "little") if seed is None else int(seed) & _MASK
    while True:
        state = (state + _GAMMA) & _MASK
        yield _mixed(state) >> 1


def folded(seed: int, number: int) -> int:
    """Return a 63-bit seed made of a seed and a number from 0 on."""
    return _mixed(seed ^ _mixed((number + 1) * _GAMMA & _MASK)) >> 1


def _mixed(state: int) -> int:
    mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)

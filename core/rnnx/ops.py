"""What a cell's equation is written in: a backend's operations, and the mode and randomness of one call."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from rnnx.backend import Array, Backend

__all__ = ["Ops", "Slot", "Step", "Stepped", "Weights", "fill_slots", "seeds"]

_MASK = (1 << 64) - 1

#: Weights by name.
Weights = Mapping[str, Array]

#: One step: inputs (N, I) and states in, outputs and new states out.
Step = tuple[Array, list[Array]]


#: A cell bound to its weights, ready to be stepped.
Stepped = Callable[[Array, list[Array]], Step]


@dataclasses.dataclass(frozen=True)
class Slot:
    """One array that a stepped cell carries from step to step; one that is not public starts at zero."""

    shape: tuple[int, ...]
    public: bool = True


def seeds(seed: int | None) -> Iterator[int]:
    """Yield an endless stream of 63-bit seeds, the same for the same `seed`; None starts from the system's entropy.

    Each place that draws at random takes the next one, so a network draws the same whether its layers are fused or not.
    The stream is SplitMix64 (Steele, Lea and Flood, 2014).
    """
    state = int.from_bytes(os.urandom(8), "little") if seed is None else int(seed) & _MASK
    while True:
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        yield (mixed ^ (mixed >> 31)) >> 1


class Ops:
    """The operations of a backend, as `rnnx.backend.Backend` documents them, within one call.

    Arrays also take the arithmetic operators ``+ - * /`` with broadcasting.

    Attributes
    ----------
    training : bool
        Whether dropout and zoneout act.
    """

    def __init__(self, backend: Backend, training: bool, seed_stream: Iterator[int]) -> None:
        self.backend = backend
        self.training = training
        self._seeds = seed_stream
        self.affine = backend.affine
        self.sigmoid = backend.sigmoid
        self.tanh = backend.tanh
        self.relu = backend.relu
        self.softplus = backend.softplus
        self.split = backend.split
        self.concat = backend.concat
        self.stack = backend.stack
        self.unstack = backend.unstack
        self.reshape = backend.reshape
        self.swapaxes = backend.swapaxes
        self.reverse = backend.reverse
        self.where = backend.where
        self.zeros = backend.zeros

    def next_seed(self) -> int:
        """Return a seed that no other place of this call gets."""
        return next(self._seeds)

    def keep(self, rate: float, like: Array) -> Array:
        """Return booleans in the shape of `like`, each false with probability `rate`; new ones at each call."""
        return self.backend.bernoulli(self.next_seed(), 1.0 - rate, tuple(like.shape), like)

    def dropout(self, inputs: Array, rate: float) -> Array:
        """Return inputs with each element zero with probability `rate` and the rest divided by ``1 - rate``.

        Unchanged outside training (Srivastava et al., 2014).
        """
        if not self.training or rate == 0:
            return inputs
        blank = self.zeros(tuple(inputs.shape), inputs)
        return blank if rate == 1 else self.where(self.keep(rate, inputs), inputs * (1.0 / (1.0 - rate)), blank)


def fill_slots(ops: Ops, slots: Sequence[Slot], states: Sequence[Array], inputs: Array) -> list[Array]:
    """Return everything a stepped cell carries at the start: the given states, and zeros in what is not public."""
    given, batch = iter(states), inputs.shape[0]
    return [
        next(given) if slot.public else ops.zeros(tuple(size or batch for size in slot.shape), inputs) for slot in slots
    ]

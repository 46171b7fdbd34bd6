"""What a cell's equation is written in: a backend's operations, and the mode and randomness of one call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rnnx.backend import Array, Backend
from rnnx.seeds import seeds

__all__ = ["LoopSeeds", "Ops", "Slot", "Step", "Stepped", "Weights", "call_seeds", "fill_slots"]

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


class Ops:
    """The operations of a backend, as `rnnx.backend.Backend` documents them, within one call.

    Arrays also take the arithmetic operators ``+ - * /`` with broadcasting.

    Attributes
    ----------
    training : bool
        Whether dropout and zoneout act.
    seeds : iterator of int
        One for each place that draws, from which `next_seed` makes seeds.
    """

    def __init__(self, backend: Backend, training: bool, seed_stream: Iterator[Any], own_seed: Any = None) -> None:
        self.backend = backend
        self.training = training
        self.seeds = seed_stream
        self._own_seed = own_seed
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
        self.shape = backend.shape

    def next_seed(self) -> Any:
        """Return a seed that no other place of this call gets: an integer, or what `Backend.fold` makes of one."""
        return self.seed_of(next(self.seeds))

    def seed_of(self, number: Any) -> Any:
        """Return the number itself, or where the call has a seed of the framework's own, what that makes of it."""
        return number if self._own_seed is None else self.backend.fold(self._own_seed, number)

    def keep(self, rate: float, like: Array) -> Array:
        """Return booleans in the shape of `like`, each false with probability `rate`; new ones at each call."""
        return self.backend.bernoulli(self.next_seed(), 1.0 - rate, self.shape(like), like)

    def dropout(self, inputs: Array, rate: float) -> Array:
        """Return inputs with each element zero with probability `rate` and the rest divided by ``1 - rate``.

        Unchanged outside training (Srivastava et al., 2014).
        """
        if not self.training or rate == 0:
            return inputs
        blank = self.zeros(self.shape(inputs), inputs)
        return blank if rate == 1 else self.where(self.keep(rate, inputs), inputs * (1.0 / (1.0 - rate)), blank)


def call_seeds(backend: Backend, seed: Any) -> tuple[Iterator[int], Any]:
    """Return the stream of a call's seeds and, if it is given one of the framework's own, that seed.

    A seed of the framework's own may be traced: a graph that is made once then draws anew each time it runs.
    """
    return (seeds(0), seed) if backend.owns(seed) else (seeds(seed), None)


class LoopSeeds(Iterator[Any]):
    """The seeds that the steps of a loop draw: in each step the same ones, folded with the step's number.

    So a step may be traced once for all. What it folds is made of the first seed that the loop takes from its call, and
    a loop that draws nothing takes none. Between steps it holds nothing that is traced.
    """

    def __init__(self, ops: Ops) -> None:
        self._ops = ops
        self._first: int | None = None
        self._time: Any = None
        self._step: Iterator[int] | None = None

    def start(self, time: Any) -> None:
        """Begin step `time`."""
        self._time, self._step = time, None

    def stop(self) -> None:
        """End the step."""
        self._time = None

    def __next__(self) -> Any:
        if self._first is None:
            self._first = next(self._ops.seeds)
        if self._step is None:
            self._step = seeds(self._first)
        return self._ops.backend.fold(self._ops.seed_of(next(self._step)), self._time)


def fill_slots(ops: Ops, slots: Sequence[Slot], states: Sequence[Array], inputs: Array) -> list[Array]:
    """Return everything a stepped cell carries at the start: the given states, and zeros in what is not public."""
    given, batch = iter(states), ops.shape(inputs)[0]
    return [
        next(given) if slot.public else ops.zeros(tuple(size or batch for size in slot.shape), inputs) for slot in slots
    ]

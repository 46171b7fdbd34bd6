"""The stages that plans are made of.

Each stage maps inputs (T, N, C) and states to outputs and new states, and keeps what lies past a row's valid length at
zero if its inputs do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from rnnx.backend import Array, Kernel, KernelWeights, Recurrence
from rnnx.ops import LoopSeeds, Ops, Slot, Step, Stepped, Weights, fill_slots
from rnnx.weights.layout import GROUPS, layer_names, split_flat

__all__ = [
    "Bidirectional",
    "Chain",
    "Dropout",
    "Fused",
    "FusedFlat",
    "Loop",
    "Residual",
    "Run",
    "Stage",
    "Steppable",
    "Unfused",
    "described",
]


@dataclasses.dataclass(frozen=True)
class Run:
    """What the stages of one run share."""

    ops: Ops
    weights: Weights
    valid_length: Array | None = None
    mask: Array | None = None


class Stage(Protocol):
    """A part of a plan."""

    @property
    def label(self) -> str:
        """What it does, in a few words."""
        ...

    @property
    def kernel(self) -> str | None:
        """Name of the kernel that runs it, or None where its parts have kernels of their own."""
        ...

    @property
    def refused(self) -> tuple[str, ...]:
        """Why faster ones do not run it."""
        ...

    @property
    def parts(self) -> tuple[Stage, ...]:
        """The stages within it."""
        ...

    @property
    def num_states(self) -> int:
        """How many of the cell tree's states it takes and returns."""
        ...

    def run(self, run: Run, inputs: Array, states: list[Array]) -> Step:
        """Map inputs (T, N, C) and states to outputs and states."""
        ...


class Steppable(Protocol):
    """What the planner needs of a cell to step it."""

    def slots(self, input_size: int) -> list[Slot]:
        """Return what it carries."""
        ...

    def stepper(self, ops: Ops, weights: Weights) -> Stepped:
        """Return the cell bound to its weights."""
        ...


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """Base of the stages that have no parts."""

    @property
    def parts(self) -> tuple[Stage, ...]:
        return ()


@dataclasses.dataclass(frozen=True)
class _Compiled(_Leaf):
    """Base of the stages that one kernel runs."""

    compiled: Kernel

    @property
    def label(self) -> str:
        return described(self.compiled.recurrence)

    @property
    def kernel(self) -> str:
        return self.compiled.name

    @property
    def refused(self) -> tuple[str, ...]:
        return ()


@dataclasses.dataclass(frozen=True)
class Fused(_Compiled):
    """Layers of plain cells, run by one kernel. `prefixes` are the cells' own, direction running fastest."""

    prefixes: tuple[str, ...]

    @property
    def num_states(self) -> int:
        return len(self.prefixes) * self.compiled.recurrence.num_states

    def run(self, run: Run, inputs: Array, states: list[Array]) -> Step:
        count = self.compiled.recurrence.num_states
        packed = [run.ops.stack(states[kind::count]) for kind in range(count)]
        outputs, packed = _run_kernel(run, self.compiled, self._weights(run.weights), inputs, packed)
        return outputs, _interleaved(run.ops, packed)

    def _weights(self, weights: Weights) -> KernelWeights:
        layers = tuple(tuple(weights[prefix + group] for group in GROUPS) for prefix in self.prefixes)
        return KernelWeights(layers)


@dataclasses.dataclass(frozen=True)
class FusedFlat(_Compiled):
    """A fused cell, run by one kernel from its flat vector."""

    parameter: str

    @property
    def num_states(self) -> int:
        return self.compiled.recurrence.num_states

    def run(self, run: Run, inputs: Array, states: list[Array]) -> Step:
        flat, kernel = run.weights[self.parameter], self.compiled
        weights = KernelWeights((), flat) if kernel.reads_flat else split_flat(run.ops.backend, flat, kernel.recurrence)
        return _run_kernel(run, kernel, weights, inputs, states)


@dataclasses.dataclass(frozen=True)
class Unfused:
    """A fused cell whose backend has no kernel for it: its flat vector is cut up and the unfused cells run."""

    recurrence: Recurrence
    parameter: str
    prefix: str
    inner: Stage
    refused: tuple[str, ...]
    kernel: None = None

    @property
    def label(self) -> str:
        return f"{described(self.recurrence)}, unfused"

    @property
    def parts(self) -> tuple[Stage, ...]:
        return (self.inner,)

    @property
    def num_states(self) -> int:
        return self.recurrence.num_states

    def run(self, run: Run, inputs: Array, states: list[Array]) -> Step:
        layers = split_flat(run.ops.backend, run.weights[self.parameter], self.recurrence).layers
        names = (prefix for _, prefix in layer_names(self.prefix, self.recurrence))
        weights = {
            prefix + group: array
            for prefix, layer in zip(names, layers, strict=True)
            for group, array in zip(GROUPS, layer, strict=True)
        }
        inner = dataclasses.replace(run, weights=weights)
        outputs, flat = self.inner.run(inner, inputs, _interleaved(run.ops, states))
        return outputs, [run.ops.stack(flat[kind :: len(states)]) for kind in range(len(states))]


@dataclasses.dataclass(frozen=True)
class Loop(_Leaf):
    """A cell stepped through time. A masked step keeps every state, and its output is zero."""

    cell: Steppable
    label: str
    kernel: str
    slots: tuple[Slot, ...]
    refused: tuple[str, ...]

    @property
    def num_states(self) -> int:
        return sum(slot.public for slot in self.slots)

    def run(self, run: Run, inputs: Array, states: list[Array]) -> Step:
        seeds = LoopSeeds(run.ops)
        ops = Ops(run.ops.backend, run.ops.training, seeds)
        step = self.cell.stepper(ops, run.weights)

        def advance(time: Any, current: Array, carry: list[Array]) -> Step:
            seeds.start(time)
            output, new = step(current, carry)
            seeds.stop()
            return (output, new) if run.mask is None else _masked(ops, run.mask[time], output, new, carry)

        carry = fill_slots(ops, self.slots, states, inputs[0])
        outputs, carry = ops.backend.scan(advance, inputs, carry)
        return outputs, [state for state, slot in zip(carry, self.slots, strict=True) if slot.public]


@dataclasses.dataclass(frozen=True)
class Dropout(_Leaf):
    """Dropout over the whole sequence at once."""

    rate: float
    kernel: str
    refused: tuple[str, ...] = ()
    num_states: int = 0

    @property
    def label(self) -> str:
        return f"dropout {self.rate:g}"

    def run(self, run: Run, inputs: Array, states: list[Array]) -> Step:
        return run.ops.dropout(inputs, self.rate), states


@dataclasses.dataclass(frozen=True)
class Chain:
    """Stages one after the other."""

    parts: tuple[Stage, ...]
    label: str = "chain"
    kernel: None = None
    refused: tuple[str, ...] = ()

    @property
    def num_states(self) -> int:
        return sum(part.num_states for part in self.parts)

    def run(self, run: Run, inputs: Array, states: list[Array]) -> Step:
        results: list[Array] = []
        for part in self.parts:
            mine, states = states[: part.num_states], states[part.num_states :]
            inputs, new = part.run(run, inputs, mine)
            results += new
        return inputs, results


@dataclasses.dataclass(frozen=True)
class Residual:
    """outputs = inner(inputs) + inputs (Wu et al., 2016)."""

    inner: Stage
    label: str = "residual"
    kernel: None = None
    refused: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[Stage, ...]:
        return (self.inner,)

    @property
    def num_states(self) -> int:
        return self.inner.num_states

    def run(self, run: Run, inputs: Array, states: list[Array]) -> Step:
        outputs, states = self.inner.run(run, inputs, states)
        return outputs + inputs, states


@dataclasses.dataclass(frozen=True)
class Bidirectional:
    """Two stages, the second over reversed time, their outputs side by side (Schuster and Paliwal, 1997)."""

    forward: Stage
    backward: Stage
    refused: tuple[str, ...]
    label: str = "bidirectional"
    kernel: None = None

    @property
    def parts(self) -> tuple[Stage, ...]:
        return (self.forward, self.backward)

    @property
    def num_states(self) -> int:
        return self.forward.num_states + self.backward.num_states

    def run(self, run: Run, inputs: Array, states: list[Array]) -> Step:
        split = self.forward.num_states
        ahead, ahead_states = self.forward.run(run, inputs, states[:split])
        turned = run.ops.reverse(inputs, run.valid_length)
        back, back_states = self.backward.run(run, turned, states[split:])
        outputs = run.ops.concat([ahead, run.ops.reverse(back, run.valid_length)], -1)
        return outputs, [*ahead_states, *back_states]


def _run_kernel(run: Run, kernel: Kernel, weights: KernelWeights, inputs: Array, states: list[Array]) -> Step:
    boundaries = kernel.recurrence.num_layers - 1
    drops = run.ops.training and kernel.recurrence.dropout > 0
    seeds = [run.ops.next_seed() for _ in range(boundaries)] if drops else []
    return run.ops.backend.run(kernel, weights, inputs, states, run.valid_length, seeds)


def _masked(ops: Ops, mask: Array, output: Array, new: list[Array], old: list[Array]) -> Step:
    def rows(array: Array) -> Array:
        return ops.reshape(mask, (-1,) + (1,) * (len(array.shape) - 1))

    kept = [ops.where(rows(after), after, before) for after, before in zip(new, old, strict=True)]
    return ops.where(rows(output), output, ops.zeros((), output)), kept


def _interleaved(ops: Ops, packed: Sequence[Array]) -> list[Array]:
    """Return [h0, c0, h1, c1, ...] of [h (L, N, H), c (L, N, H)]."""
    return [state for layer in zip(*map(ops.unstack, packed), strict=True) for state in layer]


def described(recurrence: Recurrence) -> str:
    """Return the recurrence in a few words."""
    layers = f"{recurrence.num_layers} layer{'s' if recurrence.num_layers > 1 else ''}"
    both = ", bidirectional" if recurrence.bidirectional else ""
    return f"{recurrence.mode}, {layers} of {recurrence.hidden_size}{both}"

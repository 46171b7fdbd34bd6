"""One call of `unroll` or `vjp`: its arguments, its plan, and the way back to the caller's form."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rnnx.backend import Array, Backend, Call
from rnnx.cells import placement, sizes
from rnnx.cells.arguments import Arrangement, checked_length, checked_states, flat, read_inputs
from rnnx.cells.node import Node
from rnnx.errors import BackendMismatchError, ShapeError
from rnnx.ops import Ops, call_seeds
from rnnx.plan import Plan, Planner
from rnnx.seeds import seeds

__all__ = ["Gradients", "Unrolling"]


@dataclasses.dataclass(frozen=True)
class Gradients:
    """Gradients of a scalar with respect to what a call of `vjp` was given.

    Parameters
    ----------
    inputs : array or list of array
        Held as the inputs were.
    begin_state : list of array
        Flat, in the order of the cell's `state_info`.
    weights : dict of str to array
        By packed name.
    """

    inputs: Any
    begin_state: list[Array]
    weights: dict[str, Array]


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What is the same for all calls of one kind.

    Parameters
    ----------
    plan : Plan
        What runs.
    state_shapes : list of tuple of int
        Shapes of the cell's states, with 0 for the batch size.
    order : nested list of int
        Which of the plan's states are returned, and how they are nested.
    basis : tuple
        What the plan depended on in the tree; see `Node.plan_basis`.
    planner : Planner
        What it depended on in the backend.
    """

    plan: Plan
    state_shapes: list[tuple[int, ...]]
    order: list[Any]
    basis: tuple[Any, ...] | None
    planner: Planner


def _kind_of(cell: Node, backend: Backend, inputs: Array, training: bool, masked: bool, fuse: bool) -> _Kind:
    """Return the kind of a call, as it was made for an earlier call unless the tree or the backend changed since."""
    dtype, device, width = backend.dtype(inputs), backend.device(inputs), inputs.shape[2]
    key, basis = (backend, dtype, device, training, masked, fuse, width), cell.plan_basis()
    kind: _Kind | None = cell._planned.get(key)
    if kind is not None and kind.basis == basis and kind.planner.stands():
        return kind
    call = Call(dtype, device, training, masked)
    planner = Planner(backend, call, fuse)
    plan, shapes = Plan(backend, call, cell.stage(planner, width)), cell.state_shape
    kind = _Kind(plan, shapes, cell.nest(list(range(len(shapes)))), basis, planner)
    if basis is not None:
        cell._planned[key] = kind
    return kind


class Unrolling:
    """The arguments of one call, checked, and the plan that they lead to.

    Attributes
    ----------
    plan : Plan
        What will run.
    order : nested list of int
        Which of the plan's states are returned, and how they are nested.
    """

    def __init__(
        self,
        cell: Node,
        length: int | None,
        inputs: Any,
        begin_state: Any,
        layout: str,
        merge_outputs: bool | None,
        valid_length: Any,
        training: bool,
        fuse: bool,
    ) -> None:
        self.cell = cell
        self.backend, self.read, self.inputs = read_inputs(length, inputs, layout, None)
        merged = cell.merges(self.read.merged) if merge_outputs is None else merge_outputs
        self.written = Arrangement(self.read.time_axis, merged)
        self.valid_length = checked_length(self.backend, valid_length, self.inputs)
        kind = _kind_of(cell, self.backend, self.inputs, training, self.valid_length is not None, fuse)
        self.plan, self.order = kind.plan, kind.order
        self.states = checked_states(self.backend, begin_state, kind.state_shapes, self.inputs, "begin_state", 1)

    def run(self, seed: Any) -> tuple[Any, list[Any]]:
        """Return outputs and states as the caller wants them."""
        self.cell.ready(self.backend, self.inputs, self.inputs.shape[2])
        ops = Ops(self.backend, self.plan.call.training, *call_seeds(self.backend, seed))
        weights = placement.values(self.cell)
        outputs, states = self.plan.run(ops, weights, self.inputs, self.states, self.valid_length)
        return self.written.from_time_major(self.backend, outputs), _rearranged(self.order, states)

    def vjp(self, seed: Any) -> tuple[Any, list[Any], Callable[..., Gradients]]:
        """Return what `run` does, and the vector-Jacobian product."""
        self.cell.ready(self.backend, self.inputs, self.inputs.shape[2])
        weights = placement.values(self.cell)
        chosen = next(seeds(None)) if seed is None else seed
        split = 1 + len(self.states)
        kept = list(flat(self.order))

        def function(recorder: Backend, arrays: Sequence[Array]) -> list[Array]:
            ops = Ops(recorder, self.plan.call.training, *call_seeds(self.backend, chosen))
            named = dict(zip(weights, arrays[split:], strict=True))
            outputs, states = self.plan.run(ops, named, arrays[0], list(arrays[1:split]), self.valid_length)
            return [outputs, *(states[index] for index in kept)]

        arguments = [self.inputs, *self.states, *weights.values()]
        (outputs, *states), pullback = self.backend.differentiate(function, arguments)

        def pull(outputs_gradient: Any, states_gradient: Any = None) -> Gradients:
            cotangents = self._cotangents([outputs, *states], outputs_gradient, states_gradient)
            gradients = pullback(cotangents)
            named = dict(zip(weights, gradients[split:], strict=True))
            return Gradients(self.read.from_time_major(self.backend, gradients[0]), gradients[1:split], named)

        nested = _rearranged(self.order, dict(zip(kept, states, strict=True)))
        return self.written.from_time_major(self.backend, outputs), nested, pull

    def _cotangents(self, results: list[Array], outputs: Any, states: Any) -> list[Array]:
        """Return one cotangent for each result, zeros where the caller gave None."""
        zeros = [self.backend.zeros(self.backend.shape(result), result) for result in results]
        given = zeros[1:] if states is None else list(flat(states))
        if len(given) != len(zeros) - 1:
            raise ShapeError(f"{len(given)} gradients of states were given, expected {len(zeros) - 1}")
        if outputs is not None and isinstance(outputs, list | tuple) == self.written.merged:
            kind = "an array" if self.written.merged else "a list of arrays, one a step"
            raise ShapeError(f"the gradient of the outputs is a {type(outputs).__name__}, expected {kind}, as they are")
        found = [zeros[0] if outputs is None else self.written.to_time_major(self.backend, outputs), *given]
        found = [blank if array is None else array for array, blank in zip(found, zeros, strict=True)]
        for array, result in zip(found, results, strict=True):
            shape, expected = (sizes.known(self.backend.shape(each)) for each in (array, result))
            if not sizes.agree(shape, expected):
                raise ShapeError(f"a gradient has shape {shape}, its result has {expected}, time-major")
            if self.backend.dtype(array) != self.backend.dtype(result):
                raise BackendMismatchError(
                    f"a gradient has dtype {self.backend.dtype(array)}, its result has {self.backend.dtype(result)}"
                )
        return found


def _rearranged(order: list[Any], arrays: Sequence[Array] | Mapping[int, Array]) -> list[Any]:
    """Return the arrays in the places where a nested list has their numbers."""
    return [_rearranged(place, arrays) if isinstance(place, list) else arrays[place] for place in order]

"""The fused kernels: all layers and directions of a recurrence in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rnnx.backend import Kernel, KernelWeights
from rnnx_numpy.sweep import Sweep, sweep

__all__ = ["Dropper", "run_kernel"]

Array = npt.NDArray[Any]

#: Takes a layer's number and its outputs; returns what they are multiplied by on the way to the next layer, or None.
Dropper = Callable[[int, Array], Array | None]

#: Takes the gradients of outputs and states; returns those of inputs, of states, and of each layer's four weights.
KernelPull = Callable[[Array, Sequence[Array]], tuple[Array, list[Array], list[Array]]]


def run_kernel(
    kernel: Kernel,
    weights: KernelWeights,
    inputs: Array,
    states: Sequence[Array],
    mask: Array | None,
    dropper: Dropper,
    record: bool,
) -> tuple[Array, list[Array], KernelPull]:
    """Run a kernel; arrays are laid out as `rnnx.backend.Backend.run` says, `mask` is (T, N).

    The last result is the vector-Jacobian product, which may be called if `record` was True.
    """
    recurrence = kernel.recurrence
    current = np.moveaxis(inputs, 2, 0)
    sweeps: list[list[Sweep]] = []
    factors: list[Array | None] = []
    for layer in range(recurrence.num_layers):
        row = []
        for direction in range(recurrence.directions):
            place = layer * recurrence.directions + direction
            before = [state[place].T for state in states]
            row.append(sweep(recurrence.mode, weights.layers[place], current, before, mask, direction == 1, record))
        sweeps.append(row)
        current = row[0].outputs if len(row) == 1 else np.concatenate([each.outputs for each in row])
        factors.append(dropper(layer, current) if layer < recurrence.num_layers - 1 else None)
        if factors[-1] is not None:
            current = _dropped(current, factors[-1])
    flat = [each for row in sweeps for each in row]
    final = [np.stack([each.states[kind].T for each in flat]) for kind in range(len(states))]

    def pull(of_outputs: Array, of_states: Sequence[Array]) -> tuple[Array, list[Array], list[Array]]:
        return _pull(sweeps, factors, np.moveaxis(of_outputs, 2, 0), of_states)

    return np.ascontiguousarray(np.moveaxis(current, 0, 2)), final, pull


def _dropped(array: Array, factor: Array) -> Array:
    """Return ``array * factor``, and 0 wherever the factor is, even of what is not finite."""
    result: Array = np.multiply(array, factor, out=np.zeros_like(array), where=factor != 0)
    return result


def _pull(
    sweeps: list[list[Sweep]], factors: list[Array | None], gradient: Array, of_states: Sequence[Array]
) -> tuple[Array, list[Array], list[Array]]:
    """Go back through the layers; gradients of the weights come out in the layers' own order."""
    before: list[list[Array]] = []
    of_weights: list[list[Array]] = []
    place = sum(map(len, sweeps))
    for row, factor in zip(reversed(sweeps), reversed(factors), strict=True):
        if factor is not None:
            gradient = _dropped(gradient, factor)
        parts = np.split(gradient, len(row))
        gradient = np.zeros((), gradient.dtype)
        for each, part in zip(reversed(row), reversed(parts), strict=True):
            place -= 1
            assert each.pull is not None
            of_inputs, mine, weights = each.pull(part, [state[place].T for state in of_states])
            gradient = gradient + of_inputs
            before.append(mine)
            of_weights.append(weights)
    first = [np.stack([mine[kind].T for mine in reversed(before)]) for kind in range(len(of_states))]
    return np.moveaxis(gradient, 0, 2), first, [weight for layer in reversed(of_weights) for weight in layer]

"""One layer in one direction over all time steps, forward and backward.

Arrays are feature-major, (features, T, N): one product gives the inputs' share of the gates for all time steps, and the
outputs of a layer are, without a copy, what the next one multiplies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rnnx_numpy.steps import STEPS, Step

__all__ = ["Sweep", "sweep"]

Array = npt.NDArray[Any]

#: i2h_weight, h2h_weight, i2h_bias, h2h_bias.
LayerWeights = Sequence[Array]


@dataclasses.dataclass
class Sweep:
    """What a sweep gives.

    Attributes
    ----------
    outputs : array
        (H, T, N), zero past each row's valid length.
    states : list of array
        After the last step taken, each (H, N).
    pull : callable or None
        Takes the gradients of outputs and states; returns those of the inputs (I, T, N), of the states before, and of
        the four weights. None unless it was asked for.
    """

    outputs: Array
    states: list[Array]
    pull: Callable[[Array, list[Array]], tuple[Array, list[Array], list[Array]]] | None


def sweep(
    mode: str,
    weights: LayerWeights,
    inputs: Array,
    states: Sequence[Array],
    mask: Array | None,
    backward: bool,
    record: bool,
) -> Sweep:
    """Run one layer in one direction.

    Parameters
    ----------
    mode : str
        A mode of `rnnx.spec.MODES`.
    weights : sequence of array
        The layer's four.
    inputs : array
        (I, T, N).
    states : sequence of array
        Before the first step taken, each (H, N).
    mask : array of bool or None
        (T, N): where False a step keeps the states and its output is zero.
    backward : bool
        Whether time runs from the end to the start.
    record : bool
        Whether `Sweep.pull` is wanted.
    """
    _, length, batch = inputs.shape
    step: Step = STEPS[mode](weights[1], weights[3], length if record else 0, batch)
    bias = weights[2] + weights[3] if step.bias_joins_inputs else weights[2]
    gate_inputs = (weights[0] @ _flat(inputs)).reshape(step.rows, length, batch)
    gate_inputs += bias[:, None, None]
    order = range(length)[::-1] if backward else range(length)
    outputs, final = _run(step, gate_inputs, [state.copy() for state in states], mask, order)
    pull = _pullback(step, weights, inputs, states[0], outputs, mask, order) if record else None
    if mask is not None:
        outputs = np.where(mask, outputs, 0)
    return Sweep(outputs, final, pull)


def _run(
    step: Step, gate_inputs: Array, states: list[Array], mask: Array | None, order: range
) -> tuple[Array, list[Array]]:
    """Return h after every step, (H, T, N), where a masked step repeats it, and the final states."""
    outputs = np.empty((step.hidden, *gate_inputs.shape[1:]), gate_inputs.dtype)
    new = [np.empty_like(state) for state in states]
    for time in order:
        step.forward(time, gate_inputs[:, time], states, new)
        if mask is None:
            states, new = new, states
        else:
            for state, fresh in zip(states, new, strict=True):
                np.copyto(state, fresh, where=mask[time])
        outputs[:, time] = states[0]
    return outputs, states


def _pullback(
    step: Step,
    weights: LayerWeights,
    inputs: Array,
    first: Array,
    hidden: Array,
    mask: Array | None,
    order: range,
) -> Callable[[Array, list[Array]], tuple[Array, list[Array], list[Array]]]:
    def pull(of_outputs: Array, of_states: list[Array]) -> tuple[Array, list[Array], list[Array]]:
        of_inputs, of_recurrent, of_first = _gate_gradients(step, of_outputs, list(of_states), mask, order)
        before = _shifted(hidden, first, order)
        of_weights = [
            _flat(of_inputs) @ _flat(inputs).T,
            _flat(of_recurrent) @ _flat(before).T,
            of_inputs.sum((1, 2)),
            of_recurrent.sum((1, 2)),
        ]
        return (weights[0].T @ _flat(of_inputs)).reshape(inputs.shape), of_first, of_weights

    return pull


def _gate_gradients(
    step: Step, of_outputs: Array, gradients: list[Array], mask: Array | None, order: range
) -> tuple[Array, Array, list[Array]]:
    """Return the gradients of the gates' two shares, (G*H, T, N) each, and of the states before the first step."""
    _, length, batch = of_outputs.shape
    of_inputs = np.zeros((step.rows, length, batch), step.dtype)
    of_recurrent = of_inputs if step.bias_joins_inputs else np.zeros_like(of_inputs)
    for time in order[::-1]:
        if mask is None:
            gradients[0] = gradients[0] + of_outputs[:, time]
            held = None
        else:
            gradients[0] = gradients[0] + np.where(mask[time], of_outputs[:, time], 0)
            held = [np.where(mask[time], 0, gradient) for gradient in gradients]
            gradients = [np.where(mask[time], gradient, 0) for gradient in gradients]
        step.backward(time, gradients, of_inputs[:, time], of_recurrent[:, time])
        gradients[0] = gradients[0] + step.weight.T @ of_recurrent[:, time]
        if held is not None:
            gradients = [gradient + kept for gradient, kept in zip(gradients, held, strict=True)]
    return of_inputs, of_recurrent, gradients


def _shifted(hidden: Array, first: Array, order: range) -> Array:
    """Return h before every step: h after the step taken before it, and `first` before the first."""
    before = np.empty_like(hidden)
    if order.step > 0:
        before[:, 1:], before[:, 0] = hidden[:, :-1], first
    else:
        before[:, :-1], before[:, -1] = hidden[:, 1:], first
    return before


def _flat(array: Array) -> Array:
    return array.reshape(array.shape[0], -1)

"""One layer in one direction, forward and backward.

TensorFlow derives the gradient of a loop step by step, with a product for each weight at every step. Here it is written
out: the loop keeps only what depends on the step beside it, and a weight's gradient is one product over all steps.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from rnnx_tensorflow.loops import downwards, piece, pieces, room, upwards
from rnnx_tensorflow.steps import STEPS, Step

__all__ = ["Keep", "Trace", "sweep"]

Tensor = Any

#: Steps up to which the weights are not worth transposing beforehand.
FEW = 2


class Keep(enum.IntEnum):
    """What is kept of every step."""

    #: h: there will be no gradient.
    OUTPUTS = 0
    #: All states; the gradient makes the gates again, from them and the inputs.
    STATES = 1
    #: The gates as well.
    GATES = 2


@dataclasses.dataclass(frozen=True)
class Trace:
    """What is kept of a sweep: the states after each step, each (T, N, H), and what `Step.mix` made at each."""

    after: list[Tensor]
    mixed: list[Tensor]


def sweep(
    mode: str,
    weights: Sequence[Tensor],
    inputs: Tensor,
    states: Sequence[Tensor],
    mask: Tensor | None,
    keep: Keep,
    done: Trace | None = None,
) -> tuple[Tensor, list[Tensor], Trace]:
    """Run one layer in one direction.

    Parameters
    ----------
    mode : str
        Of `rnnx.spec.GATES`.
    weights : sequence of Tensor
        ``i2h_weight (G*H, I)``, ``h2h_weight (G*H, H)``, ``i2h_bias (G*H,)``, ``h2h_bias (G*H,)``.
    inputs : Tensor
        (T, N, I).
    states : sequence of Tensor
        h, or h and c, each (N, H).
    mask : Tensor or None
        (T, N, 1), true where a step counts. A step that does not count changes no state.
    keep : Keep
        What is kept for the gradient.
    done : Trace, optional
        Of the same sweep, run before: only its gradient is wanted.

    Returns
    -------
    hidden : Tensor
        (T, N, H), h after each step.
    states : list of Tensor
        The states after the last step.
    trace : Trace
        To be given as `done`.
    """
    count, traces = len(states), []

    def run(inputs: Tensor, *arrays: Tensor) -> tuple[tuple[Tensor, ...], Callable[..., Any]]:
        layer = _Layer(STEPS[mode], inputs, list(arrays[:count]), mask, *arrays[count:])
        trace, finals = _forward(layer, keep) if done is None else (done, [each[-1] for each in done.after])
        traces.append(trace)

        def pullback(hidden: Tensor, *finals: Tensor) -> list[Tensor]:
            return _backward(layer, trace, hidden, list(finals))

        return (trace.after[0], *finals), pullback

    arrays = (inputs, *states, *weights)
    hidden, *finals = run(*arrays)[0] if keep == Keep.OUTPUTS else tf.custom_gradient(run)(*arrays)
    return hidden, finals, traces[0]


@dataclasses.dataclass(frozen=True)
class _Layer:
    """What `sweep` is given."""

    step: Step
    inputs: Tensor
    states: list[Tensor]
    mask: Tensor | None
    x_weight: Tensor
    h_weight: Tensor
    x_bias: Tensor
    h_bias: Tensor

    @property
    def hidden(self) -> int:
        return int(self.h_weight.shape[1])

    def shares(self) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        """Return the functions that make the gates' two shares, of inputs (..., I) and of h (..., H)."""
        few = self.inputs.shape[0] is not None and self.inputs.shape[0] <= FEW
        if self.step.shares_add:
            return _affine(self.x_weight, self.x_bias + self.h_bias, few), _affine(self.h_weight, None, few)
        return _affine(self.x_weight, self.x_bias, few), _affine(self.h_weight, self.h_bias, few)

    def counts(self, time: Tensor, number: int) -> list[Tensor | None]:
        """Return which rows each of these steps counts in."""
        return [None] * number if self.mask is None else pieces(self.mask, time, number)

    def room(self, widths: Sequence[int]) -> list[Any]:
        """Return room for arrays of every step, of these widths in multiples of H."""
        return room(self.inputs, self.states[0].shape[0], [self.hidden * width for width in widths])


def _affine(weight: Tensor, bias: Tensor | None, few: bool) -> Callable[[Tensor], Tensor]:
    turned = weight if few else tf.transpose(weight)

    def apply(array: Tensor) -> Tensor:
        product = tf.matmul(_rows(array), turned, transpose_b=few)
        product = product if bias is None else tf.nn.bias_add(product, bias)
        return product if len(array.shape) == 2 else tf.reshape(product, [*_sizes(array)[:-1], weight.shape[0]])

    return apply


def _forward(layer: _Layer, keep: Keep) -> tuple[Trace, list[Tensor]]:
    """Return what is kept of each step, and the last states."""
    step, count = layer.step, len(layer.states)
    x_share, h_share = layer.shares()
    x_shares = _by_step(x_share, layer.inputs)
    widths = [1] * (1 if keep == Keep.OUTPUTS else count) + (list(step.mixed) if keep == Keep.GATES else [])

    def turn(time: Tensor, number: int, carry: list[Any]) -> list[Any]:
        states, written = carry[:count], carry[count:]
        shares, counts = x_shares(time, number), layer.counts(time, number)
        for offset in range(number):
            mixed = step.mix(shares[offset], h_share(states[0]))
            states = _chosen(counts[offset], step.forward(mixed, states), states)
            values = states[:1] if keep == Keep.OUTPUTS else [*states, *mixed]
            written = [array.write(time + offset, value) for array, value in zip(written, values, strict=False)]
        return [*states, *written]

    carry = upwards(layer.inputs, turn, [*layer.states, *layer.room(widths)])
    found = [array.stack() for array in carry[count:]]
    return Trace(found[:count], found[count:]), carry[:count]


def _by_step(x_share: Callable[[Tensor], Tensor], inputs: Tensor) -> Callable[[Tensor, int], list[Tensor]]:
    """Return the function that returns the inputs' share of several steps, one by one.

    One product of all steps would be the fastest, but what it makes is large and leaves the processor's caches: it is
    for a row alone. For several, each turn makes its own.
    """
    if inputs.shape[1] == 1:
        shares = x_share(inputs)
        return lambda time, number: pieces(shares, time, number)
    return lambda time, number: tf.split(x_share(_rows(piece(inputs, time, number))), number)


def _backward(layer: _Layer, trace: Trace, hidden: Tensor, finals: list[Tensor]) -> list[Tensor]:
    """Return the gradients of inputs, states and weights, given those of h after each step and of the last states."""
    step, count = layer.step, len(layer.states)
    before = [tf.concat([first[None], each[:-1]], 0) for first, each in zip(layer.states, trace.after, strict=True)]
    factors = _factors(layer, trace, before)

    def turn(time: Tensor, number: int, carry: list[Any]) -> list[Any]:
        gradients, written = carry[:count], carry[count]
        mine, arriving, counts = factors(time, number), pieces(hidden, time, number), layer.counts(time, number)
        for offset in reversed(range(number)):
            gradients = [gradients[0] + arriving[offset], *gradients[1:]]
            kept, gradients = _step_back(layer, mine[offset], gradients, counts[offset])
            written = written.write(time + offset, kept)
        return [*gradients, written]

    *gradients, written = downwards(layer.inputs, turn, [*finals, *layer.room([step.kept])])
    of_x, of_h = map(_rows, step.shares(written.stack()))
    of_inputs = tf.reshape(tf.matmul(of_x, layer.x_weight), tf.shape(layer.inputs))
    read = [_rows(layer.inputs), _rows(before[0])]
    weights = [tf.matmul(of, each, transpose_a=True) for of, each in zip((of_x, of_h), read, strict=True)]
    return [of_inputs, *gradients, *weights, tf.reduce_sum(of_x, 0), tf.reduce_sum(of_h, 0)]


def _factors(layer: _Layer, trace: Trace, before: list[Tensor]) -> Callable[[Tensor, int], list[tuple[Tensor, ...]]]:
    """Return the function that makes the factors of several steps at once, and returns those of each."""
    x_share, h_share = layer.shares()

    def make(time: Tensor, number: int) -> list[tuple[Tensor, ...]]:
        old, new, mixed = (
            [piece(each, time, number) for each in arrays] for arrays in (before, trace.after, trace.mixed)
        )
        mixed = mixed or layer.step.mix(x_share(piece(layer.inputs, time, number)), h_share(old[0]))
        return list(zip(*(tf.unstack(each, number) for each in layer.step.factors(mixed, old, new)), strict=True))

    return make


def _step_back(
    layer: _Layer, factors: Sequence[Tensor], gradients: list[Tensor], counts: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """Return what a step leaves for the weights' gradients, and the gradients of the states before it."""
    zero = tf.zeros([], gradients[0].dtype)
    live = gradients if counts is None else [tf.where(counts, each, zero) for each in gradients]
    kept, of_h, others = layer.step.backward(factors, live)
    found = [tf.matmul(of_h, layer.h_weight), *[None] * (len(gradients) - 1)]
    found = [_sum(one, other) for one, other in zip(found, others, strict=True)]
    if counts is not None:
        found = [each + tf.where(counts, zero, past) for each, past in zip(found, gradients, strict=True)]
    return kept, found


def _chosen(counts: Tensor | None, new: list[Tensor], old: list[Tensor]) -> list[Tensor]:
    """Return the new states in the rows that count and the old ones in the others."""
    if counts is None:
        return new
    return [tf.where(counts, after, before) for after, before in zip(new, old, strict=True)]


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor:
    return other if one is None else one if other is None else one + other


def _rows(array: Tensor) -> Tensor:
    """Return (..., C) with all axes but the last made one."""
    return array if len(array.shape) == 2 else tf.reshape(array, [-1, array.shape[-1]])


def _sizes(array: Tensor) -> list[Any]:
    dynamic = tf.shape(array)
    return [dynamic[axis] if size is None else size for axis, size in enumerate(array.shape)]

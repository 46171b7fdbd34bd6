"""Fused recurrences: one `jax.lax.scan` for each layer and direction.

One layer in one direction is compiled once for each mode and shape, and stacks of layers share it. The equations are
those of `rnnx.LSTMCell`, `rnnx.GRUCell` and `rnnx.RNNCell`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import relu, sigmoid

from rnnx.backend import Backend, Recurrence
from rnnx.ops import Ops

__all__ = ["run_kernel"]

#: A layer's weights in one direction: ``i2h_weight, h2h_weight, i2h_bias, h2h_bias``.
Layer = tuple[Array, Array, Array, Array]

#: Takes the gates' shares of the inputs and of h, each (N, G*H), and the states; returns the new states, h first.
Equation = Callable[[Array, Array, list[Array]], list[Array]]


def run_kernel(
    ops: Backend,
    recurrence: Recurrence,
    layers: Sequence[Layer],
    inputs: Array,
    states: Sequence[Array],
    valid_length: Array | None,
    seeds: Sequence[Any],
) -> tuple[Array, list[Array]]:
    """Run a recurrence; see `rnnx.backend.Backend.run`."""
    mask = None if valid_length is None else ops.steps_before(valid_length, inputs.shape[0])
    between, before = Ops(ops, bool(seeds), iter(seeds)), list(zip(*map(ops.unstack, states), strict=True))
    finals = []
    for layer in range(recurrence.num_layers):
        if layer:
            inputs = between.dropout(inputs, recurrence.dropout)
        sides = []
        for direction in range(recurrence.directions):
            place = layer * recurrence.directions + direction
            sides.append(_sweep(ops, recurrence.mode, direction == 1, layers[place], inputs, before[place], mask))
        inputs = ops.concat([outputs for outputs, _ in sides])
        finals += [after for _, after in sides]
    return inputs, [ops.stack(parts) for parts in zip(*finals, strict=True)]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _sweep(
    ops: Backend, mode: str, backward: bool, layer: Layer, inputs: Array, states: Sequence[Array], mask: Array | None
) -> tuple[Array, list[Array]]:
    """Step through (T, N, I) from either end; a step that does not count keeps every state, and its output is 0."""
    i2h_weight, h2h_weight, i2h_bias, h2h_bias = layer
    shares = ops.affine(inputs, i2h_weight, i2h_bias)  # those of all steps in one product

    def advance(before: list[Array], given: tuple[Array, Array | None]) -> tuple[list[Array], Array]:
        share, counts = given
        after = EQUATIONS[mode](share, ops.affine(before[0], h2h_weight, h2h_bias), before)
        if counts is None:
            return after, after[0]
        rows = counts[:, None]
        return [jnp.where(rows, new, old) for new, old in zip(after, before, strict=True)], jnp.where(rows, after[0], 0)

    final, outputs = jax.lax.scan(advance, list(states), (shares, mask), reverse=backward)
    return outputs, final


def _lstm(i2h: Array, h2h: Array, states: list[Array]) -> list[Array]:
    i, f, c, o = jnp.split(i2h + h2h, 4, -1)
    cell = sigmoid(f) * states[1] + sigmoid(i) * jnp.tanh(c)
    return [sigmoid(o) * jnp.tanh(cell), cell]


def _gru(i2h: Array, h2h: Array, states: list[Array]) -> list[Array]:
    (i2h_r, i2h_z, i2h_o), (h2h_r, h2h_z, h2h_o) = jnp.split(i2h, 3, -1), jnp.split(h2h, 3, -1)
    update = sigmoid(i2h_z + h2h_z)
    return [(1 - update) * jnp.tanh(i2h_o + sigmoid(i2h_r + h2h_r) * h2h_o) + update * states[0]]


#: The equation of each mode.
EQUATIONS: Mapping[str, Equation] = {
    "lstm": _lstm,
    "gru": _gru,
    "rnn_tanh": lambda i2h, h2h, states: [jnp.tanh(i2h + h2h)],
    "rnn_relu": lambda i2h, h2h, states: [relu(i2h + h2h)],
}

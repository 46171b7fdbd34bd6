"""Cells as users write them, with the equations that the reference has for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rnnx.cells import BaseRNNCell
from rnnx.conformance import reference
from rnnx.conformance.equations import Array, States, Weights
from rnnx.ops import Ops, Step

__all__ = ["PeepholeLSTM", "Stacker", "peephole", "stacker"]


class PeepholeLSTM(BaseRNNCell):
    r"""An LSTM whose gates see the cell state (Gers and Schmidhuber, 2000).

    .. math:: i = \sigma(a_i + p_i c), \quad f = \sigma(a_f + p_f c), \quad c' = f c + i \tanh(a_c), \quad
              o = \sigma(a_o + p_o c'), \quad h' = o \tanh(c')

    Parameters
    ----------
    num_hidden : int
        H, the number of units.
    prefix : str
        Put before the weights' names.
    """

    def __init__(self, num_hidden: int, prefix: str = "peephole_") -> None:
        super().__init__(prefix)
        self.num_hidden = num_hidden
        self.params.get("i2h_weight", shape=(4 * num_hidden, 0))
        self.params.get("h2h_weight", shape=(4 * num_hidden, num_hidden))
        self.params.get("i2h_bias", shape=(4 * num_hidden,))
        self.params.get("h2h_bias", shape=(4 * num_hidden,))
        self.params.get("peephole_weight", shape=(3, num_hidden))

    @property
    def state_info(self) -> list[dict[str, Any]]:
        """Two states, h and c."""
        return [{"shape": (0, self.num_hidden)}] * 2

    def step(self, ops: Ops, weights: Any, inputs: Any, states: list[Any]) -> Step:
        """Return h' and [h', c']."""
        hidden, cell = states
        gates = ops.affine(inputs, weights["i2h_weight"], weights["i2h_bias"])
        gates = gates + ops.affine(hidden, weights["h2h_weight"], weights["h2h_bias"])
        i, f, c, o = ops.split(gates, 4)
        see_i, see_f, see_o = ops.split(weights["peephole_weight"], 3, 0)
        cell = ops.sigmoid(f + see_f * cell) * cell + ops.sigmoid(i + see_i * cell) * ops.tanh(c)
        hidden = ops.sigmoid(o + see_o * cell) * ops.tanh(cell)
        return hidden, [hidden, cell]


class Stacker(BaseRNNCell):
    r"""Takes nearly every operation there is, and gives out more than it carries.

    .. math:: h' = d h + W x, \qquad y = [\max(h', 0) - 2,\; (1 - h') / (2 + \log(1 + e^{-x}))_1,\; x]

    Its one state h is H wide, its outputs 2 H + I.
    """

    def __init__(self, num_hidden: int, prefix: str = "stacker_") -> None:
        super().__init__(prefix)
        self.num_hidden = num_hidden
        self.params.get("weight", shape=(num_hidden, 0))
        self.params.get("decay", shape=(num_hidden,))

    @property
    def state_info(self) -> list[dict[str, Any]]:
        """One state, h."""
        return [{"shape": (0, self.num_hidden)}]

    def output_size(self, input_size: int) -> int:
        """Return 2 H + I."""
        return 2 * self.num_hidden + input_size

    def step(self, ops: Ops, weights: Any, inputs: Any, states: list[Any]) -> Step:
        """Return y and [h']."""
        hidden = weights["decay"] * states[0] + ops.affine(inputs, weights["weight"], None)
        first = ops.split(inputs, (1, inputs.shape[1] - 1))[0]
        quotient = (1.0 - hidden) / (2.0 + ops.softplus(-first))
        return ops.concat([ops.relu(hidden) - 2.0, quotient, inputs]), [hidden]


def peephole(weights: Weights) -> reference.Network:
    """Return the reference's network of a `PeepholeLSTM`, given its weights by their full names."""
    return reference.cell("peephole", {name.removeprefix("peephole_"): weight for name, weight in weights.items()})


def stacker(weights: Weights) -> reference.Network:
    """Return the network of a `Stacker`, given its weights by their full names."""
    weight, decay = weights["stacker_weight"], weights["stacker_decay"]

    def network(inputs: Array, begin: Iterator[Array] | None, lengths: Sequence[int]) -> tuple[Array, States]:
        batch, steps, width = inputs.shape
        kind = np.result_type(inputs, weight, decay, np.float64)
        first = np.zeros((batch, len(decay))) if begin is None else next(begin)
        state = np.array(first, np.result_type(kind, first))
        outputs = np.zeros((batch, steps, 2 * len(decay) + width), state.dtype)
        for row, length in enumerate(lengths):
            for time in range(length):
                x = inputs[row, time]
                h = state[row] = decay * state[row] + weight @ x
                outputs[row, time] = np.concatenate(
                    [np.where(h.real < 0, 0, h) - 2, (1 - h) / (2 + np.log(1 + np.exp(-x[:1]))), x]
                )
        return outputs, [state]

    return network

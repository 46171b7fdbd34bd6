"""One step of each mode, forward and backward, on feature-major arrays (features, N), without allocating.

A step object belongs to one layer in one direction and one call. It owns the scratch that its steps work in and, if
gradients are wanted, what the backward pass needs of every step.

Gates stand in rows, so that each is one contiguous block and one product gives them all. A sigmoid is written as
``0.5 * tanh(0.5 * x) + 0.5``, so that one ``tanh`` over all gates serves those that are sigmoids as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["STEPS", "GruStep", "LstmStep", "RnnStep", "Step"]

Array = npt.NDArray[Any]


class Step:
    """Base of the steps.

    Parameters
    ----------
    weight : array
        ``h2h_weight`` (G*H, H).
    bias : array
        ``h2h_bias`` (G*H,).
    length : int
        T if the backward pass is wanted, 0 otherwise.
    batch : int
        N, the batch size.
    """

    #: Whether the recurrent bias is added to the inputs' share before the loop, rather than within the step.
    bias_joins_inputs = True

    def __init__(self, weight: Array, bias: Array, length: int, batch: int) -> None:
        self.weight = weight
        self.bias = bias[:, None]
        self.rows, self.hidden = weight.shape
        self.length, self.batch, self.dtype = length, batch, weight.dtype
        self.gates = np.empty((self.rows, batch), self.dtype)
        self.scratch = np.empty((self.hidden, batch), self.dtype)

    def forward(self, time: int, gate_inputs: Array, states: Sequence[Array], new: Sequence[Array]) -> None:
        """Write the states after the step into `new`; `gate_inputs` (G*H, N) is the inputs' share of the gates."""
        raise NotImplementedError

    def backward(self, time: int, gradients: list[Array], of_inputs: Array, of_recurrent: Array) -> None:
        """Turn the gradients of the states after the step into those before it.

        The gradients of the gates' two shares are written into `of_inputs` and `of_recurrent`, (G*H, N); they are the
        same array where the shares are only added. What flows through the recurrent product is left to the caller.
        """
        raise NotImplementedError

    def _kept(self, rows: int) -> Array:
        """Return room for `rows` features of every step."""
        return np.empty((self.length, rows, self.batch), self.dtype)

    def _column(self, values: Sequence[float]) -> Array:
        """Return one value a gate as a column over all rows."""
        return np.repeat(np.asarray(values, self.dtype), self.hidden)[:, None]


class RnnStep(Step):
    """h' = act(a), act = tanh or relu; a is the sum of both shares."""

    def __init__(self, weight: Array, bias: Array, length: int, batch: int, relu: bool) -> None:
        super().__init__(weight, bias, length, batch)
        self.relu = relu
        self.outputs = self._kept(self.hidden)

    def forward(self, time: int, gate_inputs: Array, states: Sequence[Array], new: Sequence[Array]) -> None:
        """See `Step.forward`."""
        np.matmul(self.weight, states[0], out=self.gates)
        np.add(self.gates, gate_inputs, out=self.gates)
        if self.relu:
            np.maximum(self.gates, 0, out=new[0])
        else:
            np.tanh(self.gates, out=new[0])
        if self.length:
            self.outputs[time] = new[0]

    def backward(self, time: int, gradients: list[Array], of_inputs: Array, of_recurrent: Array) -> None:
        """See `Step.backward`."""
        output = self.outputs[time]
        slope = (output > 0) if self.relu else 1 - output * output
        np.multiply(gradients[0], slope, out=of_inputs)
        gradients[0] = np.zeros_like(output)


class LstmStep(Step):
    """c' = s(f) c + s(i) tanh(c), h' = s(o) tanh(c'), of gates i, f, c, o."""

    def __init__(self, weight: Array, bias: Array, length: int, batch: int) -> None:
        super().__init__(weight, bias, length, batch)
        self.scale = self._column((0.5, 0.5, 1.0, 0.5))
        self.shift = self._column((0.5, 0.5, 0.0, 0.5))
        self.activated = self._kept(self.rows)
        self.cells_before = self._kept(self.hidden)
        self.squashed = self._kept(self.hidden)

    def forward(self, time: int, gate_inputs: Array, states: Sequence[Array], new: Sequence[Array]) -> None:
        """See `Step.forward`."""
        gates, hidden = self.gates, self.hidden
        np.matmul(self.weight, states[0], out=gates)
        np.add(gates, gate_inputs, out=gates)
        np.multiply(gates, self.scale, out=gates)
        np.tanh(gates, out=gates)
        np.multiply(gates, self.scale, out=gates)
        np.add(gates, self.shift, out=gates)
        i, f, c, o = gates[:hidden], gates[hidden : 2 * hidden], gates[2 * hidden : 3 * hidden], gates[3 * hidden :]
        np.multiply(f, states[1], out=new[1])
        np.multiply(i, c, out=self.scratch)
        np.add(new[1], self.scratch, out=new[1])
        np.tanh(new[1], out=self.scratch)
        np.multiply(o, self.scratch, out=new[0])
        if self.length:
            self.activated[time], self.cells_before[time], self.squashed[time] = gates, states[1], self.scratch

    def backward(self, time: int, gradients: list[Array], of_inputs: Array, of_recurrent: Array) -> None:
        """See `Step.backward`."""
        hidden, squashed = self.hidden, self.squashed[time]
        i, f, c, o = np.split(self.activated[time], 4)
        of_output, of_cell = gradients
        of_cell = of_cell + of_output * o * (1 - squashed * squashed)
        np.multiply(of_cell * c, i * (1 - i), out=of_inputs[:hidden])
        np.multiply(of_cell * self.cells_before[time], f * (1 - f), out=of_inputs[hidden : 2 * hidden])
        np.multiply(of_cell * i, 1 - c * c, out=of_inputs[2 * hidden : 3 * hidden])
        np.multiply(of_output * squashed, o * (1 - o), out=of_inputs[3 * hidden :])
        gradients[:] = [np.zeros_like(of_output), of_cell * f]


class GruStep(Step):
    """n = tanh(a_o + s(r) g_o), h' = (1 - s(z)) n + s(z) h, of gates r, z, o; a of the inputs, g recurrent."""

    bias_joins_inputs = False

    def __init__(self, weight: Array, bias: Array, length: int, batch: int) -> None:
        super().__init__(weight, bias, length, batch)
        self.activated = self._kept(self.rows)
        self.candidates = self._kept(self.hidden)
        self.before = self._kept(self.hidden)

    def forward(self, time: int, gate_inputs: Array, states: Sequence[Array], new: Sequence[Array]) -> None:
        """See `Step.forward`."""
        gates, both = self.gates, 2 * self.hidden
        np.matmul(self.weight, states[0], out=gates)
        np.add(gates, self.bias, out=gates)
        np.add(gates[:both], gate_inputs[:both], out=gates[:both])
        _sigmoid(gates[:both])
        r, z, recurrent = gates[: self.hidden], gates[self.hidden : both], gates[both:]
        if self.length:
            self.candidates[time], self.before[time] = recurrent, states[0]
        n = np.multiply(r, recurrent, out=recurrent)
        np.add(n, gate_inputs[both:], out=n)
        np.tanh(n, out=n)
        np.subtract(states[0], n, out=self.scratch)
        np.multiply(self.scratch, z, out=self.scratch)
        np.add(n, self.scratch, out=new[0])
        if self.length:
            self.activated[time] = gates

    def backward(self, time: int, gradients: list[Array], of_inputs: Array, of_recurrent: Array) -> None:
        """See `Step.backward`."""
        hidden, both = self.hidden, 2 * self.hidden
        r, z, n = np.split(self.activated[time], 3)
        of_output = gradients[0]
        of_sum = of_output * (1 - z) * (1 - n * n)
        np.multiply(of_sum * self.candidates[time], r * (1 - r), out=of_inputs[:hidden])
        np.multiply(of_output * (self.before[time] - n), z * (1 - z), out=of_inputs[hidden:both])
        of_inputs[both:] = of_sum
        of_recurrent[:both] = of_inputs[:both]
        np.multiply(of_sum, r, out=of_recurrent[both:])
        gradients[0] = of_output * z


def _sigmoid(array: Array) -> None:
    np.multiply(array, 0.5, out=array)
    np.tanh(array, out=array)
    np.multiply(array, 0.5, out=array)
    np.add(array, 0.5, out=array)


def _rnn(relu: bool) -> Any:
    return lambda weight, bias, length, batch: RnnStep(weight, bias, length, batch, relu)


#: What makes the step of each mode.
STEPS: dict[str, Any] = {"lstm": LstmStep, "gru": GruStep, "rnn_tanh": _rnn(False), "rnn_relu": _rnn(True)}

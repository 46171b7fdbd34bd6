"""One step of each mode, forward and backward, as element-wise operations of TensorFlow.

A step takes the two shares of its gates side by side, ``x = W_x x_t + b_x`` and ``h = W_h h_{t-1} + b_h``. What is
element-wise may be done for one step, (N, ...), or for several at once, (K, N, ...): so the gradient of K steps
prepares all of its factors in one go, and only what depends on the step after is done one by one.

The equations are those of `rnnx.LSTMCell`, `rnnx.GRUCell` and `rnnx.RNNCell`.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

__all__ = ["STEPS", "Step"]

Tensor = Any


class Step(abc.ABC):
    """Base of the steps."""

    #: Whether the two shares are only added, so that both biases may be added to the inputs' share.
    shares_add = True

    #: Widths of what `mix` returns, in multiples of H.
    mixed: tuple[int, ...] = (1,)

    #: Width of what `backward` keeps, in multiples of H.
    kept = 1

    @abc.abstractmethod
    def mix(self, x: Tensor, h: Tensor) -> list[Tensor]:
        """Return what the step and its gradient need of the two shares."""

    @abc.abstractmethod
    def forward(self, mixed: Sequence[Tensor], states: Sequence[Tensor]) -> list[Tensor]:
        """Return the states after the step."""

    @abc.abstractmethod
    def factors(self, mixed: Sequence[Tensor], before: Sequence[Tensor], after: Sequence[Tensor]) -> list[Tensor]:
        """Return what `backward` multiplies gradients with."""

    @abc.abstractmethod
    def backward(
        self, factors: Sequence[Tensor], gradients: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """Turn the gradients of the states after the step into those before it.

        Returns
        -------
        kept : Tensor
            What `shares` makes the gradients of both shares of.
        of_h : Tensor
            The gradient of h, which is still to be multiplied by W_h.
        gradients : list of Tensor or None
            What else reaches the states before.
        """

    def shares(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of x and of h; one and the same where the shares are added."""
        return kept, kept


class LSTMStep(Step):
    """c' = f c + i g, h' = o tanh(c'), with i, f, o = sigmoid and g = tanh of the gates."""

    mixed = (4,)
    kept = 4

    def mix(self, x: Tensor, h: Tensor) -> list[Tensor]:
        """See `Step.mix`."""
        return [x + h]

    def forward(self, mixed: Sequence[Tensor], states: Sequence[Tensor]) -> list[Tensor]:
        """See `Step.forward`."""
        i, f, g, o = tf.split(mixed[0], 4, -1)
        cell = tf.sigmoid(f) * states[1] + tf.sigmoid(i) * tf.tanh(g)
        return [tf.sigmoid(o) * tf.tanh(cell), cell]

    def factors(self, mixed: Sequence[Tensor], before: Sequence[Tensor], after: Sequence[Tensor]) -> list[Tensor]:
        """See `Step.factors`; ``dc' += dh o (1 - tanh(c')^2)`` and every gate's own derivative."""
        i, f, g, o = tf.split(mixed[0], 4, -1)
        i, f, g, o = tf.sigmoid(i), tf.sigmoid(f), tf.tanh(g), tf.sigmoid(o)
        seen = tf.tanh(after[1])
        gates = [g * i * (1 - i), before[1] * f * (1 - f), i * (1 - g * g), seen * o * (1 - o)]
        return [tf.concat(gates, -1), o * (1 - seen * seen), f]

    def backward(
        self, factors: Sequence[Tensor], gradients: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """See `Step.backward`."""
        gates, through, f = factors
        hidden = gradients[0]
        cell = gradients[1] + hidden * through
        both = gates * tf.concat([cell, cell, cell, hidden], -1)
        return both, both, [None, cell * f]


class GRUStep(Step):
    """h' = (1 - z) n + z h, with r, z = sigmoid and n = tanh(x_n + r h_n) of the gates."""

    shares_add = False
    mixed = (2, 1, 1)
    kept = 4

    def mix(self, x: Tensor, h: Tensor) -> list[Tensor]:
        """See `Step.mix`."""
        hidden = h.shape[-1] // 3
        x_gates, x_new = tf.split(x, [2 * hidden, hidden], -1)
        h_gates, h_new = tf.split(h, [2 * hidden, hidden], -1)
        return [x_gates + h_gates, x_new, h_new]

    def forward(self, mixed: Sequence[Tensor], states: Sequence[Tensor]) -> list[Tensor]:
        """See `Step.forward`."""
        r, z = tf.split(tf.sigmoid(mixed[0]), 2, -1)
        new = tf.tanh(mixed[1] + r * mixed[2])
        return [new + z * (states[0] - new)]

    def factors(self, mixed: Sequence[Tensor], before: Sequence[Tensor], after: Sequence[Tensor]) -> list[Tensor]:
        """See `Step.factors`."""
        r, z = tf.split(tf.sigmoid(mixed[0]), 2, -1)
        new = tf.tanh(mixed[1] + r * mixed[2])
        of_new = (1 - z) * (1 - new * new)
        gates = [of_new * mixed[2] * r * (1 - r), (before[0] - new) * z * (1 - z), of_new * r, of_new]
        return [tf.concat(gates, -1), z]

    def backward(
        self, factors: Sequence[Tensor], gradients: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """See `Step.backward`."""
        gates, z = factors
        hidden = gradients[0]
        kept = gates * tf.concat([hidden] * 4, -1)
        return kept, self.shares(kept)[1], [hidden * z]

    def shares(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """See `Step.shares`; of r, of z, of h_n and of x_n stand side by side."""
        hidden = kept.shape[-1] // 4
        return tf.concat([kept[..., : 2 * hidden], kept[..., 3 * hidden :]], -1), kept[..., : 3 * hidden]


class RNNStep(Step):
    """h' = act(x + h), act = tanh or relu."""

    def __init__(self, relu: bool) -> None:
        self._relu = relu

    def mix(self, x: Tensor, h: Tensor) -> list[Tensor]:
        """See `Step.mix`."""
        return [x + h]

    def forward(self, mixed: Sequence[Tensor], states: Sequence[Tensor]) -> list[Tensor]:
        """See `Step.forward`."""
        return [tf.nn.relu(mixed[0]) if self._relu else tf.tanh(mixed[0])]

    def factors(self, mixed: Sequence[Tensor], before: Sequence[Tensor], after: Sequence[Tensor]) -> list[Tensor]:
        """See `Step.factors`."""
        hidden = after[0]
        return [tf.cast(hidden > 0, hidden.dtype) if self._relu else 1 - hidden * hidden]

    def backward(
        self, factors: Sequence[Tensor], gradients: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """See `Step.backward`."""
        both = factors[0] * gradients[0]
        return both, both, [None]


#: The step of each mode.
STEPS: dict[str, Step] = {
    "lstm": LSTMStep(),
    "gru": GRUStep(),
    "rnn_tanh": RNNStep(relu=False),
    "rnn_relu": RNNStep(relu=True),
}

"""The plain cells: `RNNCell`, `LSTMCell`, `LSTMPCell`, `GRUCell`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rnnx.backend import Array, Recurrence
from rnnx.cells.base import BaseRNNCell
from rnnx.checks import finite, whole
from rnnx.errors import UnsupportedError, nearest
from rnnx.initializers import Initializer, LSTMBias
from rnnx.ops import Ops, Step, Weights
from rnnx.params import RNNParams
from rnnx.spec import GATES

if TYPE_CHECKING:
    from rnnx.plan import Planner
    from rnnx.stages import Stage

__all__ = ["ACTIVATIONS", "GRUCell", "LSTMCell", "LSTMPCell", "RNNCell"]

Activation = Callable[[Ops, Array], Array]

#: The activations that MXNet's ``Activation`` operator takes by name (``src/operator/nn/activation-inl.h``, 1.9.1).
ACTIVATIONS: dict[str, Activation] = {
    "relu": lambda ops, x: ops.relu(x),
    "sigmoid": lambda ops, x: ops.sigmoid(x),
    "tanh": lambda ops, x: ops.tanh(x),
    "softrelu": lambda ops, x: ops.softplus(x),
    "softsign": lambda ops, x: x / (1.0 + ops.relu(x) + ops.relu(-x)),
}


class _PlainCell(BaseRNNCell):
    """A cell of G gates with ``i2h`` and ``h2h`` weights, and the mode of the fused kernel that equals it, if any."""

    def __init__(
        self,
        num_hidden: int,
        gates: Sequence[str],
        prefix: str,
        params: RNNParams | None,
        i2h_bias: Initializer | None = None,
        num_outputs: int | None = None,
    ) -> None:
        super().__init__(prefix, params)
        self._num_hidden = whole("num_hidden", num_hidden)
        self._gates = gates
        rows = len(gates) * self._num_hidden
        self._params.get("i2h_weight", shape=(rows, 0))
        self._params.get("i2h_bias", shape=(rows,), init=i2h_bias)
        self._params.get("h2h_weight", shape=(rows, num_outputs or self._num_hidden))
        self._params.get("h2h_bias", shape=(rows,))

    @property
    def state_info(self) -> list[dict[str, Any]]:
        """One state, h."""
        return [{"shape": (0, self._num_hidden), "__layout__": "NC"}]

    @property
    def _gate_names(self) -> Sequence[str]:
        return self._gates

    def _mode(self) -> str | None:
        """Return the fused kernel's mode, or None."""
        raise NotImplementedError

    def _fields(self) -> dict[str, Any]:
        return {"num_hidden": self._num_hidden, "prefix": self._prefix}

    def stage(self, planner: Planner, input_size: int) -> Stage:
        """Return a kernel's stage where there is one for this very equation."""
        mode = self._mode()
        if mode is None or not type(self).step.__module__.startswith("rnnx.cells."):
            return planner.loop(self, input_size, type(self).__name__, "no fused kernel has this cell's equation")
        return planner.layer(Recurrence(mode, input_size, self._num_hidden), self._params.prefix, self)

    def _gate_inputs(self, ops: Ops, weights: Weights, inputs: Array, hidden: Array) -> tuple[Array, Array]:
        i2h = ops.affine(inputs, weights["i2h_weight"], weights["i2h_bias"])
        return i2h, ops.affine(hidden, weights["h2h_weight"], weights["h2h_bias"])


class RNNCell(_PlainCell):
    r"""Simple recurrent cell (Elman, 1990).

    .. math:: h' = \phi(W_{i2h} x + b_{i2h} + W_{h2h} h + b_{h2h})

    Weights ``i2h_weight (H, I)``, ``h2h_weight (H, H)``, ``i2h_bias (H,)``, ``h2h_bias (H,)``; state ``[h (N, H)]``.

    Parameters
    ----------
    num_hidden : int
        H, the number of units.
    activation : str or callable
        The name of one of MXNet's activations: relu, sigmoid, tanh, softrelu, softsign. Or a function
        of one array, in the framework of the arrays the cell is used with; such a cell cannot be saved.
    prefix : str
        Put before the weights' names.
    params : RNNParams, optional
        Weights to share with another cell.
    """

    def __init__(
        self,
        num_hidden: int,
        activation: str | Callable[[Array], Array] = "tanh",
        prefix: str = "rnn_",
        params: RNNParams | None = None,
    ) -> None:
        if activation not in ACTIVATIONS and not callable(activation):
            raise UnsupportedError(
                f"no activation is called {activation!r}{nearest(str(activation), ACTIVATIONS)}; "
                f"there are {', '.join(ACTIVATIONS)}"
            )
        super().__init__(num_hidden, GATES["rnn_tanh"], prefix, params)
        self._activation = activation

    def step(self, ops: Ops, weights: Weights, inputs: Array, states: list[Array]) -> Step:
        """Return h' and [h']."""
        i2h, h2h = self._gate_inputs(ops, weights, inputs, states[0])
        if isinstance(self._activation, str):
            hidden = ACTIVATIONS[self._activation](ops, i2h + h2h)
        else:
            hidden = self._activation(i2h + h2h)
        return hidden, [hidden]

    def _mode(self) -> str | None:
        return f"rnn_{self._activation}" if self._activation in ("tanh", "relu") else None

    def _fields(self) -> dict[str, Any]:
        if not isinstance(self._activation, str):
            raise UnsupportedError(f"activation={self._activation!r} is a function, which a description cannot hold")
        return {**super()._fields(), "activation": self._activation}


class LSTMCell(_PlainCell):
    r"""Long short-term memory (Hochreiter and Schmidhuber, 1997; forget gate of Gers et al., 2000).

    With :math:`a = W_{i2h} x + b_{i2h} + W_{h2h} h + b_{h2h}`, of gates i, f, c, o in this order,

    .. math:: c' = \sigma(a_f) c + \sigma(a_i) \tanh(a_c), \qquad h' = \sigma(a_o) \tanh(c')

    Weights ``i2h_weight (4H, I)``, ``h2h_weight (4H, H)``, ``i2h_bias (4H,)``, ``h2h_bias (4H,)``; states ``[h, c]``,
    each (N, H).

    Parameters
    ----------
    num_hidden : int
        H, the number of units.
    prefix : str
        Put before the weights' names.
    params : RNNParams, optional
        Weights to share with another cell.
    forget_bias : float
        Initial value of the forget gate's ``i2h_bias`` (Jozefowicz et al., 2015); nothing is added when the cell runs.
    """

    def __init__(
        self, num_hidden: int, prefix: str = "lstm_", params: RNNParams | None = None, forget_bias: float = 1.0
    ) -> None:
        self._forget_bias = finite("forget_bias", forget_bias)
        super().__init__(num_hidden, GATES["lstm"], prefix, params, LSTMBias(self._forget_bias))

    @property
    def state_info(self) -> list[dict[str, Any]]:
        """Two states, h and c."""
        return super().state_info * 2

    def step(self, ops: Ops, weights: Weights, inputs: Array, states: list[Array]) -> Step:
        """Return h' and [h', c']."""
        hidden, cell = states
        i2h, h2h = self._gate_inputs(ops, weights, inputs, hidden)
        hidden, cell = _lstm(ops, i2h + h2h, cell)
        return hidden, [hidden, cell]

    def _mode(self) -> str:
        return "lstm"

    def _fields(self) -> dict[str, Any]:
        return {**super()._fields(), "forget_bias": self._forget_bias}


class LSTMPCell(_PlainCell):
    r"""Long short-term memory with a projected hidden state (Sak, Senior and Beaufays, 2014).

    As `LSTMCell`, but the hidden state, which is given out and read back, is P wide:

    .. math:: c' = \sigma(a_f) c + \sigma(a_i) \tanh(a_c), \qquad h' = W_{h2r} (\sigma(a_o) \tanh(c'))

    Weights ``i2h_weight (4H, I)``, ``h2h_weight (4H, P)``, ``i2h_bias (4H,)``, ``h2h_bias (4H,)`` and
    ``h2r_weight (P, H)``, which has no gates; states ``[h (N, P), c (N, H)]``.

    Parameters
    ----------
    num_hidden : int
        H, the number of units.
    num_projection : int
        P, the width of the hidden state and of the outputs.
    prefix : str
        Put before the weights' names.
    params : RNNParams, optional
        Weights to share with another cell.
    forget_bias : float
        Initial value of the forget gate's ``i2h_bias``, as of `LSTMCell`.
    """

    def __init__(
        self,
        num_hidden: int,
        num_projection: int,
        prefix: str = "lstmp_",
        params: RNNParams | None = None,
        forget_bias: float = 1.0,
    ) -> None:
        self._forget_bias = finite("forget_bias", forget_bias)
        self._num_projection = whole("num_projection", num_projection)
        super().__init__(num_hidden, GATES["lstm"], prefix, params, LSTMBias(self._forget_bias), self._num_projection)
        self._params.get("h2r_weight", shape=(self._num_projection, self._num_hidden))

    @property
    def state_info(self) -> list[dict[str, Any]]:
        """Two states, h and c."""
        return [{"shape": (0, self._num_projection), "__layout__": "NC"}, *super().state_info]

    def step(self, ops: Ops, weights: Weights, inputs: Array, states: list[Array]) -> Step:
        """Return h' and [h', c']."""
        hidden, cell = states
        i2h, h2h = self._gate_inputs(ops, weights, inputs, hidden)
        wide, cell = _lstm(ops, i2h + h2h, cell)
        hidden = ops.affine(wide, weights["h2r_weight"], None)
        return hidden, [hidden, cell]

    def _mode(self) -> None:
        return None

    def _fields(self) -> dict[str, Any]:
        return {**super()._fields(), "num_projection": self._num_projection, "forget_bias": self._forget_bias}


class GRUCell(_PlainCell):
    r"""Gated recurrent unit, in the variant of cuDNN or the original one.

    With :math:`a = W_{i2h} x + b_{i2h}` and :math:`g = W_{h2h} h + b_{h2h}`, of gates r, z, o in this order,

    .. math:: r = \sigma(a_r + g_r), \quad z = \sigma(a_z + g_z), \quad n = \tanh(a_o + r g_o), \quad h' = (1-z) n + z h

    as in MXNet and cuDNN. ``reset_after=False`` resets before the product, as Cho et al. (2014) wrote it:
    :math:`n = \tanh(a_o + W_{h2h,o} (r h) + b_{h2h,o})`. Neither can be converted to the other.

    Weights ``i2h_weight (3H, I)``, ``h2h_weight (3H, H)``, ``i2h_bias (3H,)``, ``h2h_bias (3H,)``; state
    ``[h (N, H)]``.

    Parameters
    ----------
    num_hidden : int
        H, the number of units.
    prefix : str
        Put before the weights' names.
    params : RNNParams, optional
        Weights to share with another cell.
    reset_after : bool
        Whether the reset gate acts after the recurrent product (MXNet, cuDNN) or before it.
    """

    def __init__(
        self, num_hidden: int, prefix: str = "gru_", params: RNNParams | None = None, reset_after: bool = True
    ) -> None:
        super().__init__(num_hidden, GATES["gru"], prefix, params)
        self._reset_after = reset_after

    def step(self, ops: Ops, weights: Weights, inputs: Array, states: list[Array]) -> Step:
        """Return h' and [h']."""
        hidden = states[0]
        i2h_r, i2h_z, i2h_o = ops.split(ops.affine(inputs, weights["i2h_weight"], weights["i2h_bias"]), 3)
        if self._reset_after:
            h2h_r, h2h_z, h2h_o = ops.split(ops.affine(hidden, weights["h2h_weight"], weights["h2h_bias"]), 3)
            candidate = ops.tanh(i2h_o + ops.sigmoid(i2h_r + h2h_r) * h2h_o)
        else:
            sizes = (2 * self._num_hidden, self._num_hidden)
            gates_weight, candidate_weight = ops.split(weights["h2h_weight"], sizes, 0)
            gates_bias, candidate_bias = ops.split(weights["h2h_bias"], sizes, 0)
            h2h_r, h2h_z = ops.split(ops.affine(hidden, gates_weight, gates_bias), 2)
            reset = ops.sigmoid(i2h_r + h2h_r) * hidden
            candidate = ops.tanh(i2h_o + ops.affine(reset, candidate_weight, candidate_bias))
        update = ops.sigmoid(i2h_z + h2h_z)
        hidden = (1.0 - update) * candidate + update * hidden
        return hidden, [hidden]

    def _mode(self) -> str | None:
        return "gru" if self._reset_after else None

    def _fields(self) -> dict[str, Any]:
        return {**super()._fields(), "reset_after": self._reset_after}


def _lstm(ops: Ops, gates: Array, cell: Array) -> tuple[Array, Array]:
    """Return h' and c' of an LSTM, given its gates before their activations and c."""
    i, f, c, o = ops.split(gates, 4)
    cell = ops.sigmoid(f) * cell + ops.sigmoid(i) * ops.tanh(c)
    return ops.sigmoid(o) * ops.tanh(cell), cell

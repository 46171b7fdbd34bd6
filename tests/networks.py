"""Cells for the tests to run: made by name, given random weights, and some that are not rnnx's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import rnnx
from rnnx.conformance import reference

#: Modes with a kernel.
FUSED_MODES = ("lstm", "gru", "rnn_tanh", "rnn_relu")

#: Every equation of the plain cells, by the name the reference has for it.
STEPPED_MODES = ("gru_reset_before", "rnn_sigmoid", "rnn_softrelu", "rnn_softsign")
PLAIN_MODES = FUSED_MODES + STEPPED_MODES

#: Lengths of the rows of a batch of 4 and 5 steps: unsorted, none, all, one.
RAGGED = (3, 0, 5, 1)


class PeepholeLSTM(rnnx.BaseRNNCell):
    """An LSTM whose gates see the cell state (Gers and Schmidhuber, 2000), as a user would write it."""

    def __init__(self, num_hidden: int, prefix: str = "peephole_", params: rnnx.RNNParams | None = None) -> None:
        super().__init__(prefix, params)
        self.num_hidden = num_hidden
        self.params.get("i2h_weight", shape=(4 * num_hidden, 0))
        self.params.get("h2h_weight", shape=(4 * num_hidden, num_hidden))
        self.params.get("i2h_bias", shape=(4 * num_hidden,))
        self.params.get("h2h_bias", shape=(4 * num_hidden,))
        self.params.get("peephole_weight", shape=(3, num_hidden))

    @property
    def state_info(self) -> list[dict[str, Any]]:
        return [{"shape": (0, self.num_hidden), "__layout__": "NC"}] * 2

    def step(self, ops, weights, inputs, states):
        hidden, cell = states
        gates = ops.affine(inputs, weights["i2h_weight"], weights["i2h_bias"])
        gates = gates + ops.affine(hidden, weights["h2h_weight"], weights["h2h_bias"])
        i, f, c, o = ops.split(gates, 4)
        see_i, see_f, see_o = ops.split(weights["peephole_weight"], 3, 0)
        cell = ops.sigmoid(f + see_f * cell) * cell + ops.sigmoid(i + see_i * cell) * ops.tanh(c)
        hidden = ops.sigmoid(o + see_o * cell) * ops.tanh(cell)
        return hidden, [hidden, cell]


class Accumulator(rnnx.BaseRNNCell):
    """h' = decay * h + W x, with h' and x side by side as outputs: a cell that is wider than its state."""

    def __init__(self, num_hidden: int, prefix: str = "sum_") -> None:
        super().__init__(prefix)
        self.num_hidden = num_hidden
        self.params.get("weight", shape=(num_hidden, 0))
        self.params.get("decay", shape=(num_hidden,), init=lambda rng, shape: np.full(shape, 0.5))

    @property
    def state_info(self) -> list[dict[str, Any]]:
        return [{"shape": (0, self.num_hidden)}]

    def output_size(self, input_size: int) -> int:
        return self.num_hidden + input_size

    def step(self, ops, weights, inputs, states):
        hidden = weights["decay"] * states[0] + ops.affine(inputs, weights["weight"], None)
        return ops.concat([hidden, inputs]), [hidden]


def plain(mode: str, num_hidden: int, prefix: str = "cell_", params: rnnx.RNNParams | None = None) -> rnnx.BaseRNNCell:
    """The plain cell of a mode of the reference."""
    if mode == "peephole":
        return PeepholeLSTM(num_hidden, prefix, params)
    if mode == "lstm":
        return rnnx.LSTMCell(num_hidden, prefix, params)
    if mode.startswith("gru"):
        return rnnx.GRUCell(num_hidden, prefix, params, reset_after=mode == "gru")
    return rnnx.RNNCell(num_hidden, mode.removeprefix("rnn_"), prefix, params)


def sequential(*cells: rnnx.BaseRNNCell, params: rnnx.RNNParams | None = None) -> rnnx.SequentialRNNCell:
    stack = rnnx.SequentialRNNCell(params)
    for cell in cells:
        stack.add(cell)
    return stack


def randomized(
    cell: rnnx.BaseRNNCell, input_size: int, dtype: str = "float64", seed: int = 1, scale: float = 1.0
) -> rnnx.BaseRNNCell:
    """The cell itself, with every element of every weight and bias different, and none of them zero."""
    cell.initialize(input_size, backend="numpy", dtype=dtype, seed=0)
    rng = np.random.default_rng(seed)
    cell.load_params(
        {name: rng.uniform(-scale, scale, array.shape).astype(dtype) for name, array in cell.get_params().items()}
    )
    return cell


def reference_of(mode: str, cell: rnnx.BaseRNNCell, prefix: str = "cell_") -> reference.Network:
    """The reference with the weights that a tree holds under a prefix."""
    return reference.cell(
        mode, {name.removeprefix(prefix): w for name, w in cell.get_params().items() if name.startswith(prefix)}
    )


def reference_of_fused(
    cell: rnnx.BaseRNNCell, mode: str, input_size: int, hidden: int, layers: int, directions: int, prefix: str
) -> reference.Network:
    """The reference with the flat vector that a tree holds under a prefix."""
    vector = cell.get_params()[prefix + "parameters"]
    return reference.stack(mode, reference.cut_flat(vector, mode, input_size, hidden, layers, directions))


def interleaved(states: Sequence[Any]) -> list[Any]:
    """States of a fused cell, h and c of all layers, as h, c of the first, h, c of the second..."""
    return [state for layer in zip(*states, strict=True) for state in layer]


def leaves(nested: Any) -> list[Any]:
    """The arrays of nested lists, in order."""
    if not isinstance(nested, list | tuple):
        return [nested]
    return [array for part in nested for array in leaves(part)]


def batch_major(sequence: Any) -> Any:
    """Outputs held as a list of one array a step, as one array (N, T, C)."""
    return np.stack(sequence, 1) if isinstance(sequence, list) else sequence


def assert_all_close(found: Sequence[Any], expected: Sequence[Any], tolerance: float) -> None:
    """Each array equal to its own, within a tolerance that grows with the values."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def like(nested: Any, rng: np.random.Generator) -> Any:
    """Random arrays in the shapes and the nesting of others."""
    return [like(part, rng) for part in nested] if isinstance(nested, list) else rng.normal(size=nested.shape)


def same_bits(one: dict, other: dict) -> None:
    """Two mappings of the same names to arrays of the same dtype, shape and bits."""
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert np.asarray(other[name]).dtype == array.dtype
        assert np.asarray(other[name]).shape == array.shape
        assert np.asarray(other[name]).tobytes() == array.tobytes(), name

"""Recurrent networks written out in float64: what the library's results are judged by.

Nothing here is shared with the library. A network is a function of inputs (N, T, C), an iterator over its initial
states (or None for zeros) and the length of every row; it returns outputs (N, T, H) and a flat list of final states.
Every row is run by itself, over its own length, one step after the other, one gate after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Weights = Mapping[str, Array]
Network = Callable[[Array, "Iterator[Array] | None", Sequence[int]], tuple[Array, list[Array]]]

NUM_STATES = {"lstm": 2, "peephole": 2}


def sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -x))


def softplus(x: Array) -> Array:
    return np.logaddexp(0.0, x)


ACTIVATIONS = {
    "relu": lambda x: np.where(x < 0, 0.0, x),
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "softrelu": softplus,
    "softsign": lambda x: x / (1 + np.abs(x)),
}


def share(weights: Weights, side: str, gate: int, hidden: int, vector: Array) -> Array:
    """One gate's share: the rows of that gate times x, or times h, plus its bias."""
    rows = slice(gate * hidden, (gate + 1) * hidden)
    return weights[f"{side}_weight"][rows] @ vector + weights[f"{side}_bias"][rows]


def step(mode: str, weights: Weights, x: Array, states: list[Array]) -> list[Array]:
    """One step of one row; the first of the new states is the output."""
    h = states[0]

    def a(gate: int) -> Array:
        return share(weights, "i2h", gate, len(h), x)

    def g(gate: int) -> Array:
        return share(weights, "h2h", gate, len(h), h)

    if mode == "lstm":
        c = sigmoid(a(1) + g(1)) * states[1] + sigmoid(a(0) + g(0)) * np.tanh(a(2) + g(2))
        return [sigmoid(a(3) + g(3)) * np.tanh(c), c]
    if mode == "peephole":
        p = weights["peephole_weight"]
        forget = sigmoid(a(1) + g(1) + p[1] * states[1])
        c = forget * states[1] + sigmoid(a(0) + g(0) + p[0] * states[1]) * np.tanh(a(2) + g(2))
        return [sigmoid(a(3) + g(3) + p[2] * c) * np.tanh(c), c]
    if mode == "gru":
        r, z = sigmoid(a(0) + g(0)), sigmoid(a(1) + g(1))
        return [(1 - z) * np.tanh(a(2) + r * g(2)) + z * h]
    if mode == "gru_reset_before":
        r, z = sigmoid(a(0) + g(0)), sigmoid(a(1) + g(1))
        return [(1 - z) * np.tanh(a(2) + share(weights, "h2h", 2, len(h), r * h)) + z * h]
    return [ACTIVATIONS[mode.removeprefix("rnn_")](a(0) + g(0))]


def cell(mode: str, weights: Weights) -> Network:
    """One layer in one direction."""
    weights = {name: np.asarray(weight, np.float64) for name, weight in weights.items()}
    hidden = weights["h2h_weight"].shape[1]

    def network(inputs, begin, lengths):
        batch, length, _ = inputs.shape
        before = [np.zeros((batch, hidden)) if begin is None else next(begin) for _ in range(NUM_STATES.get(mode, 1))]
        outputs = np.zeros((batch, length, hidden))
        after = [np.array(state, np.float64) for state in before]
        for row in range(batch):
            states = [state[row] for state in after]
            for time in range(lengths[row]):
                states = step(mode, weights, np.asarray(inputs[row, time], np.float64), states)
                outputs[row, time] = states[0]
            for kept, state in zip(after, states, strict=True):
                kept[row] = state
        return outputs, after

    return network


def sequential(*parts: Network) -> Network:
    def network(inputs, begin, lengths):
        finals = []
        for part in parts:
            inputs, states = part(inputs, begin, lengths)
            finals += states
        return inputs, finals

    return network


def bidirectional(forward: Network, backward: Network) -> Network:
    def network(inputs, begin, lengths):
        ahead, ahead_states = forward(inputs, begin, lengths)
        back, back_states = backward(turned(inputs, lengths), begin, lengths)
        return np.concatenate([ahead, turned(back, lengths)], 2), ahead_states + back_states

    return network


def residual(inner: Network) -> Network:
    def network(inputs, begin, lengths):
        outputs, states = inner(inputs, begin, lengths)
        for row, length in enumerate(lengths):
            outputs[row, :length] += inputs[row, :length]
        return outputs, states

    return network


def turned(rows: Array, lengths: Sequence[int]) -> Array:
    """Each row reversed in time within its own length."""
    result = np.array(rows)
    for row, length in enumerate(lengths):
        for time in range(length):
            result[row, time] = rows[row, length - 1 - time]
    return result


def run(
    network: Network, inputs: Array, begin: Sequence[Array] | None = None, lengths: Sequence[int] | None = None
) -> tuple[Array, list[Array]]:
    """Run a network over inputs (N, T, C)."""
    lengths = [inputs.shape[1]] * inputs.shape[0] if lengths is None else [int(length) for length in lengths]
    return network(inputs, None if begin is None else iter(begin), lengths)


def cut_flat(
    vector: Array, mode: str, input_size: int, hidden: int, layers: int, directions: int
) -> list[list[dict[str, Array]]]:
    """Cut a fused cell's vector up as cuDNN lays it out: every matrix by layer and direction, then every bias."""
    rows = {"lstm": 4, "gru": 3}.get(mode, 1) * hidden
    found: list[list[dict[str, Array]]] = [[{} for _ in range(directions)] for _ in range(layers)]
    start = 0
    for kind in ("weight", "bias"):
        for layer in range(layers):
            for direction in range(directions):
                for side in ("i2h", "h2h"):
                    columns = hidden if side == "h2h" else input_size if layer == 0 else directions * hidden
                    shape = (rows, columns) if kind == "weight" else (rows,)
                    size = int(np.prod(shape))
                    found[layer][direction][f"{side}_{kind}"] = vector[start : start + size].reshape(shape)
                    start += size
    assert start == vector.size
    return found


def stack(mode: str, layers: Sequence[Sequence[Weights]]) -> Network:
    """Layers of one mode, each in one direction or two."""
    parts = []
    for layer in layers:
        directions = [cell(mode, weights) for weights in layer]
        parts.append(directions[0] if len(directions) == 1 else bidirectional(*directions))
    return sequential(*parts)

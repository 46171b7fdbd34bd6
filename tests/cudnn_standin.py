"""What ``CudnnRNNV3`` does, in NumPy: it checks every argument, and takes ``params`` apart as cuDNN's documents say.

cuDNN numbers the matrices of a pseudo-layer (a layer in one direction): those of the inputs first, then those of the
states, each group by gate. For lstm the gates are input, forget, new and output, for gru reset, update and new. In
``params`` stand all matrices, pseudo-layer by pseudo-layer, and after the last of them all biases in the same order.
Sources: ``cudnnGetRNNWeightParams`` in cuDNN's API reference, and ``tensorflow/core/ops/cudnn_rnn_ops.cc``.
"""

from __future__ import annotations

import collections
from typing import Any

import numpy as np

from rnnx.conformance import reference

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}

Outputs = collections.namedtuple("Outputs", "output output_h output_c")


class StandIn:
    """Called as the operation is; `calls` has the arguments of every call."""

    def __init__(self, tensorflow: Any) -> None:
        self.tensorflow = tensorflow
        self.calls: list[dict[str, Any]] = []

    def __call__(self, **given: Any) -> Outputs:
        self.calls.append(given)
        tf, mode, lengths = self.tensorflow, given["rnn_mode"], given["sequence_lengths"]
        inputs, h, params = (given[name].numpy() for name in ("input", "input_h", "params"))
        self._check(given, inputs, h)
        directions = 2 if given["direction"] == "bidirectional" else 1
        hidden, layers = h.shape[2], h.shape[0] // directions
        weights = _taken_apart(params.astype(np.float64), mode, inputs.shape[2], hidden, layers, directions)
        begin = [h] if mode != "lstm" else [h, given["input_c"].numpy()]
        states = [each[place].astype(np.float64) for place in range(len(h)) for each in begin]
        rows = inputs.swapaxes(0, 1).astype(np.float64)
        outputs, finals = reference.run(reference.stack(mode, weights), rows, states, lengths.numpy().tolist())
        packed = [np.stack(finals[kind :: len(begin)]) for kind in range(len(begin))]
        if mode != "lstm":
            packed.append(np.zeros(()))
        dtype = given["input"].dtype
        return Outputs(*(tf.constant(each, dtype) for each in (outputs.swapaxes(0, 1), *packed)))

    def _check(self, given: dict[str, Any], inputs: Any, h: Any) -> None:
        """What the operation's own checks refuse, and what would change its results without a word."""
        names = {"input", "input_h", "input_c", "params", "sequence_lengths", "rnn_mode", "input_mode", "direction"}
        names |= {"dropout", "seed", "seed2", "num_proj", "is_training", "time_major"}
        assert set(given) == names
        lengths = given["sequence_lengths"]
        assert lengths.dtype == self.tensorflow.int32
        assert lengths.shape == (inputs.shape[1],)
        assert (lengths.numpy() >= 1).all()
        assert (lengths.numpy() <= inputs.shape[0]).all()
        assert given["rnn_mode"] in GATES
        assert given["input_mode"] == "linear_input"
        assert given["direction"] in ("unidirectional", "bidirectional")
        assert (given["dropout"], given["num_proj"]) == (0.0, 0)
        assert given["time_major"] is True
        assert given["is_training"] is True, "without it there is no reserve space, and so no gradient"
        assert h.ndim == inputs.ndim == 3
        assert h.shape[1] == inputs.shape[1]
        assert given["params"].shape.rank == 1
        for name in ("input_h", "input_c", "params"):
            assert given[name].dtype == given["input"].dtype
        if given["rnn_mode"] == "lstm":
            assert given["input_c"].shape == given["input_h"].shape


def _taken_apart(
    params: Any, mode: str, width: int, hidden: int, layers: int, directions: int
) -> list[list[dict[str, Any]]]:
    """Each layer's and direction's packed weights, put together of cuDNN's single matrices and biases."""
    places = [(layer, direction) for layer in range(layers) for direction in range(directions)]
    found: list[list[dict[str, Any]]] = [[{} for _ in range(directions)] for _ in range(layers)]
    rest = params
    for kind in ("weight", "bias"):
        for layer, direction in places:
            for side in ("i2h", "h2h"):
                columns = hidden if side == "h2h" else width if layer == 0 else directions * hidden
                parts = []
                for _ in range(GATES[mode]):  # the ids of the gates, one matrix or bias after the other
                    size = hidden * columns if kind == "weight" else hidden
                    part, rest = rest[:size], rest[size:]
                    parts.append(part.reshape(hidden, columns) if kind == "weight" else part)
                found[layer][direction][f"{side}_{kind}"] = np.concatenate(parts)
    assert not rest.size, f"{rest.size} numbers of params are left over"
    return found

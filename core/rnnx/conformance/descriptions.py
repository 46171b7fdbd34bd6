"""What the reference reads out of a cell's description: its equation, its weights' names, and a fused cell's layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnnx.conformance.equations import GATES, Array

__all__ = ["Spec", "cut_flat", "cut_of", "mode_of", "names_of"]

#: What ``CellSpec.to_dict()`` returns.
Spec = Mapping[str, Any]


def mode_of(spec: Spec) -> str:
    """Return the mode of a plain or fused cell's description."""
    kind = spec["kind"]
    if kind == "FusedRNNCell":
        return str(spec["mode"])
    if kind == "RNNCell":
        return f"rnn_{spec['activation']}"
    if kind == "GRUCell":
        return "gru" if spec["reset_after"] else "gru_reset_before"
    if kind in ("LSTMCell", "LSTMPCell"):
        return "lstmp" if kind == "LSTMPCell" else "lstm"
    raise ValueError(f"the reference has no equation for a cell of kind {kind!r}: make its Network with cell()")


def names_of(spec: Spec) -> dict[str, str]:
    """Return the full names of a plain or fused cell's weights by their own names, which have no prefix."""
    prefix = spec.get("params", spec["prefix"])
    groups = ["i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias"]
    if spec["kind"] == "FusedRNNCell":
        groups = ["parameters"]
    elif spec["kind"] == "LSTMPCell":
        groups.append("h2r_weight")
    return {group: prefix + group for group in groups}


def cut_of(spec: Spec, vector: Array) -> list[list[dict[str, Array]]]:
    """Cut the vector of a fused cell up by layer and direction; the width of the inputs is what its length tells."""
    mode, hidden, layers = spec["mode"], spec["num_hidden"], spec["num_layers"]
    directions = 1 + bool(spec["bidirectional"])
    rows = directions * GATES[mode] * hidden
    above = layers * (hidden + 2) + (layers - 1) * directions * hidden
    return cut_flat(vector, mode, vector.size // rows - above, hidden, layers, directions)


def cut_flat(
    vector: Array, mode: str, input_size: int, hidden: int, layers: int, directions: int
) -> list[list[dict[str, Array]]]:
    """Cut a fused cell's vector up as cuDNN lays it out: every matrix by layer and direction, then every bias."""
    rows = GATES[mode] * hidden
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

"""``RNN`` operators: the cell that each one is, from its attributes and the names of its parameters.

``FusedRNNCell`` feeds the operator one variable, ``<prefix>parameters``. Gluon's layers feed it the reshaped weights of
every layer through ``_rnn_param_concat``, ``<prefix>l0_i2h_weight`` and so on; they hold the same numbers, packed layer
by layer, and are told apart from a ``FusedRNNCell`` by the evidence alone. Gluon's LSTM with a projection is a stack of
`rnnx.LSTMPCell`.

Sources: ``src/operator/rnn-inl.h`` (``RNNParam``), ``python/mxnet/rnn/rnn_cell.py`` and
``python/mxnet/gluon/rnn/rnn_layer.py`` of MXNet 1.9.1.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rnnx.building import plain_cell, two_directions
from rnnx.errors import UnsupportedError, WeightFormatError
from rnnx.formats.mxnet.graph import Graph, Node
from rnnx.found import MAX_LAYERS, stack_of
from rnnx.spec import MODES, CellSpec

__all__ = ["Fused", "fused_of"]

_PARAMETERS = "parameters"

_GLUON_WEIGHT = re.compile(r"(?s)(.*)[lr]\d+_(?:i2h|h2h|h2r)_(?:weight|bias)")

_PROJECTION = "projection_size"

#: Attributes that change the equation, and what they stand for.
_BEYOND = {
    "lstm_state_clip_min": "clipped states",
    "lstm_state_clip_max": "clipped states",
}


@dataclasses.dataclass(frozen=True)
class Fused:
    """The cell that an ``RNN`` node is, why, and its weights that are called otherwise."""

    spec: CellSpec
    evidence: tuple[str, ...]
    renames: Mapping[str, str]


def fused_of(graph: Graph, node: Node) -> Fused:
    """Return the cell that an ``RNN`` node is.

    Raises
    ------
    WeightFormatError
        If an attribute is missing or makes no sense.
    UnsupportedError
        If no cell of rnnx computes the same.
    """
    for attribute, what in _BEYOND.items():
        if node.attrs.get(attribute, "None") != "None":
            raise UnsupportedError(f"RNN node {node.name!r} has {what} ({attribute}), which no cell of rnnx has")
    if len(node.inputs) < 2:
        raise WeightFormatError(f"symbol file: RNN node {node.name!r} has {len(node.inputs)} inputs, expected 3 or 4")
    parameters = graph.node(node.inputs[1])
    if parameters.op == "null":
        if _is_projected(node):
            raise UnsupportedError(
                f"RNN node {node.name!r} has a projected hidden state ({_PROJECTION}) and its weights in one vector, "
                "which no cell of rnnx has"
            )
        return _of_one_vector(node, parameters)
    return _of_gluon(graph, node, parameters)


def _of_one_vector(node: Node, parameters: Node) -> Fused:
    named_after = parameters.name.endswith(_PARAMETERS)
    prefix = node.name.removesuffix("rnn") if node.name.endswith("rnn") else f"{node.name}_"
    weights = parameters.name.removesuffix(_PARAMETERS) if named_after else prefix
    if named_after and not node.name.endswith("rnn"):
        prefix = weights
    fields = _fields(node, parameters, prefix)
    if prefix != weights:
        fields["params"] = weights
    renames = {} if named_after else {parameters.name: f"{prefix}{_PARAMETERS}"}
    told = f"{_said(node, fields)}; its weights are the vector {parameters.name!r}"
    return Fused(CellSpec("FusedRNNCell", fields), (told,), renames)


def _of_gluon(graph: Graph, node: Node, joined: Node) -> Fused:
    named = [_GLUON_WEIGHT.fullmatch(name) for name in _joined_names(graph, joined)]
    prefixes = {found[1] for found in named if found}
    if joined.op not in ("_rnn_param_concat", "Concat") or len(prefixes) != 1 or not all(named):
        raise UnsupportedError(
            f"RNN node {node.name!r} computes its weights in the graph ({joined.op} {joined.name!r}): "
            "build the tree yourself and pass it as cell="
        )
    (prefix,) = prefixes
    fields = _fields(node, joined, prefix)
    told = f"{_said(node, fields)}; its weights stand layer by layer under {prefix!r}, as Gluon stores them"
    if _is_projected(node):
        size = _positive(node, _PROJECTION)
        return Fused(_projected(fields, size), (f"{told}; its hidden state is projected to {size}",), {})
    return Fused(CellSpec("FusedRNNCell", fields), (told,), {})


def _is_projected(node: Node) -> bool:
    return node.attrs.get(_PROJECTION, "None") != "None"


def _projected(fields: Mapping[str, Any], size: int) -> CellSpec:
    """Return the layers of an LSTM whose hidden state is projected, with the dropout between them."""
    prefix, sides = fields["prefix"], "lr" if fields["bidirectional"] else "l"
    cells: list[CellSpec] = []
    for layer in range(min(fields["num_layers"], MAX_LAYERS)):
        pair = [
            plain_cell("lstm", fields["num_hidden"], f"{prefix}{side}{layer}_", num_projection=size) for side in sides
        ]
        if layer and fields["dropout"]:
            cells.append(CellSpec("DropoutCell", {"dropout": fields["dropout"], "prefix": "dropout_"}))
        cells.append(two_directions(pair, f"{prefix}bi_l{layer}_"))
    return stack_of(cells)


def _joined_names(graph: Graph, joined: Node) -> Iterator[str]:
    for entry in joined.inputs:
        node = graph.node(entry)
        yield (graph.node(node.inputs[0]) if node.op == "Reshape" and node.inputs else node).name


def _fields(node: Node, parameters: Node, prefix: str) -> dict[str, str | int | float | bool]:
    # What the operator says goes before what its variable was once initialised for.
    initial = {key: str(value) for key, value in parameters.initializer("fusedrnn").items()}
    stated = dataclasses.replace(node, attrs={**_renamed(initial), **node.attrs})
    mode = stated.attrs.get("mode")
    if mode not in MODES:
        raise WeightFormatError(
            f"symbol file: RNN node {node.name!r}: expected a mode of {', '.join(MODES)}, found {mode!r}"
        )
    return {
        "num_hidden": _positive(stated, "state_size"),
        "num_layers": _positive(stated, "num_layers"),
        "mode": mode,
        "bidirectional": stated.flag("bidirectional"),
        "dropout": stated.rate("p", 0.0),
        "get_next_state": stated.flag("state_outputs"),
        "forget_bias": parameters.forget_bias("fusedrnn"),
        "prefix": prefix,
    }


def _renamed(initial: Mapping[str, str]) -> dict[str, str]:
    names = {"num_hidden": "state_size", "num_layers": "num_layers", "mode": "mode", "bidirectional": "bidirectional"}
    return {names[key]: value for key, value in initial.items() if key in names}


def _positive(node: Node, key: str) -> int:
    found = node.integer(key)
    if found < 1:
        raise WeightFormatError(f"symbol file: RNN node {node.name!r}: expected {key} of at least 1, found {found}")
    return found


def _said(node: Node, fields: Mapping[str, object]) -> str:
    directions = "bidirectional" if fields["bidirectional"] else "one direction"
    return (
        f"RNN node {node.name!r}: mode {fields['mode']}, {fields['num_hidden']} hidden, num_layers "
        f"{fields['num_layers']}, {directions}, dropout {fields['dropout']}"
    )

"""Fused and unfused descriptions of the same network, each made from the other.

Source of names and prefixes: ``FusedRNNCell.unfuse`` in ``python/mxnet/rnn/rnn_cell.py`` of MXNet 1.9.1.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any

from rnnx.errors import UnsupportedError
from rnnx.spec import CellSpec

__all__ = [
    "all_unfused",
    "flattened",
    "fused_spec",
    "in_inference",
    "layers_of",
    "running_layers",
    "unfused_spec",
    "without_modifiers",
]

#: The prefix of a layer's cell: the fused cell's own, the direction, the layer's number.
_LAYER = re.compile(r"(?s)(.*)([lr])(\d+)_")


#: A stack of no cells, which returns what it reads.
_NOTHING = CellSpec("SequentialRNNCell")

#: What a fused cell says of dropout where there is none.
_STILL = {"dropout": 0.0}


def unfused_spec(spec: CellSpec) -> CellSpec:
    """Return the stack of cells that a ``FusedRNNCell`` stands for.

    As in MXNet, the cells' own forget bias is 1 whatever the fused cell's: it only matters where new weights are drawn.
    """
    fields = spec.fields
    layers = []
    for layer in range(fields["num_layers"]):
        layers.append(_unfused_layer(fields, layer))
        if fields["dropout"] > 0 and layer < fields["num_layers"] - 1:
            prefix = f"{fields['prefix']}_dropout{layer}_"
            layers.append(CellSpec("DropoutCell", {"dropout": fields["dropout"], "prefix": prefix}))
    return CellSpec("SequentialRNNCell", {}, tuple(layers))


def fused_spec(spec: CellSpec) -> CellSpec:
    """Return the ``FusedRNNCell`` that a stack of equal layers stands for: the reverse of `unfused_spec`.

    Raises
    ------
    UnsupportedError
        If the tree has no fused form, naming the cell that stands in the way.
    """
    if spec.kind == "FusedRNNCell":
        return spec
    layers = list(flattened(spec))
    cells, rates = layers[::2], layers[1::2]
    if not rates or any(rate.kind != "DropoutCell" for rate in rates) or len(cells) == len(rates):
        cells, rates = layers, []
    directions = [cell.children if cell.kind == "BidirectionalCell" else (cell,) for cell in cells]
    plain = [cell for layer in directions for cell in layer]
    for cell in plain:
        _plain_mode(cell)
    prefix = _common_prefix(directions)
    return CellSpec("FusedRNNCell", _fused_fields(plain, directions, rates, prefix))


def all_unfused(spec: CellSpec) -> CellSpec:
    """Return the tree with every ``FusedRNNCell`` in it unfused."""
    if spec.kind == "FusedRNNCell":
        return unfused_spec(spec)
    return dataclasses.replace(spec, children=tuple(all_unfused(child) for child in spec.children))


def layers_of(spec: CellSpec) -> list[CellSpec]:
    """Return what runs one after the other, as cells that are neither fused nor stacks: the bottom one first."""
    return list(flattened(all_unfused(spec)))


def running_layers(spec: CellSpec) -> list[CellSpec]:
    """Return the layers of a tree that run in inference, as `layers_of` does: less dropout and zoneout."""
    return list(flattened(in_inference(all_unfused(spec))))


def in_inference(spec: CellSpec) -> CellSpec:
    """Return the tree less what acts in training only: dropout and zoneout."""
    return _less(spec, ("ZoneoutCell",))


def without_modifiers(spec: CellSpec) -> CellSpec:
    """Return the tree of the same weights less dropout, zoneout and residual connections."""
    return _less(spec, ("ZoneoutCell", "ResidualCell"))


def _less(spec: CellSpec, wrappers: Sequence[str]) -> CellSpec:
    """Return the tree without dropout and without the cells around others that are of the kinds given."""
    if spec.kind == "DropoutCell":
        return _NOTHING
    children = tuple(_less(child, wrappers) for child in spec.children)
    if spec.kind == "SequentialRNNCell":
        children = tuple(child for child in children if child != _NOTHING)
    if spec.kind in wrappers or (spec.kind == "SequentialRNNCell" and len(children) == 1):
        return children[0]
    return CellSpec(spec.kind, {**spec.fields, **_STILL} if "dropout" in spec.fields else spec.fields, children)


def _unfused_layer(fields: Any, layer: int) -> CellSpec:
    def cell(direction: str) -> CellSpec:
        mode, own = fields["mode"], {"num_hidden": fields["num_hidden"], "prefix": f"{prefix}{direction}{layer}_"}
        if mode == "lstm":
            return CellSpec("LSTMCell", {**own, "forget_bias": 1.0})
        if mode == "gru":
            return CellSpec("GRUCell", {**own, "reset_after": True})
        return CellSpec("RNNCell", {**own, "activation": mode.removeprefix("rnn_")})

    prefix = fields["prefix"]
    if not fields["bidirectional"]:
        return cell("l")
    return CellSpec("BidirectionalCell", {"output_prefix": f"{prefix}bi_l{layer}_"}, (cell("l"), cell("r")))


def flattened(spec: CellSpec) -> Iterator[CellSpec]:
    """Yield what runs one after the other, the bottom one first: a tree that is no stack is alone."""
    if spec.kind == "SequentialRNNCell":
        for child in spec.children:
            yield from flattened(child)
    else:
        yield spec


def _plain_mode(cell: CellSpec) -> str:
    if cell.kind == "LSTMCell":
        return "lstm"
    if cell.kind == "GRUCell" and cell.fields["reset_after"]:
        return "gru"
    if cell.kind == "RNNCell" and cell.fields["activation"] in ("tanh", "relu"):
        return f"rnn_{cell.fields['activation']}"
    raise UnsupportedError(f"a tree with a {cell.kind} {dict(cell.fields)} in it has no fused form")


def _common_prefix(directions: Sequence[Sequence[CellSpec]]) -> str:
    """Return the prefix a fused cell must have for its weights to keep their names."""
    first = _LAYER.fullmatch(directions[0][0].fields["prefix"]) if directions else None
    prefix = first.group(1) if first else ""
    for number, layer in enumerate(directions):
        for letter, cell in zip("lr", layer, strict=False):
            if cell.fields["prefix"] != f"{prefix}{letter}{number}_" or "params" in cell.fields:
                raise UnsupportedError(
                    f"the cell with prefix {cell.fields['prefix']!r} would have to be called "
                    f"{prefix + letter + str(number) + '_'!r} to be part of a fused cell"
                )
    return prefix


def _fused_fields(
    plain: Sequence[CellSpec],
    directions: Sequence[Sequence[CellSpec]],
    rates: Sequence[CellSpec],
    prefix: str,
) -> dict[str, Any]:
    found = {
        "the kind of cell": {_plain_mode(cell) for cell in plain},
        "num_hidden": {cell.fields["num_hidden"] for cell in plain},
        "the number of directions": {len(layer) for layer in directions},
        "the dropout between layers": {rate.fields["dropout"] for rate in rates} or {0.0},
        "forget_bias": {cell.fields.get("forget_bias", 1.0) for cell in plain},
    }
    for what, several in found.items():
        if len(several) != 1:
            raise UnsupportedError(f"the layers have no fused form: {what} differs, {sorted(several)}")
    (mode,), (hidden,), (count,), (dropout,), (forget_bias,) = found.values()
    return {
        "num_hidden": hidden,
        "num_layers": len(directions),
        "mode": mode,
        "bidirectional": count == 2,
        "dropout": dropout,
        "get_next_state": True,
        "forget_bias": forget_bias,
        "prefix": prefix,
    }

"""Which of PyTorch's recurrent modules compute what a cell tree does.

==========================================================  =========================================================
``FusedRNNCell``                                            ``nn.LSTM``, ``nn.GRU`` or ``nn.RNN`` of its depth
layers that are alike, called ``<p>l0_``, ``<p>r0_``, …     one of their depth; `LSTMPCell`: ``nn.LSTM(proj_size=…)``
any other cell, or ``BidirectionalCell`` of two alike       one of a single layer
==========================================================  =========================================================

Dropout and zoneout act in training only, and are no part of a file of weights. The rest has nothing like it in PyTorch:
residual connections, other activations than tanh and relu, and a GRU that resets before the recurrent product.

Source: ``torch/nn/modules/rnn.py`` of PyTorch 2.13.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence

from rnnx.errors import UnsupportedError
from rnnx.formats.torch.names import GATE_ORDER
from rnnx.found import name_of
from rnnx.fusion import flattened, in_inference, running_layers
from rnnx.spec import CellSpec

__all__ = ["Module", "modules_of"]

#: The prefix of a layer's cell: the module's own, the direction, the layer's number.
_LAYER = re.compile(r"(?s)(.*)[lr](0|[1-9][0-9]{0,8})_")

_INSTEAD = "write ONNX or the portable file instead"


@dataclasses.dataclass(frozen=True)
class Module:
    """A module: the prefix that tells its place, and of each layer the plain cell or the two of a pair."""

    prefix: str
    layers: tuple[CellSpec, ...]


def modules_of(spec: CellSpec) -> Iterator[Module]:
    """Yield the modules that run one after the other where a tree does.

    Raises
    ------
    UnsupportedError
        If PyTorch has none that computes what a cell does; the message names the cell.
    """
    for prefix, group in itertools.groupby(flattened(in_inference(spec)), _prefix_of_numbered):
        layers = list(group)
        if prefix is not None and _make_one(prefix, layers):
            yield Module(prefix, tuple(map(_layer, layers)))
        else:
            yield from map(_module, layers)


def _module(spec: CellSpec) -> Module:
    if spec.kind == "FusedRNNCell":
        return Module(spec.fields["prefix"], tuple(running_layers(spec)))
    return Module(name_of(spec), (_layer(spec),))


def _prefix_of_numbered(layer: CellSpec) -> str | None:
    """Return what a module's names begin with, if this may be a layer of one."""
    first = _directions(layer)[0]
    named = _LAYER.fullmatch(first.fields["prefix"]) if first.kind in GATE_ORDER else None
    return named[1] if named else None


def _make_one(prefix: str, layers: Sequence[CellSpec]) -> bool:
    """Say whether layers are alike and numbered from 0."""
    alike = {(len(_directions(layer)), *_equation(cell)) for layer in layers for cell in _directions(layer)}
    return len(alike) == 1 and all(
        cell.fields.get("prefix") == f"{prefix}{side}{number}_"
        for number, layer in enumerate(layers)
        for side, cell in zip("lr", _directions(layer), strict=False)
    )


def _directions(layer: CellSpec) -> Sequence[CellSpec]:
    return layer.children if layer.kind == "BidirectionalCell" else (layer,)


def _layer(spec: CellSpec) -> CellSpec:
    """Return a layer as a plain cell or a pair of two, if PyTorch has a module of one layer that computes the same."""
    if spec.kind != "BidirectionalCell":
        return _plain(spec)
    cells = [_alone(child, spec) for child in spec.children]
    if len({_equation(cell) for cell in cells}) > 1:
        raise UnsupportedError(
            f"the two directions of the BidirectionalCell {name_of(spec)!r} differ, and those of PyTorch's modules are "
            f"alike: {_INSTEAD}"
        )
    return dataclasses.replace(spec, children=tuple(cells))


def _alone(child: CellSpec, pair: CellSpec) -> CellSpec:
    """Return the one plain cell that a direction of a pair is."""
    layers = [layer for module in modules_of(child) for layer in module.layers]
    if len(layers) != 1 or layers[0].kind == "BidirectionalCell":
        raise UnsupportedError(
            f"the BidirectionalCell {name_of(pair)!r} holds a stack in each direction, and PyTorch's modules join the "
            f"directions after every layer: {_INSTEAD}"
        )
    return layers[0]


def _plain(cell: CellSpec) -> CellSpec:
    if cell.kind not in GATE_ORDER:
        why = "adds its inputs to its outputs" if cell.kind == "ResidualCell" else "is no cell of rnnx's own"
        raise UnsupportedError(f"the {cell.kind} {name_of(cell)!r} {why}, and no module of PyTorch does: {_INSTEAD}")
    prefix, fields = cell.fields["prefix"], cell.fields
    if not fields.get("reset_after", True):
        raise UnsupportedError(
            f"the GRUCell {prefix!r} resets before the recurrent product (reset_after=False), and PyTorch's GRU after "
            f"it: {_INSTEAD}"
        )
    if fields.get("activation", "tanh") not in ("tanh", "relu"):
        raise UnsupportedError(
            f"the RNNCell {prefix!r} has the activation {fields['activation']!r}, and PyTorch's RNN has tanh and relu: "
            f"{_INSTEAD}"
        )
    if fields.get("num_projection", 0) >= fields["num_hidden"]:
        raise UnsupportedError(
            f"the LSTMPCell {prefix!r} projects {fields['num_hidden']} units to {fields['num_projection']}, and "
            f"PyTorch's LSTM only to fewer: {_INSTEAD}"
        )
    return cell


def _equation(cell: CellSpec) -> tuple[object, ...]:
    return cell.kind, *(cell.fields.get(key) for key in ("num_hidden", "num_projection", "activation"))

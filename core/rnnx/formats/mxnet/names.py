"""Recurrent cells told from the names and shapes of weights alone, where a checkpoint has no symbol file.

Each cell is told by `rnnx.formats.mxnet.cells`; here they are put together, as prefixes and widths ask for.

Names and shapes leave some things open. An error asks for what a network cannot be built without: the activation of a
plain cell, and everything about the flat vector ``<prefix>parameters``. Others are said in the evidence: residual
connections, dropout, zoneout, which cells run backwards, and whether packed gates of an LSTM stand in the order i c f o
of the years before 2017 (see `rnnx.formats.mxnet.steps`).

Source: ``unpack_weights`` in ``python/mxnet/rnn/rnn_cell.py`` of MXNet 1.9.1.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

from rnnx.errors import UnsupportedError, WeightFormatError, nearest
from rnnx.formats.mxnet.cells import Cell, cell_of, layered
from rnnx.found import Assumptions, Found, joined, natural, renamed_apart
from rnnx.spec import GATES
from rnnx.spelling import found_as

__all__ = ["OPEN", "parts_of_weights"]

_Shapes = Mapping[str, tuple[int, ...]]

_WEIGHT = re.compile(r"(?s)(.*)(i2h|h2h)(_[a-z])?_(weight|bias)")

#: The prefix of one layer and direction of a fused cell; behind a letter it is the end of a word, as in "decoder0_".
_LAYER = re.compile(r"(?s)(|.*[^a-zA-Z])([lr])(0|[1-9][0-9]{0,3})_")

#: What no file of weights tells, whatever its names.
OPEN = "weights do not tell residual connections, dropout or zoneout: none are assumed"


def parts_of_weights(shapes: Mapping[str, tuple[int, ...]], assume: Assumptions) -> list[Found]:
    """Return the recurrent parts that a file of weights holds, in natural order of their names.

    Weights ``<p>l0_…``, ``<p>r0_…``, ``<p>l1_…`` make a ``FusedRNNCell``, which equals the cells it unfuses into. Other
    cells make a stack where their prefixes are numbered and each is as wide as the next one reads, or where that is so
    for one order only, that of their names; otherwise each is a part.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        The shape of every array by its name, without ``arg:``. Those that are no recurrent cell's are passed over.
    assume : Assumptions
        What weights do not tell. The activation of a cell called ``rnn_tanh_`` or ``rnn_relu_``, as fused cells are by
        default, is told by that.

    Raises
    ------
    WeightFormatError
        If a cell's weights are incomplete or do not fit each other, or something must be assumed and is not.
    UnsupportedError
        If there are recurrent cells, and none that rnnx has.
    """
    _refuse_flat(shapes)
    strange = _strange_prefixes(shapes)
    cells = [cell_of(prefix, gates, shapes) for prefix, gates in _gates(shapes).items() if prefix not in strange]
    left_out = [f"cell {prefix!r} has {what}, unlike rnnx's" for prefix, what in strange.items()]
    if left_out and not cells:
        raise UnsupportedError("; ".join(left_out[:3]))
    told = (OPEN, *left_out[:3])
    parts = joined(list(_units(cells, shapes, assume)))
    return renamed_apart([dataclasses.replace(part, evidence=(*part.evidence, *told)) for part in parts])


def _refuse_flat(shapes: _Shapes) -> None:
    for name, shape in shapes.items():
        if name.endswith("parameters") and len(shape) == 1:
            raise WeightFormatError(
                f"{name!r} is the vector of a fused cell, and its size {shape[0]} does not tell mode, num_layers, "
                "num_hidden and bidirectional: put the network's symbol.json beside the file, or give the tree as "
                "cell=, such as rnnx.FusedRNNCell(num_hidden, num_layers, mode, bidirectional, "
                f"prefix={name.removesuffix('parameters')!r})"
            )


def _gates(shapes: _Shapes) -> dict[str, set[str]]:
    """Return the prefixes of recurrent cells, and for each the suffixes of gates that its weights bear."""
    gates: dict[str, set[str]] = {}
    for name in shapes:
        named = _WEIGHT.fullmatch(name)
        if named:
            gates.setdefault(named[1], set()).add(named[3] or "")
    return gates


def _strange_prefixes(shapes: _Shapes) -> dict[str, str]:
    """Return the prefixes of cells with the names of `mxnet.rnn` and an equation that is not rnnx's."""
    strange = {}
    for name, shape in shapes.items():
        named = _WEIGHT.fullmatch(name)
        if named and named[4] == "weight" and len(shape) > 2:
            strange[named[1]] = f"convolutions ({name!r} has shape {shape})"
    return strange


# -- cells put together -----------------------------------------------------------------------------------------------


def _units(cells: Sequence[Cell], shapes: _Shapes, assume: Assumptions) -> Iterator[Found]:
    numbered: dict[str, dict[tuple[int, str], Cell]] = {}
    single = []
    for cell in cells:
        named = _LAYER.fullmatch(cell.prefix)
        if named:
            numbered.setdefault(named[1], {})[int(named[3]), named[2]] = cell
        else:
            single.append(cell)
    for prefix, layers in numbered.items():
        if _is_fused(layers):
            _require_layers(prefix, layers, shapes)
            yield _fused(prefix, layers, shapes, assume)
        else:
            single += layers.values()
    yield from (_plain(cell, shapes, assume) for cell in single)


def _is_fused(layers: Mapping[tuple[int, str], Cell]) -> bool:
    """Say whether layers are alike, and each as wide as what the one above reads."""
    alike = {dataclasses.replace(cell, prefix="", input_size=0) for cell in layers.values()}
    width = next(iter(layers.values())).num_outputs * len({direction for _, direction in layers})
    bottom = {cell.input_size for (layer, _), cell in layers.items() if layer == 0}
    above = {cell.input_size for (layer, _), cell in layers.items() if layer > 0}
    return len(alike) == 1 and len(bottom) <= 1 and above <= {width}


def _require_layers(prefix: str, layers: Mapping[tuple[int, str], Cell], shapes: _Shapes) -> None:
    some = next(iter(layers.values()))
    gate = "" if some.packed else GATES[some.mode][0]
    directions = sorted({direction for _, direction in layers} | {"l"})
    for layer, direction in itertools.product(range(1 + max(layer for layer, _ in layers)), directions):
        if (layer, direction) not in layers:
            name = f"{prefix}{direction}{layer}_i2h{gate}_weight"
            raise WeightFormatError(
                f"weight {name!r} is missing{nearest(name, shapes)}: the cell {prefix!r} has weights of other layers"
            )


def _fused(prefix: str, layers: Mapping[tuple[int, str], Cell], shapes: _Shapes, assume: Assumptions) -> Found:
    cell = layers[0, "l"]
    sides = "lr"[: len({direction for _, direction in layers})]
    depth = len(layers) // len(sides)
    told = (
        f"weights {prefix + 'l0_'!r} to {max(layers.values(), key=lambda cell: natural(cell.prefix)).prefix!r}: "
        f"num_layers {depth}, directions {len(sides)}, {cell}"
    )
    activation = _activation(prefix, assume) if cell.mode == "rnn_tanh" else ""
    spec = layered(prefix, [[layers[layer, side] for side in sides] for layer in range(depth)], activation)
    return found_as(prefix, spec, (told, *_order(cell)), shapes)


def _plain(cell: Cell, shapes: _Shapes, assume: Assumptions) -> Found:
    activation = _activation(cell.prefix, assume) if cell.mode == "rnn_tanh" else ""
    told = f"weights {cell.prefix!r}: {cell}"
    return found_as(cell.prefix, cell.spec(cell.prefix, activation), (told, *_order(cell)), shapes)


def _activation(prefix: str, assume: Assumptions) -> str:
    return {"rnn_tanh_": "tanh", "rnn_relu_": "relu"}.get(prefix) or assume.activation_of(prefix)


def _order(cell: Cell) -> tuple[str, ...]:
    if cell.mode != "lstm" or not cell.packed or cell.projected:
        return ()
    return (
        f"packed gates of {cell.prefix!r} are taken to stand i f c o; where MXNet from before 2017 wrote them, they "
        "stand i c f o, which only its symbol.json tells",
    )

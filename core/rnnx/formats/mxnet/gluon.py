"""Gluon's recurrent layers and cells, told from the keys of ``Block.save_parameters``.

A key is the way to a weight: the names of a block's children, and behind the last dot the weight's own name. Children
of a container are numbered, others are called as the attribute that holds them.

==========================================  =================================================================
``encoder._unfused.1.i2h_weight``           `gluon.rnn.LSTM`, `GRU` or `RNN`: layer 1
``encoder._unfused.1.r_cell.i2h_weight``    the same in two directions: the backward one
``cells.0.i2h_weight``                      a cell in a `SequentialRNNCell`
``cells.2.l_cell.i2h_weight``               the forward cell of a `BidirectionalCell`
``cells.3.base_cell.i2h_weight``            the cell within a `ZoneoutCell` or another modifier
==========================================  =================================================================

Weights are packed as in `mxnet.rnn`; an LSTM with a projected hidden state has ``h2r_weight``. All other keys are
passed over. Names without dots, which ``collect_params().save`` writes, are left to `rnnx.formats.mxnet.names`.

Sources: ``python/mxnet/gluon/block.py``, ``python/mxnet/gluon/rnn/rnn_layer.py`` (``_collect_params_with_prefix``) and
``python/mxnet/gluon/rnn/rnn_cell.py`` of MXNet 1.9.1. Up to 1.2, ``_unfused`` was a stack of cells, in which dropout
between the layers took a number of its own.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rnnx.cells import BaseRNNCell
from rnnx.errors import UnsupportedError, WeightFormatError
from rnnx.formats.mxnet.blocks import Unit, put_together
from rnnx.formats.mxnet.cells import Cell, cell_of, layered
from rnnx.formats.mxnet.names import OPEN, parts_of_weights
from rnnx.found import Assumptions, Found, natural, renamed_apart
from rnnx.spelling import Told, accepted_names, found_as, plain_leaves

__all__ = ["parts_of_file", "told_by_keys"]

_Shapes = Mapping[str, tuple[int, ...]]

_KEY = re.compile(r"(?s)(.+)\.(?:(?:i2h|h2h)_(?:weight|bias)|h2r_weight)")

#: The place of one layer and direction; before it stands that of the whole.
_LAYER = re.compile(r"(?s)(?:(.+)\.)?_unfused\.(0|[1-9][0-9]{0,3})(?:\.([lr])_cell)?")

#: Deepest nesting of blocks that is looked into.
_MAX_DEPTH = 64

_SUFFIXES = ("i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias", "h2r_weight")


def parts_of_file(shapes: Mapping[str, tuple[int, ...]], assume: Assumptions) -> list[Found]:
    """Return the recurrent parts that a file of weights holds: Gluon's, and those called as in `mxnet.rnn`.

    A layer makes a ``FusedRNNCell``, or what that would unfuse into where its hidden state is projected. Numbered cells
    of one container make a stack where each is as wide as the next one reads, and so do numbered layers with nothing
    between them. Everything else is a part of its own, called by its place.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        The shape of every array by its name, without ``arg:``.
    assume : Assumptions
        What keys do not tell.

    Raises
    ------
    WeightFormatError
        If weights are missing or do not fit each other, or something must be assumed and is not.
    UnsupportedError
        If there are recurrent cells, and none that rnnx has.
    """
    ways = _ways(shapes)
    strange = {way: why for way in ways if (why := _strange(way, shapes))}
    cells = {way: cell_of(f"{way}.", ("",), shapes) for way in ways if way not in strange}
    units = put_together([*_layers(cells, assume), *_single(cells, assume)], ways, shapes)
    left_out, others = list(strange.values()), []
    try:
        others = parts_of_weights({name: shapes[name] for name in shapes if _way(name) is None}, assume)
    except UnsupportedError as error:
        left_out.append(str(error))
    if left_out and not units and not others:
        raise UnsupportedError("; ".join(left_out[:3]))
    told = (OPEN, *left_out[:3])
    parts = [_found(unit, told, shapes) for unit in sorted(units, key=lambda unit: natural(unit.place))]
    return renamed_apart([*parts, *others])


def told_by_keys(cell: BaseRNNCell, shapes: Mapping[str, tuple[int, ...]]) -> Told:
    """Return which of Gluon's keys are which weights of a tree that the user gives.

    Where the tree has names of the file, nothing is renamed. Where it has the names that `parts_of_file` gives the
    weights, those are meant. Otherwise the weights go to the tree's cells in order.

    Raises
    ------
    WeightFormatError
        If the tree has another number of cells than the file.
    """
    ways, accepted = sorted(_ways(shapes), key=natural), accepted_names(cell)
    if not ways or accepted & shapes.keys():
        return Told()
    renames = _renames(_prefixes(ways, "").items(), shapes)
    if accepted & set(renames.values()):
        return Told(renames={old: new for old, new in renames.items() if new in accepted})
    leaves = list(plain_leaves(cell))
    if len(leaves) != len(ways):
        raise WeightFormatError(
            f"the cell given has {len(leaves)} plain cells with weights, and the file has {len(ways)}, {ways[0]!r} to "
            f"{ways[-1]!r}: give another tree, or one with prefixes such as {ways[0] + '.'!r}"
        )
    names = ((way, each.name) for way, leaf in zip(ways, leaves, strict=True) for each in leaf.own_parameters())
    return Told(renames={f"{way}.{end}": name for way, name in names for end in _SUFFIXES if name.endswith(end)})


# -- keys -------------------------------------------------------------------------------------------------------------


def _way(name: str) -> str | None:
    """Return the way to a weight of a cell; None for every other name."""
    found = _KEY.fullmatch(name)
    return found[1] if found and found[1].count(".") < _MAX_DEPTH else None


def _ways(shapes: _Shapes) -> list[str]:
    """Return the ways to the cells of a file, in its order."""
    found = (_way(name) for name in shapes if not name.endswith("h2r_weight"))
    return list(dict.fromkeys(way for way in found if way is not None))


def _strange(way: str, shapes: _Shapes) -> str | None:
    for name in (f"{way}.i2h_weight", f"{way}.h2h_weight"):
        if len(shapes.get(name, ())) > 2:
            return f"cell {way!r} has convolutions ({name!r} has shape {shapes[name]}), unlike rnnx's"
    return None


def _prefixes(ways: Iterable[str], bare: str) -> dict[str, str]:
    """Return what the weights at the end of each way are called by; `bare` begins those of a layer without a place."""
    layers = {way: found for way in ways if (found := _LAYER.fullmatch(way))}
    numbers: dict[str | None, set[int]] = {}
    for found in layers.values():
        numbers.setdefault(found[1], set()).add(int(found[2]))
    ranks = {place: {number: rank for rank, number in enumerate(sorted(some))} for place, some in numbers.items()}

    def prefix(way: str) -> str:
        if way not in layers:
            return f"{way}_"
        place, number, side = layers[way].groups()
        return f"{bare if place is None else f'{place}_'}{side or 'l'}{ranks[place][int(number)]}_"

    return {way: prefix(way) for way in ways}


def _renames(named: Iterable[tuple[str, str]], shapes: _Shapes) -> dict[str, str]:
    """Return each key below some ways with the name that the weight has behind a prefix."""
    pairs = ((f"{way}.{end}", prefix + end) for way, prefix in named for end in _SUFFIXES)
    return {key: name for key, name in pairs if key in shapes}


def _found(unit: Unit, told: Sequence[str], shapes: _Shapes) -> Found:
    renames = _renames(unit.named, shapes)
    own = {key: shapes[key] for key in renames}
    return found_as(unit.place or unit.default, unit.spec, (*unit.evidence, *told), own, Told(renames=renames))


# -- layers and cells -------------------------------------------------------------------------------------------------


def _layers(cells: Mapping[str, Cell], assume: Assumptions) -> Iterator[Unit]:
    places: dict[str, dict[tuple[int, str], Cell]] = {}
    for way, cell in cells.items():
        found = _LAYER.fullmatch(way)
        if found:
            places.setdefault(found[1] or "", {})[int(found[2]), found[3] or ""] = cell
    for place, layers in places.items():
        yield _layer(place, layers, assume)


def _in_order(way: str, layers: Mapping[tuple[int, str], Cell]) -> list[list[Cell]]:
    """Return the cells of each layer, the forward one first, if none is missing."""
    numbers = sorted({number for number, _ in layers})
    sides = [""] if all(side == "" for _, side in layers) else ["l", "r"]
    step = 2 if numbers[1:2] == [2] else 1
    wanted = [[(number * step, side) for side in sides] for number in range(len(numbers))]
    odd = set(itertools.chain.from_iterable(wanted)) ^ layers.keys()
    if odd:
        number, side = min(odd)
        raise WeightFormatError(
            f"the keys below {way!r} are no layer's, which are numbered from 0 and have all one direction or all two: "
            f"{way + f'.{number}' + (f'.{side}_cell' if side else '')!r} is "
            f"{'one too many' if (number, side) in layers else 'missing'}"
        )
    return [[layers[each] for each in row] for row in wanted]


def _refuse_unlike(way: str, rows: Sequence[Sequence[Cell]]) -> None:
    """Refuse layers of which one differs from the first in more than the width that it reads."""
    first = rows[0][0]
    for layer, row in enumerate(rows):
        width = first.num_outputs * len(row) if layer else first.input_size
        for cell in row:
            if cell != dataclasses.replace(first, prefix=cell.prefix, input_size=width):
                raise WeightFormatError(
                    f"the layers below {way!r} do not fit each other: {cell.prefix[:-1]!r} is {cell}, where "
                    f"{first.prefix[:-1]!r} is {first}"
                )


def _layer(place: str, layers: Mapping[tuple[int, str], Cell], assume: Assumptions) -> Unit:
    way = f"{place}._unfused" if place else "_unfused"
    rows = _in_order(way, layers)
    _refuse_unlike(way, rows)
    first, depth, directions = rows[0][0], len(rows), len(rows[0])
    activation = assume.activation_of(place or "rnn") if first.mode == "rnn_tanh" else ""
    default = f"rnn_{activation}" if activation in ("tanh", "relu") else first.mode.partition("_")[0]
    ways = [cell.prefix[:-1] for row in rows for cell in row]
    told = f"keys {ways[0]!r} to {ways[-1]!r}: Gluon's layer, num_layers {depth}, directions {directions}, {first}"
    top = max(number for number, _ in layers)
    if top >= depth:
        told += f"; numbers 0 to {top} by twos, as MXNet up to 1.2 counts dropout between layers"
    prefix = f"{place or default}_"
    spec, named = layered(prefix, rows, activation), tuple(_prefixes(ways, prefix).items())
    return Unit(place, spec, first.input_size, first.num_outputs * directions, named, (told,), default, is_layer=True)


def _single(cells: Mapping[str, Cell], assume: Assumptions) -> Iterator[Unit]:
    for way, cell in cells.items():
        if not _LAYER.fullmatch(way):
            prefix, default = f"{way}_", cell.mode.partition("_")[0]
            spec = cell.spec(prefix, assume.activation_of(way) if cell.mode == "rnn_tanh" else "")
            told = f"keys {way!r}: {cell}"
            yield Unit(way, spec, cell.input_size, cell.num_outputs, ((way, prefix),), (told,), default)

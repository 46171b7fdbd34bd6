"""Blocks of Gluon within blocks: which cells are the directions of one cell, or a stack of numbered ones.

Sources: ``SequentialRNNCell``, ``BidirectionalCell`` and ``ModifierCell`` in ``python/mxnet/gluon/rnn/rnn_cell.py`` of
MXNet 1.9.1, which say what their children are called.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

from rnnx.building import two_directions
from rnnx.errors import WeightFormatError
from rnnx.found import stack_of
from rnnx.spec import CellSpec

__all__ = ["Unit", "put_together"]

_Shapes = Mapping[str, tuple[int, ...]]

_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")


@dataclasses.dataclass(frozen=True)
class Unit:
    """What a block computes: a layer, a cell, or cells put together.

    Parameters
    ----------
    place : str
        The way to the block.
    spec : CellSpec
        Its description.
    input_size, output_size : int
        The widths of what it reads and makes.
    named : tuple of pairs of str
        Of each cell, in the order in which they run, the way to its weights and their prefix in the description.
    evidence : tuple of str
        A sentence for each decision.
    default : str
        What to call it where it has no place.
    is_layer : bool
        Whether it is a layer, which takes a sequence, and no cell, which takes a step.
    """

    place: str
    spec: CellSpec
    input_size: int
    output_size: int
    named: tuple[tuple[str, str], ...]
    evidence: tuple[str, ...]
    default: str
    is_layer: bool = False


def put_together(units: Iterable[Unit], ways: Iterable[str], shapes: _Shapes) -> list[Unit]:
    """Return the units, with those put together that are children of one cell or container.

    Parameters
    ----------
    units : iterable of Unit
        Layers and single cells.
    ways : iterable of str
        The ways to all recurrent cells of the file, those included that no unit stands for.
    shapes : mapping of str to tuple of int
        The shape of every array by name.

    Raises
    ------
    WeightFormatError
        If a cell is changed by another, and keys do not tell how.
    """
    rooted = {unit.place: unit for unit in units}
    children: dict[str, dict[str, None]] = {}
    for place in itertools.chain(rooted, ways):
        while place:
            place, _, child = place.rpartition(".")
            children.setdefault(place, {})[child] = None
    # The innermost first: what they make may be a child of the next.
    for place in sorted(children, key=lambda place: place.count(".") + bool(place), reverse=True):
        inner = {child: rooted.get(f"{place}.{child}" if place else child) for child in children[place]}
        known = {child: unit for child, unit in inner.items() if unit is not None}
        if place in rooted or len(known) < len(inner):
            continue
        whole = _directions(place, known) or _base_cell(place, known) or _stack(place, known, shapes)
        if whole:
            for unit in known.values():
                del rooted[unit.place]
            rooted[place] = whole
    return list(rooted.values())


def _directions(place: str, inner: Mapping[str, Unit]) -> Unit | None:
    if inner.keys() != {"l_cell", "r_cell"}:
        return None
    pair = [inner["l_cell"], inner["r_cell"]]
    if pair[0].input_size != pair[1].input_size or any(unit.is_layer for unit in pair):
        return None
    told = f"{pair[0].place!r} and {pair[1].place!r} are the two directions of a BidirectionalCell"
    width = pair[0].output_size + pair[1].output_size
    return _whole(place, pair, two_directions([unit.spec for unit in pair]), width, told)


def _base_cell(place: str, inner: Mapping[str, Unit]) -> Unit | None:
    if inner.keys() != {"base_cell"} or inner["base_cell"].is_layer:
        return None
    base = inner["base_cell"]
    if base.input_size == base.output_size:
        kind = next(cell.kind for cell in base.spec.walk() if "num_hidden" in cell.fields)
        raise WeightFormatError(
            f"{base.place!r} is within a ResidualCell, which adds its inputs to its outputs, or within a cell that "
            "acts in training only, and keys do not tell which: give the tree as cell=, such as "
            f"rnnx.ResidualCell(rnnx.{kind}(…, prefix={base.named[0][0] + '.'!r}))"
        )
    told = f"{base.place!r} is within a cell that acts in training only: a residual's outputs are as wide as its inputs"
    return _whole(place, [base], base.spec, base.output_size, told)


def _stack(place: str, inner: Mapping[str, Unit], shapes: _Shapes) -> Unit | None:
    if not all(map(_NUMBER.fullmatch, inner)):
        return None
    units = [inner[child] for child in sorted(inner, key=int)]
    fits = all(lower.output_size == upper.input_size for lower, upper in itertools.pairwise(units))
    if not fits or len({unit.is_layer for unit in units}) > 1 or not _adjoin(place, inner, units, shapes):
        return None
    if len(units) == 1:
        return None if units[0].is_layer else _whole(place, units, units[0].spec, units[0].output_size)
    spec = stack_of([cell for unit in units for cell in _flat(unit.spec)])
    names = ", ".join(repr(unit.place) for unit in units)
    told = f"{names} are a stack: their container numbers them, and each is as wide as the next one reads"
    return _whole(place, units, spec, units[-1].output_size, told)


def _adjoin(place: str, inner: Mapping[str, Unit], units: Sequence[Unit], shapes: _Shapes) -> bool:
    """Say whether nothing stands between numbered children that could change what they compute.

    What has no weights between cells is a ``DropoutCell``; between layers it may be anything.
    """
    numbers = sorted(map(int, inner))
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        return True
    start = f"{place}." if place else ""
    others = {name[len(start) :].partition(".")[0] for name in shapes if name.startswith(start)} - inner.keys()
    between = [child for child in others if _NUMBER.fullmatch(child) and numbers[0] < int(child) < numbers[-1]]
    return not between and not units[0].is_layer


def _flat(spec: CellSpec) -> Sequence[CellSpec]:
    return spec.children if spec.kind == "SequentialRNNCell" else (spec,)


def _whole(place: str, units: Sequence[Unit], spec: CellSpec, output_size: int, *told: str) -> Unit:
    """Return units as one, which reads what the first of them reads."""
    return dataclasses.replace(
        units[0],
        place=place,
        spec=spec,
        output_size=output_size,
        named=tuple(itertools.chain.from_iterable(unit.named for unit in units)),
        evidence=(*itertools.chain.from_iterable(unit.evidence for unit in units), *told),
    )

"""Where cells of TensorFlow 1 stand in each other, by the scopes that their variables' names begin with; both ways.

=============================================================  ====================================
scope of a cell, behind the place of the whole                 made by
=============================================================  ====================================
``multi_rnn_cell/cell_{k}/``                                   ``MultiRNNCell``
``bidirectional_rnn/{fw,bw}/``                                 ``bidirectional_dynamic_rnn``
``bidirectional_rnn/{fw,bw}/multi_rnn_cell/cell_{k}/``         the same of two ``MultiRNNCell``
``stack_bidirectional_rnn/cell_{k}/bidirectional_rnn/{fw,bw}/``  ``stack_bidirectional_dynamic_rnn``
=============================================================  ====================================

A user may have named ``bidirectional_rnn`` and ``stack_bidirectional_rnn`` otherwise.

Sources: ``tensorflow/python/ops/rnn.py`` and ``tensorflow/contrib/rnn/python/ops/rnn.py`` of TensorFlow 1.15.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rnnx.building import fused_cell, plain_cell, two_directions
from rnnx.errors import UnsupportedError, WeightFormatError
from rnnx.formats.tf1.names import Cell, cells_of, strange_cells, tensors_of_cell
from rnnx.found import Assumptions, Found, layered, name_of, renamed_apart, stack_of
from rnnx.fusion import layers_of, running_layers
from rnnx.spec import CellSpec
from rnnx.weights.stored import Shape

__all__ = ["parts_of_variables", "scopes_of"]

_SCOPE = re.compile(
    r"(?s)(?:(?P<place>.*?)/)??"
    r"(?P<structure>"
    r"(?:stack_bidirectional_rnn(?:_[0-9]+)?/)?cell_(?P<pair>[0-9]{1,4})/bidirectional_rnn/(?P<side>fw|bw)/|"
    r"(?:bidirectional_rnn(?:_[0-9]+)?/)?(?P<half>fw|bw)/(?:multi_rnn_cell(?:_[0-9]+)?/cell_(?P<inner>[0-9]{1,4})/)?|"
    r"multi_rnn_cell(?:_[0-9]+)?/cell_(?P<layer>[0-9]{1,4})/|"
    r")(?P<cell>[^/]+)"
)

#: What is numbered or named in a structure.
_VARYING = re.compile(r"(?:(?<=/cell_)|(?<=^cell_))[0-9]+(?=/)|(?:(?<=/)|^)(?:fw|bw)(?=/)")

_OPEN = (
    "variables do not tell residual connections, dropout, a clipped state, or another activation than tanh of LSTM and "
    "GRU cells: none are assumed"
)

_KINDS = {"lstm": "LSTM, gates i j f o", "gru": "GRU, gates r u and candidate", "rnn": "plain cell"}

_PLAIN = ("LSTMCell", "LSTMPCell", "GRUCell", "RNNCell")


@dataclasses.dataclass(frozen=True)
class _Unit:
    """Cells that stand in one structure.

    Parameters
    ----------
    place : str
        The scope of the whole.
    structure : str
        What the cells' scopes have in common behind that, with stars for what differs; of a single cell, its name.
    cells : mapping of (int, str) to Cell
        By layer and side, which is ``fw``, ``bw`` or nothing; the bottom layer and the forward side first.
    split : bool
        Whether it is one cell of a structure whose cells do not fit each other.
    """

    place: str
    structure: str
    cells: Mapping[tuple[int, str], Cell]
    split: bool = False

    @property
    def sides(self) -> tuple[str, ...]:
        return ("fw", "bw") if any(side for _, side in self.cells) else ("",)

    @property
    def depth(self) -> int:
        return 1 + max(layer for layer, _ in self.cells)

    @property
    def first(self) -> Cell:
        return next(iter(self.cells.values()))

    @property
    def alone(self) -> bool:
        """Whether it is one cell that stands in no structure."""
        return "/" not in self.structure

    @property
    def stacks_of_sides(self) -> bool:
        """Whether each side is a stack of its own, rather than each layer having two sides."""
        return "*/multi_rnn_cell" in self.structure

    def prefix(self, common: str, layer: int, side: str) -> str:
        """Return the prefix of a cell's weights, given that of the whole."""
        return common if self.alone else f"{common}{'r' if side == 'bw' else 'l'}{layer}_"


# -- reading ----------------------------------------------------------------------------------------------------------


def parts_of_variables(shapes: Mapping[str, Shape], assume: Assumptions) -> list[Found]:
    """Return the recurrent parts that a checkpoint's variables are of, in natural order of their names.

    Scopes of their own are parts of their own, however well their widths fit: no name tells what runs between them.

    Raises
    ------
    WeightFormatError
        If variables are missing or do not fit each other, or something must be assumed and is not.
    UnsupportedError
        If there are recurrent cells, and none that rnnx has.
    """
    left_out = [f"cell {scope!r} has {what}, unlike rnnx's" for scope, what in strange_cells(shapes).items()]
    units = _units(cells_of(shapes))
    if left_out and not units:
        raise UnsupportedError("; ".join(left_out[:3]))
    parts = layered([_part(unit, assume) for unit in units])
    told = (_OPEN, *left_out[:3])
    return renamed_apart([dataclasses.replace(part, evidence=(*part.evidence, *told)) for part in parts])


def _units(cells: Sequence[Cell]) -> list[_Unit]:
    """Return the structures that cells make, each in a place of its own."""
    found: dict[tuple[str, str], dict[tuple[int, str], Cell]] = {}
    for cell in cells:
        where, position = _position(cell.scope)
        other = found.setdefault(where, {}).setdefault(position, cell)
        if other is not cell:
            raise WeightFormatError(f"{other.scope!r} and {cell.scope!r} are two cells in one place")
    units = []
    shared = Counter(place for place, _ in found)
    for (place, structure), held in found.items():
        inner = structure.partition("/")[0].strip("*") if shared[place] > 1 else ""
        ordered = {position: held[position] for position in sorted(held, key=lambda each: (each[0], each[1] == "bw"))}
        units += _fitting(_Unit("/".join(filter(None, (place, inner))), structure, ordered))
    return units


def _position(scope: str) -> tuple[tuple[str, str], tuple[int, str]]:
    """Return the place and structure that a cell's scope is in, and its layer and side there."""
    named = _SCOPE.fullmatch(scope)
    assert named, scope
    numbers = [int(named[group]) for group in ("pair", "inner", "layer") if named[group]]
    structure = _VARYING.sub("*", named["structure"])
    # Cells that stand in no structure are told apart by their names.
    where = (named["place"] or "", structure or named["cell"])
    return where, (numbers[0] if numbers else 0, named["side"] or named["half"] or "")


def _fitting(unit: _Unit) -> list[_Unit]:
    """Return a unit whose cells fit each other, or else each of them alone: something else stands between them."""
    for layer, side in itertools.product(range(unit.depth), unit.sides):
        if (layer, side) not in unit.cells:
            what = f"layer {layer}" + (f", side {side!r}" if side else "")
            raise WeightFormatError(f"the variables of {what} are missing: {unit.first.scope!r} is of the same stack")
    for (layer, side), cell in unit.cells.items():
        below = [unit.cells[layer - 1, each] for each in ((side,) if unit.stacks_of_sides else unit.sides) if layer]
        if cell.input_size != (sum(each.output_size for each in below) or unit.first.input_size):
            alone = (each.scope.rpartition("/") for each in unit.cells.values())
            cells = zip(alone, unit.cells.values(), strict=True)
            return [_Unit(place, name, {(0, ""): each}, split=True) for (place, _, name), each in cells]
    return [unit]


def _part(unit: _Unit, assume: Assumptions) -> Found:
    mode, name = unit.first.form.mode, unit.place or unit.first.form.mode
    plain = any(cell.form.mode == "rnn" for cell in unit.cells.values())
    activation = assume.activation_of(name) if plain else None
    fused = _is_fused(unit) and activation in (None, "tanh", "relu")
    mode = f"rnn_{activation}" if fused and activation else mode
    common = f"{unit.place or mode}_"
    cells = {place: _running(cell, name, assume) for place, cell in unit.cells.items()}
    return Found(
        common.removesuffix("_"),
        fused_cell(mode, unit.first.num_hidden, unit.depth, len(unit.sides) == 2, common)
        if fused
        else _stack(unit, common, activation),
        tuple(_seen(unit, cells.values())),
        unit.first.input_size,
        sum(cell.output_size for (layer, _), cell in cells.items() if layer == unit.depth - 1),
        tuple(each for place, cell in cells.items() for each in tensors_of_cell(cell, unit.prefix(common, *place))),
    )


def _running(cell: Cell, part: str, assume: Assumptions) -> Cell:
    """Return a cell with the constant that it adds when it runs."""
    return dataclasses.replace(cell, forget_bias=assume.forget_bias_of(part)) if cell.adds_constant else cell


def _is_fused(unit: _Unit) -> bool:
    """Say whether a unit is what a fused cell is: several layers or two directions, all alike."""
    if unit.alone or unit.stacks_of_sides or unit.first.num_projection:
        return False
    cells = unit.cells.values()
    alike = {(cell.form.mode, cell.form.reset_after, cell.num_hidden, cell.num_projection) for cell in cells}
    return len(alike) == 1 and (unit.first.form.mode != "gru" or unit.first.form.reset_after)


def _stack(unit: _Unit, common: str, activation: str | None) -> CellSpec:
    def plain(layer: int, side: str) -> CellSpec:
        cell = unit.cells[layer, side]
        return plain_cell(
            cell.form.mode,
            cell.num_hidden,
            unit.prefix(common, layer, side),
            reset_after=cell.form.reset_after,
            activation=activation,
            num_projection=cell.num_projection,
        )

    layers = range(unit.depth)
    if unit.stacks_of_sides:
        return two_directions([stack_of([plain(each, side) for each in layers]) for side in unit.sides], f"{common}bi_")
    pairs = [[plain(layer, side) for side in unit.sides] for layer in layers]
    return stack_of([two_directions(pair, f"{common}bi_l{layer}_") for layer, pair in enumerate(pairs)])


def _seen(unit: _Unit, cells: Iterable[Cell]) -> Iterator[str]:
    for cell in cells:
        reset = f", reset {'after' if cell.form.reset_after else 'before'} the product"
        yield (
            f"variables {', '.join(cell.form.names)} of {cell.scope!r}: {_KINDS[cell.form.mode]}"
            f"{reset if cell.form.mode == 'gru' else ''}, {cell.num_hidden} hidden"
            f"{f', projected to {cell.num_projection}' if cell.num_projection else ''}, reading {cell.input_size}"
        )
        if cell.adds_constant:
            yield (
                f"{cell.scope!r} is said to add {cell.forget_bias} to its forget gate when it runs: that is its h2h "
                "bias, and the stored bias stays as it is"
            )
    if unit.split:
        yield f"{unit.place!r} is a part of its own: the cells of its stack read other widths than those below make"


# -- writing ----------------------------------------------------------------------------------------------------------


def scopes_of(spec: CellSpec) -> Iterator[tuple[str, CellSpec]]:
    """Yield the plain cells of a tree, each with the scope in which it stands: empty, or ending with a slash.

    Raises
    ------
    UnsupportedError
        If variables cannot tell what a part of the tree does.
    """
    layers = [_sides(cell) for cell in running_layers(spec)]
    uneven = len({len(sides) for sides in layers}) > 1 or any(len(cells) > 1 for sides in layers for cells in sides)
    for layer, sides in enumerate(layers):
        if uneven:
            # No single function of TensorFlow makes it: several do, one after the other.
            own = f"layer_{layer}/" if len(layers) > 1 else ""
            own += "bidirectional_rnn/" if len(sides) == 2 else ""
        elif len(sides) == 2:
            own = f"stack_bidirectional_rnn/cell_{layer}/bidirectional_rnn/"
        else:
            own = "" if spec.kind in _PLAIN else f"multi_rnn_cell/cell_{layer}/"
        for side, cells in zip(("fw/", "bw/") if len(sides) == 2 else ("",), sides, strict=True):
            for inner, cell in enumerate(cells):
                deeper = f"multi_rnn_cell/cell_{inner}/" if len(cells) > 1 else ""
                yield f"{_place(spec)}{own}{side}{deeper}", cell


def _place(spec: CellSpec) -> str:
    """Return the scope that the whole tree stands in: what the prefixes of its cells have in common."""
    common = name_of(spec)
    place = "" if "+" in common else common.removesuffix("_")
    return f"{place}/" if place else ""


def _sides(cell: CellSpec) -> list[list[CellSpec]]:
    """Return the plain cells of each direction of a layer, the bottom one first."""
    sides = cell.children if cell.kind == "BidirectionalCell" else (cell,)
    return [[_plain(each) for each in layers_of(side)] for side in sides]


def _plain(cell: CellSpec) -> CellSpec:
    if cell.kind not in _PLAIN:
        prefix = name_of(cell) or cell.fields.get("prefix", "")
        raise UnsupportedError(
            f"the {cell.kind} of {prefix!r} would be lost in a TensorFlow checkpoint, whose variables do not tell it: "
            "write a portable file (.rnnx) or ONNX"
        )
    return cell

"""Recurrent cells told from the names and shapes of weights alone, where a checkpoint has no symbol file.

A cell's weights are called ``<prefix>i2h_weight``, ``<prefix>i2h_bias``, ``<prefix>h2h_weight``, ``<prefix>h2h_bias``
where its gates are packed, and ``<prefix>i2h_f_weight`` and so on where each stands alone, as ``save_rnn_checkpoint``
stores them. With H hidden units, the packed ones have 4H rows for an LSTM, 3H for a GRU and H for a plain cell.

Names and shapes leave some things open. An error asks for what a network cannot be built without: the activation of a
plain cell, and everything about the flat vector ``<prefix>parameters``. Others are said in the evidence: residual
connections, dropout, zoneout, which cells run backwards, and whether packed gates of an LSTM stand in the order i c f o
of the years before 2017 (see `rnnx.formats.mxnet_steps`).

Source: ``unpack_weights`` in ``python/mxnet/rnn/rnn_cell.py`` of MXNet 1.9.1.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rnnx.errors import UnsupportedError, WeightFormatError, nearest
from rnnx.found import Assumptions, Found, name_of, renamed_apart, stack_of
from rnnx.spec import GATES, CellSpec

__all__ = ["parts_of_weights"]

_Shapes = Mapping[str, tuple[int, ...]]

_WEIGHT = re.compile(r"(?s)(.*)(i2h|h2h)(_[a-z])?_(weight|bias)")

#: The prefix of one layer and direction of a fused cell; behind a letter it is the end of a word, as in "decoder0_".
_LAYER = re.compile(r"(?s)(|.*[^a-zA-Z])([lr])(0|[1-9][0-9]{0,3})_")

_NUMBER = re.compile(r"[0-9]{1,9}")

_MODE_OF_ROWS = {len(GATES[mode]): mode for mode in ("lstm", "gru", "rnn_tanh")}

_OPEN = "weights do not tell residual connections, dropout or zoneout: none are assumed"


@dataclasses.dataclass(frozen=True)
class _Cell:
    """A cell's weights: prefix, mode of the gates (``rnn_tanh`` for any plain cell), sizes, and whether packed."""

    prefix: str
    mode: str
    input_size: int
    num_hidden: int
    packed: bool


@dataclasses.dataclass(frozen=True)
class _Unit:
    """One or several cells that run one after the other, and the widths of what they read and make."""

    spec: CellSpec
    input_size: int
    output_size: int
    evidence: tuple[str, ...]

    @property
    def name(self) -> str:
        """What the cells' prefixes have in common."""
        return name_of(self.spec)


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
    cells = [_cell(prefix, gates, shapes) for prefix, gates in _gates(shapes).items() if prefix not in strange]
    left_out = [f"cell {prefix!r} has {what}, unlike rnnx's" for prefix, what in strange.items()]
    if left_out and not cells:
        raise UnsupportedError("; ".join(left_out[:3]))
    units = _joined(sorted(_units(cells, shapes, assume), key=lambda unit: _natural(unit.name)))
    told = (_OPEN, *left_out[:3])
    return renamed_apart([Found(unit.name, unit.spec, (*unit.evidence, *told)) for unit in units])


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
        elif name.endswith("h2r_weight"):
            strange[name.removesuffix("h2r_weight")] = f"a projected hidden state ({name!r})"
    return strange


# -- one cell ---------------------------------------------------------------------------------------------------------


def _cell(prefix: str, gates: set[str], shapes: _Shapes) -> _Cell:
    if "" in gates and len(gates) > 1:
        raise WeightFormatError(f"cell {prefix!r} has packed weights and weights of single gates: keep one of the two")
    if gates == {""}:
        _require(prefix, ("",), shapes)
        return _packed_cell(prefix, shapes)
    mode = _mode_of(prefix, gates)
    _require(prefix, GATES[mode], shapes)
    hidden = f"{prefix}h2h{GATES[mode][0]}_weight"
    num_hidden = _rows(hidden, shapes)
    return _checked(prefix, mode, num_hidden, False, shapes, hidden)


def _mode_of(prefix: str, gates: set[str]) -> str:
    for mode in ("lstm", "gru"):
        own = set(GATES[mode]) - {"_o"}
        if gates & own and gates <= set(GATES[mode]):
            return mode
    found = " ".join(sorted(gate[1:] for gate in gates))
    raise WeightFormatError(
        f"cell {prefix!r} has weights of the gates {found}; expected an LSTM's, i f c o, or a GRU's, r z o"
    )


def _require(prefix: str, gates: Sequence[str], shapes: _Shapes) -> None:
    for name in _names(prefix, gates):
        if name not in shapes:
            raise WeightFormatError(
                f"weight {name!r} is missing{nearest(name, shapes)}: cell {prefix!r} has others of the kind"
            )


def _names(prefix: str, gates: Sequence[str]) -> Iterator[str]:
    for role, gate, kind in itertools.product(("i2h", "h2h"), gates, ("weight", "bias")):
        yield f"{prefix}{role}{gate}_{kind}"


def _packed_cell(prefix: str, shapes: _Shapes) -> _Cell:
    name = f"{prefix}h2h_weight"
    rows, shape = _rows(name, shapes), shapes[name]
    if shape[1] < 1 or rows % shape[1] or rows // shape[1] not in _MODE_OF_ROWS:
        raise WeightFormatError(
            f"weight {name!r} has shape {shape}; expected 4 rows a column for an LSTM, 3 for a GRU, 1 for a plain cell"
        )
    return _checked(prefix, _MODE_OF_ROWS[rows // shape[1]], shape[1], True, shapes, name)


def _rows(name: str, shapes: _Shapes) -> int:
    if len(shapes[name]) != 2 or shapes[name][0] < 1:
        raise WeightFormatError(f"weight {name!r} has shape {shapes[name]}; expected a matrix")
    return shapes[name][0]


def _checked(prefix: str, mode: str, num_hidden: int, packed: bool, shapes: _Shapes, hidden: str) -> _Cell:
    """Return the cell if all its weights have the shapes that the hidden weight of that name asks for."""
    gates = ("",) if packed else GATES[mode]
    rows = num_hidden * len(GATES[mode]) if packed else num_hidden
    first = f"{prefix}i2h{gates[0]}_weight"
    _rows(first, shapes)
    input_size = shapes[first][1]
    for name in _names(prefix, gates):
        width = input_size if f"{prefix}i2h" in name else num_hidden
        expected = (rows, width) if name.endswith("_weight") else (rows,)
        if shapes[name] != expected:
            raise WeightFormatError(
                f"weight {name!r} has shape {shapes[name]}, expected {expected}: {hidden!r} has {shapes[hidden]} and "
                f"{first!r} {shapes[first]}"
            )
    return _Cell(prefix, mode, input_size, num_hidden, packed)


# -- cells put together -----------------------------------------------------------------------------------------------


def _units(cells: Sequence[_Cell], shapes: _Shapes, assume: Assumptions) -> Iterator[_Unit]:
    layered: dict[str, dict[tuple[int, str], _Cell]] = {}
    single = []
    for cell in cells:
        named = _LAYER.fullmatch(cell.prefix)
        if named:
            layered.setdefault(named[1], {})[int(named[3]), named[2]] = cell
        else:
            single.append(cell)
    for prefix, layers in layered.items():
        if _is_fused(layers):
            _require_layers(prefix, layers, shapes)
            yield _fused(prefix, layers, assume)
        else:
            single += layers.values()
    yield from _numbered([_plain(cell, assume) for cell in sorted(single, key=lambda cell: _natural(cell.prefix))])


def _is_fused(layers: Mapping[tuple[int, str], _Cell]) -> bool:
    """Say whether layers are alike, and each as wide as what the one above reads."""
    alike = {(cell.mode, cell.num_hidden, cell.packed) for cell in layers.values()}
    width = next(iter(layers.values())).num_hidden * len({direction for _, direction in layers})
    bottom = {cell.input_size for (layer, _), cell in layers.items() if layer == 0}
    above = {cell.input_size for (layer, _), cell in layers.items() if layer > 0}
    return len(alike) == 1 and len(bottom) <= 1 and above <= {width}


def _require_layers(prefix: str, layers: Mapping[tuple[int, str], _Cell], shapes: _Shapes) -> None:
    some = next(iter(layers.values()))
    gate = "" if some.packed else GATES[some.mode][0]
    directions = sorted({direction for _, direction in layers} | {"l"})
    for layer, direction in itertools.product(range(1 + max(layer for layer, _ in layers)), directions):
        if (layer, direction) not in layers:
            name = f"{prefix}{direction}{layer}_i2h{gate}_weight"
            raise WeightFormatError(
                f"weight {name!r} is missing{nearest(name, shapes)}: the cell {prefix!r} has weights of other layers"
            )


def _fused(prefix: str, layers: Mapping[tuple[int, str], _Cell], assume: Assumptions) -> _Unit:
    cell = layers[0, "l"]
    directions = len({direction for _, direction in layers})
    depth = len(layers) // directions
    told = (
        f"weights {prefix + 'l0_'!r} to {max(layers.values(), key=lambda cell: _natural(cell.prefix)).prefix!r}: "
        f"num_layers {depth}, directions {directions}, {_what(cell)}"
    )
    activation = _activation(prefix, assume) if cell.mode == "rnn_tanh" else ""
    if activation in ("", "tanh", "relu"):
        spec = _fused_spec(prefix, f"rnn_{activation}" if activation else cell.mode, cell.num_hidden, depth, directions)
    else:
        spec = stack_of([_layer_spec(prefix, layer, directions, cell.num_hidden, activation) for layer in range(depth)])
    return _Unit(spec, cell.input_size, cell.num_hidden * directions, (told, *_order(cell)))


def _fused_spec(prefix: str, mode: str, num_hidden: int, num_layers: int, directions: int) -> CellSpec:
    fields = {
        "num_hidden": num_hidden,
        "num_layers": num_layers,
        "mode": mode,
        "bidirectional": directions == 2,
        "dropout": 0.0,
        "get_next_state": False,
        "forget_bias": 1.0,
        "prefix": prefix,
    }
    return CellSpec("FusedRNNCell", fields)


def _layer_spec(prefix: str, layer: int, directions: int, num_hidden: int, activation: str) -> CellSpec:
    """Return one layer of plain cells whose activation no fused cell has."""
    cells = [
        CellSpec(
            "RNNCell", {"num_hidden": num_hidden, "activation": activation, "prefix": f"{prefix}{direction}{layer}_"}
        )
        for direction in "lr"[:directions]
    ]
    if directions == 1:
        return cells[0]
    return CellSpec("BidirectionalCell", {"output_prefix": f"{prefix}bi_l{layer}_"}, tuple(cells))


def _plain(cell: _Cell, assume: Assumptions) -> _Unit:
    fields: dict[str, int | float | str | bool] = {"num_hidden": cell.num_hidden, "prefix": cell.prefix}
    if cell.mode == "lstm":
        spec = CellSpec("LSTMCell", {**fields, "forget_bias": 1.0})
    elif cell.mode == "gru":
        spec = CellSpec("GRUCell", {**fields, "reset_after": True})
    else:
        spec = CellSpec("RNNCell", {**fields, "activation": _activation(cell.prefix, assume)})
    told = f"weights {cell.prefix!r}: {_what(cell)}"
    return _Unit(spec, cell.input_size, cell.num_hidden, (told, *_order(cell)))


def _activation(prefix: str, assume: Assumptions) -> str:
    named = {"rnn_tanh_": "tanh", "rnn_relu_": "relu"}.get(prefix, assume.activation)
    if named is None:
        raise WeightFormatError(
            f"part {prefix!r} is of plain recurrent cells, and weights do not tell their activation: give it as "
            "activation='tanh' or activation='relu', or the tree as cell="
        )
    return named


def _what(cell: _Cell) -> str:
    kind = {"lstm": "LSTM", "gru": "GRU"}.get(cell.mode, "plain cell")
    seen = "packed" if cell.packed else "by the names of its gates"
    return f"{kind} ({seen}), {cell.num_hidden} hidden, reading {cell.input_size}"


def _order(cell: _Cell) -> tuple[str, ...]:
    if cell.mode != "lstm" or not cell.packed:
        return ()
    return (
        f"packed gates of {cell.prefix!r} are taken to stand i f c o; where MXNet from before 2017 wrote them, they "
        "stand i c f o, which only its symbol.json tells",
    )


def _numbered(units: Sequence[_Unit]) -> Iterator[_Unit]:
    """Join the cells whose prefixes are the same but for a number that counts up, where their widths fit."""
    groups: dict[tuple[str, ...], list[_Unit]] = {}
    for unit in units:
        groups.setdefault(tuple(_NUMBER.split(unit.name)), []).append(unit)
    for group in groups.values():
        if _count_up([unit.name for unit in group]) and _fit(group):
            yield _stacked(group, "their prefixes count up")
        else:
            yield from group


def _count_up(names: Sequence[str]) -> bool:
    columns = zip(*([int(number) for number in _NUMBER.findall(name)] for name in names), strict=True)
    counting = [column for column in columns if len(set(column)) > 1]
    return len(counting) == 1 and list(counting[0]) == list(range(counting[0][0], counting[0][0] + len(names)))


def _joined(units: Sequence[_Unit]) -> Sequence[_Unit]:
    """Join all units if each reads what the one before it makes, and what no other makes."""
    outputs = Counter(unit.output_size for unit in units)
    makers = [outputs[unit.input_size] - (unit.output_size == unit.input_size) for unit in units]
    if len(units) < 2 or makers != [0] + [1] * (len(units) - 1) or not _fit(units):
        return units
    return [_stacked(units, "no other order fits their widths")]


def _fit(units: Sequence[_Unit]) -> bool:
    return all(lower.output_size == upper.input_size for lower, upper in itertools.pairwise(units))


def _stacked(units: Sequence[_Unit], why: str) -> _Unit:
    cells = [cell for unit in units for cell in _flat(unit.spec)]
    names = ", ".join(repr(unit.name) for unit in units)
    evidence = (*itertools.chain.from_iterable(unit.evidence for unit in units), f"{names} are a stack: {why}")
    return _Unit(stack_of(cells), units[0].input_size, units[-1].output_size, evidence)


def _flat(spec: CellSpec) -> tuple[CellSpec, ...]:
    return spec.children if spec.kind == "SequentialRNNCell" else (spec,)


def _natural(text: str) -> list[tuple[str, int]]:
    """Return a key that sorts numbers in names by what they count: ``l2_`` before ``l10_``."""
    words, numbers = _NUMBER.split(text), [int(number) for number in _NUMBER.findall(text)]
    return list(zip(words, [*numbers, -1], strict=True))

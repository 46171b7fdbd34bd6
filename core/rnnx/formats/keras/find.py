"""The recurrent parts of a Keras file: told by its config as far as it goes, and by names and shapes beyond.

With H units a kernel has 4H columns in an LSTM, 3H in a GRU and H in a plain cell. Weights do not tell activations, and
those of a GRU without biases do not tell where the reset gate acts.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence

from rnnx.building import plain_cell, two_directions
from rnnx.cells import BaseRNNCell
from rnnx.errors import UnsupportedError, WeightFormatError
from rnnx.formats.keras.config import Drawn, Layer
from rnnx.formats.keras.layers import GATE_ORDER, Unit, found_units
from rnnx.formats.keras.names import CellInFile, LegacyPlaces, Places
from rnnx.found import Assumptions, Found, renamed_apart, stack_of
from rnnx.spec import CellSpec
from rnnx.spelling import plain_leaves
from rnnx.weights.stored import Shape

__all__ = ["Told", "part_of_chain", "parts_of", "told_by"]

_KIND_OF_COLUMNS = {len(order): kind for kind, order in GATE_ORDER.items()}
_NAMES = {"LSTMCell": "lstm", "GRUCell": "gru", "RNNCell": "simple_rnn"}
_OPEN = (
    "weights do not tell activations, and whether a layer runs backwards: tanh and sigmoid are assumed of LSTMs and "
    "GRUs, and that none runs backwards but those of bidirectional layers"
)


@dataclasses.dataclass(frozen=True)
class Told:
    """What a file does not tell: activation of plain cells, and of GRUs without biases where the reset gate acts."""

    assume: Assumptions
    reset_after: bool | None = None


def told_by(cell: BaseRNNCell, assume: Assumptions) -> Told:
    """Return what a user says by giving a tree."""
    fields = [leaf.spec.fields for leaf in plain_leaves(cell)]
    activations = [own["activation"] for own in fields if "activation" in own]
    resets = [own["reset_after"] for own in fields if "reset_after" in own]
    known = Assumptions(activation=activations[0]) if activations and assume.activation is None else assume
    return Told(known, resets[0] if resets else None)


def parts_of(
    drawn: Drawn | None, places: Places | LegacyPlaces, shapes: Mapping[str, Shape], told: Told
) -> list[Found]:
    """Return every recurrent part of a file.

    Parameters
    ----------
    drawn : Drawn, optional
        What the config says.
    places : Places or LegacyPlaces
        Where cells have their weights.
    shapes : mapping of str to tuple of int
        The shape of every array.
    told : Told
        What the user says.

    Raises
    ------
    WeightFormatError
        If the file makes no sense, or something must be assumed and is not.
    UnsupportedError
        If there are recurrent cells, and none that rnnx has.
    """
    layers = drawn.layers if drawn else ()
    left = [cell for cell in places.cells() if not any(places.belongs(cell, layer) for layer in layers)]
    units, strange = _units_of_layers(layers, places)
    found = [part_of_chain(chain, shapes) for chain in _chains(drawn, units)] if drawn else []
    guessed, others = _units_of_cells(left, shapes, told)
    found += [found_units(unit.place, unit.spec, [unit], shapes) for unit in guessed]
    strange += others
    if strange and not found:
        raise UnsupportedError("; ".join(strange[:3]))
    return renamed_apart([dataclasses.replace(part, evidence=(*part.evidence, *strange[:3])) for part in found])


# -- told by the config -----------------------------------------------------------------------------------------------


def _units_of_layers(layers: Iterable[Layer], places: Places | LegacyPlaces) -> tuple[dict[str, Unit], list[str]]:
    """Return the layers that have weights in the file, by place, and why others are none."""
    units: dict[str, Unit] = {}
    strange = []
    for layer in layers:
        weights = places.of_layer(layer)
        if layer.spec is None:
            strange.append(layer.refused)
        elif weights is None:
            strange.append(
                f"layer {layer.place!r} of the config has {len(layer.cells)} cells, whose weights are not in the file, "
                "or not told from others"
            )
        else:
            prefixes = [prefix for prefix, _, _ in layer.cells]
            named = dict(zip(prefixes, weights, strict=True))
            seen = f"its weights are {', '.join(repr(each.kernel) for each in weights)} and what stands beside"
            evidence = (*layer.evidence, seen) if weights else ()
            units[layer.place] = Unit(layer.place, layer.spec, evidence, named)
    return units, strange


def _chains(drawn: Drawn, units: Mapping[str, Unit]) -> list[list[Unit]]:
    """Return the units that feed each other, first to last, with dropout between them."""
    sequences = {layer.place: layer.sequences for layer in drawn.layers}
    below: dict[str, list[Unit]] = {}
    for place, unit in units.items():
        between: list[Unit] = []
        feeder = drawn.feeders.get(place, "")
        while feeder in units and not units[feeder].weights and len(between) < len(units):
            between.insert(0, units[feeder])
            feeder = drawn.feeders.get(feeder, "")
        if unit.weights and feeder in units and units[feeder].weights and sequences[feeder]:
            below[place] = [units[feeder], *between]
    feeding = {chain[0].place for chain in below.values()}
    chains = []
    for place, unit in units.items():
        if unit.weights and place not in feeding:
            chain, seen = [unit], {place}
            while chain[0].place in below and below[chain[0].place][0].place not in seen:
                chain = below[chain[0].place] + chain
                seen.add(chain[0].place)
            chains.append(chain)
    return chains


def part_of_chain(chain: Sequence[Unit], shapes: Mapping[str, Shape]) -> Found:
    """Return the part that units make which feed each other, first to last; errors as of `found_units`."""
    places = [unit.place for unit in chain if unit.weights]
    flat = itertools.chain.from_iterable(
        unit.spec.children if unit.spec.kind == "SequentialRNNCell" else (unit.spec,) for unit in chain
    )
    part = found_units("+".join(places), stack_of(list(flat)), chain, shapes)
    if len(places) == 1:
        return part
    why = f"layers {', '.join(map(repr, places))} are a stack: each is all that the next one reads, step by step"
    return dataclasses.replace(part, evidence=(*part.evidence, why))


# -- told by names and shapes -----------------------------------------------------------------------------------------


def _units_of_cells(
    cells: Iterable[CellInFile], shapes: Mapping[str, Shape], told: Told
) -> tuple[list[Unit], list[str]]:
    """Return the layers that cells make, and why others make none."""
    layers: dict[str, list[CellInFile]] = {}
    for cell in cells:
        layers.setdefault(cell.place, []).append(cell)
    units, strange = [], []
    for place, own in layers.items():
        try:
            units.append(_unit(place, own, shapes, told))
        except UnsupportedError as error:
            strange.append(str(error))
    return units, strange


def _unit(place: str, cells: Sequence[CellInFile], shapes: Mapping[str, Shape], told: Told) -> Unit:
    kinds = [_kind(cell, shapes) for cell in cells]
    sides = [[cell for cell in cells if cell.side == side] for side in ("forward", "backward")]
    if any(sides) and not all(len(side) == 1 for side in sides):
        raise UnsupportedError(f"layer {place!r} has {len(sides[0])} forward and {len(sides[1])} backward cells")
    if any(sides):
        prefixes = [f"{place}_l0_" if cell.side == "forward" else f"{place}_r0_" for cell in cells]
    else:
        cells = _in_order(place, cells, shapes)
        kinds = [_kind(cell, shapes) for cell in cells]
        prefixes = [f"{place}_"] if len(cells) == 1 else [f"{place}_l{number}_" for number in range(len(cells))]
    specs = {
        prefix: _spec(cell, kind, prefix, shapes, told)
        for prefix, kind, cell in zip(prefixes, kinds, cells, strict=True)
    }
    weights = {prefix: cell.weights for prefix, cell in zip(prefixes, cells, strict=True)}
    inner = [specs[prefix] for prefix in sorted(specs)] if any(sides) else list(specs.values())
    spec = two_directions(inner, f"{place}_") if any(sides) else stack_of(inner)
    evidence = [_seen(cell, kind, shapes) for cell, kind in zip(cells, kinds, strict=True)]
    return Unit(place, spec, (*evidence, _OPEN), weights)


def _kind(cell: CellInFile, shapes: Mapping[str, Shape]) -> str:
    """Return the kind of cell that shapes tell, if the name does not say another."""
    weights = cell.weights
    kernel, recurrent = shapes[weights.kernel], shapes[weights.recurrent_kernel]
    seen = f"cell {cell.called!r} of layer {cell.place!r} has weights of shapes {kernel} and {recurrent}"
    if len(kernel) != 2 or len(recurrent) != 2:
        raise UnsupportedError(f"{seen}, which are convolutions or no recurrent cell's: rnnx has no cell for it")
    columns, hidden = recurrent[1], recurrent[0]
    kind = _KIND_OF_COLUMNS.get(columns // hidden) if hidden and columns % hidden == 0 else None
    if kind is None or kernel[1] != columns:
        raise UnsupportedError(f"{seen}; expected 4H columns of an LSTM, 3H of a GRU or H of a plain cell, with H rows")
    if weights.bias is not None:
        expected = [(2, columns), (columns,)] if kind == "GRUCell" else [(columns,)]
        if shapes[weights.bias] not in expected:
            raise UnsupportedError(f"{seen}, and biases of shape {shapes[weights.bias]}, as layers for cuDNN have them")
    for other, name in _NAMES.items():
        if other != kind and cell.called.startswith(f"{name}_cell"):
            raise UnsupportedError(f"{seen}, which are not those of the cell that its name says")
    return kind


def _in_order(place: str, cells: Sequence[CellInFile], shapes: Mapping[str, Shape]) -> Sequence[CellInFile]:
    """Return the cells of a stack in the order that their widths allow, if that is one only or that of the file."""

    def fits(order: Sequence[CellInFile]) -> bool:
        widths = [(shapes[cell.weights.kernel][0], shapes[cell.weights.recurrent_kernel][0]) for cell in order]
        return all(lower[1] == upper[0] for lower, upper in itertools.pairwise(widths))

    if len({cell.called.rstrip("0123456789").rstrip("_") for cell in cells}) > 1 and len(cells) <= 5:
        orders = [order for order in itertools.permutations(cells) if fits(order)]
        if len(orders) == 1:
            return orders[0]
    elif fits(cells):
        return cells
    names = ", ".join(repr(cell.called) for cell in cells)
    raise UnsupportedError(f"the order of the cells {names} in layer {place!r} is told by a config only")


def _spec(cell: CellInFile, kind: str, prefix: str, shapes: Mapping[str, Shape], told: Told) -> CellSpec:
    hidden, bias = shapes[cell.weights.recurrent_kernel][0], cell.weights.bias
    if kind == "LSTMCell":
        return plain_cell("lstm", hidden, prefix)
    if kind == "RNNCell":
        return plain_cell("rnn", hidden, prefix, activation=told.assume.activation_of(cell.place))
    reset_after = told.reset_after if bias is None else len(shapes[bias]) == 2
    if reset_after is None:
        raise WeightFormatError(
            f"part {cell.place!r} is a GRU without biases, and its weights do not tell where the reset gate acts: give "
            f"the tree as cell=, with rnnx.GRUCell({hidden}, {prefix!r}, reset_after=True), or False"
        )
    return plain_cell("gru", hidden, prefix, reset_after=reset_after)


def _seen(cell: CellInFile, kind: str, shapes: Mapping[str, Shape]) -> str:
    bias = "no bias" if cell.weights.bias is None else f"bias {shapes[cell.weights.bias]}"
    return (
        f"weights {cell.weights.kernel!r} {shapes[cell.weights.kernel]}, recurrent "
        f"{shapes[cell.weights.recurrent_kernel]}, {bias}, cell called {cell.called!r}: {kind}"
    )

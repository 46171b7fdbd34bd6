"""The recurrent parts of a file put together from its arrays, and taken apart again.

A weight may stand in a file one a gate, packed, or within a fused cell's vector; in a file of MXNet's also in another
order of gates and under another name. That is undone when a part is built, and done again when the file is written back
as it was: the note `STORED` remembers what was packed, and the symbol tells the rest.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence

from rnnx.archive import Archive, Array, Document, Part
from rnnx.cells import BaseRNNCell, FusedRNNCell
from rnnx.cells.arguments import FLOATING
from rnnx.cells.node import Node
from rnnx.errors import RNNXError, ShapeError, UnsupportedError, WeightFormatError
from rnnx.found import Found
from rnnx.fusion import fused_spec, unfused_spec
from rnnx.registry import get_backend
from rnnx.spec import GATES, CellSpec
from rnnx.weights.layout import GROUPS, reorder_gates

__all__ = ["STORED", "arrays_of", "assembled", "assembled_as", "spelled_as_stored"]

#: Note with the names, as a JSON list, of the weights that did not stand in the file one a gate.
STORED = "stored"

#: Most layers of fused cells that are read from a file: far more than any has, and few enough to list their names.
MAX_LAYERS = 4096


def assembled(document: Document, found: Sequence[Found]) -> Archive:
    """Return the archive of a document: each part that was found, built and loaded, and all that is left over.

    Raises
    ------
    WeightFormatError
        If a part makes no sense, or its weights are missing or misshaped.
    """
    parts = {each.name: Part(_built(each.spec), each.evidence) for each in found}
    try:
        return _archive(document, found, parts)
    except ShapeError as error:
        raise WeightFormatError(f"the cell tree does not fit its weights: {error}") from error


def assembled_as(document: Document, told: Sequence[Found], cell: BaseRNNCell) -> Archive:
    """Return the archive whose one part is the user's own cell, loaded in place."""
    return _archive(document, told, {"cell": Part(cell, ("the cell tree was given",))})


def arrays_of(archive: Archive) -> dict[str, Array]:
    """Return every array by name, recurrent weights one a gate; those that cells share are there once.

    Raises
    ------
    WeightFormatError
        If two arrays have one name, or an extra one has a name under which a part's weights are looked for.
    """
    arrays: dict[str, Array] = {}
    for part in archive.parts.values():
        for name, array in part.cell.unpack_weights(part.cell.get_params()).items():
            if not _same(arrays.setdefault(name, array), array):
                raise WeightFormatError(f"two parts have a weight called {name!r} each: give one another prefix=")
    accepted = {name for part in archive.parts.values() for name in _accepted_names(part.cell)}
    clash = sorted(accepted & archive.extra.keys())
    if clash:
        raise WeightFormatError(f"an extra array is called {clash[0]!r}, as weights of a cell are: rename it")
    return {**arrays, **archive.extra}


def spelled_as_stored(archive: Archive, told: Sequence[Found]) -> dict[str, Array]:
    """Return the arrays of `arrays_of`, with the weights packed and called as they were in the file read."""
    arrays, stored, renames = arrays_of(archive), _stored_names(archive.notes), _renames(told)
    today = {renames.get(name, name) for name in stored}
    for part in archive.parts.values():
        for cell in _forms(part.cell):
            if today & {parameter.name for parameter in cell.own_parameters()}:
                cell.pack_present(arrays)
    for prefix, order in _gate_orders(told).items():
        _reorder(arrays, prefix, _today(order), order)
    back = {new: old for old, new in renames.items() if old in stored}
    return {back.get(name, name): array for name, array in arrays.items()}


# -- from a document to an archive ------------------------------------------------------------------------------------


def _built(spec: CellSpec) -> BaseRNNCell:
    """Build a tree that a file describes; what no constructor takes is the file's fault."""
    layers = sum(node.fields.get("num_layers", 0) for node in spec.walk())
    if layers > MAX_LAYERS:
        raise WeightFormatError(f"the cell tree has {layers} layers, more than the {MAX_LAYERS} that are read")
    try:
        return BaseRNNCell.from_spec(spec)
    except UnsupportedError:
        raise
    except RNNXError as error:
        raise WeightFormatError(f"the cell tree cannot be built: {error}") from error


def _archive(document: Document, told: Sequence[Found], parts: Mapping[str, Part]) -> Archive:
    arrays, renames = _as_named_today(document.arrays, told), _renames(told)
    used = {name for part in parts.values() for name in _loaded(part.cell, arrays)}
    packed = {name for part in parts.values() for names, _ in _spellings(part.cell) for name in names} & used
    stored = [name for name in document.arrays if renames.get(name, name) in packed]
    notes = {**document.notes, STORED: json.dumps(stored)} if stored else document.notes
    extra = {name: array for name, array in arrays.items() if name not in used}
    return Archive(parts, extra, document.files, notes)


def _loaded(cell: BaseRNNCell, arrays: Mapping[str, Array]) -> set[str]:
    """Load the cell's weights from among the arrays, and return the names of those used."""
    used = _accepted_names(cell) & arrays.keys()
    _check_alike(cell, {name: arrays[name] for name in used})
    try:
        cell.load_params({name: arrays[name] for name in used})
    except WeightFormatError:
        # Once more with every array, so that the error can say which name is nearest to a missing one.
        cell.load_params(arrays, ignore_extra=True)
    return used


def _check_alike(cell: BaseRNNCell, weights: Mapping[str, Array]) -> None:
    """Refuse weights that are no floats, of several dtypes, or that stand there both packed and one a gate."""
    dtypes = {array.dtype.name: name for name, array in weights.items()}
    for dtype, name in dtypes.items():
        if dtype not in FLOATING:
            raise WeightFormatError(f"weight {name!r} has dtype {dtype}, expected one of {', '.join(FLOATING)}")
    if len(dtypes) > 1:
        found = ", ".join(f"{name!r} {dtype}" for dtype, name in sorted(dtypes.items()))
        raise WeightFormatError(f"the weights of one part have several dtypes: {found}")
    for packed, single in _spellings(cell):
        both = packed & weights.keys(), single & weights.keys()
        if all(both):
            one, other = map(min, both)
            raise WeightFormatError(f"weights {one!r} and {other!r} hold the same gate or layer: keep one of them")


def _accepted_names(cell: BaseRNNCell) -> set[str]:
    """Return every name under which a weight of the cell may stand in a file."""
    return {name for names in _spellings(cell) for name in set.union(*names)}


def _spellings(cell: BaseRNNCell) -> Iterator[tuple[set[str], set[str]]]:
    """Yield, for each cell and form, the names of weights of several gates or layers, and those of what they hold."""
    for form in _forms(cell):
        own, accepted = {parameter.name for parameter in form.own_parameters()}, set(form.accepted_names())
        yield (own, accepted - own) if accepted > own else (set(), own)


def _forms(cell: BaseRNNCell) -> Iterator[Node]:
    """Yield the cells of a tree that have weights, and those of the same tree unfused and fused."""
    for leaf in cell.leaves():
        yield leaf
        if isinstance(leaf, FusedRNNCell):
            yield from BaseRNNCell.from_spec(unfused_spec(leaf.spec)).leaves()
    with contextlib.suppress(UnsupportedError):  # most trees have no fused form
        yield BaseRNNCell.from_spec(fused_spec(cell.spec))


# -- names and orders of weights --------------------------------------------------------------------------------------


def _as_named_today(arrays: Mapping[str, Array], told: Sequence[Found]) -> dict[str, Array]:
    """Return the arrays with weights under the names, and gates in the order, of today's cells."""
    renames = _renames(told)
    for old, new in renames.items():
        if {old, new} <= arrays.keys():
            raise WeightFormatError(f"weight {old!r} is to be called {new!r}, as another array is: rename that")
    named = {renames.get(name, name): array for name, array in arrays.items()}
    for prefix, order in _gate_orders(told).items():
        _reorder(named, prefix, order, _today(order))
    return named


def _reorder(arrays: dict[str, Array], prefix: str, stored: Sequence[str], wanted: Sequence[str]) -> None:
    for name in (prefix + group for group in GROUPS):
        if name in arrays:
            arrays[name] = reorder_gates(get_backend("numpy"), arrays[name], stored, wanted)


def _today(order: Sequence[str]) -> tuple[str, ...]:
    """Return the order in which rnnx has the same gates."""
    return next(known for known in GATES.values() if sorted(known) == sorted(order))


def _gate_orders(told: Sequence[Found]) -> dict[str, tuple[str, ...]]:
    return {prefix: order for each in told for prefix, order in each.gate_order.items()}


def _renames(told: Sequence[Found]) -> dict[str, str]:
    return {old: new for each in told for old, new in each.renames.items()}


def _stored_names(notes: Mapping[str, str]) -> frozenset[str]:
    try:
        names = json.loads(notes.get(STORED, "[]"))
    except (ValueError, RecursionError) as error:
        raise WeightFormatError(f"note {STORED!r} is not JSON: {error}") from error
    if not isinstance(names, list) or any(type(name) is not str for name in names):
        raise WeightFormatError(f"note {STORED!r} should be a list of names")
    return frozenset(names)


def _same(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()

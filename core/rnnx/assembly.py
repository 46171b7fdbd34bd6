"""The recurrent parts of a file put together from its arrays, and taken apart again.

How a format stores weights is told by `rnnx.weights.stored.Stored`; here a file's arrays become parts by it, and parts
become the tensors of a file.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from rnnx.archive import Accepted, Archive, Array, Document, Part
from rnnx.cells import BaseRNNCell, RNNCell, placement
from rnnx.cells.arguments import FLOATING
from rnnx.cells.node import Node
from rnnx.errors import ShapeError, WeightFormatError
from rnnx.found import Found, built
from rnnx.remembering import STORED, note_of
from rnnx.spelling import accepted_names, plain_leaves
from rnnx.weights.stored import Block, Composed, Stored, as_named, put_together, taken_apart

__all__ = [
    "activation_in",
    "arrays_of",
    "assembled",
    "assembled_as",
    "fitted",
    "gates_apart",
    "tensors_of",
]


def assembled(document: Document, found: Sequence[Found], source: str) -> Archive:
    """Return the archive of a document: each part that was found, built and loaded, and all that is left over.

    Parameters
    ----------
    document : Document
        What was read.
    found : sequence of Found
        Its recurrent parts.
    source : str
        The name of the format.

    Raises
    ------
    WeightFormatError
        If a part makes no sense, or its weights are missing or misshaped.
    """
    parts = {}
    for each in found:
        weights = _weights(document, built(each.spec), each.input_size, each.stored)
        parts[each.name] = Part(each.spec, weights, each.evidence)
    return _archive(document, parts, {each.name: each.stored for each in found}, source)


def assembled_as(
    document: Document, cell: BaseRNNCell, input_size: int, stored: Sequence[Stored], source: str
) -> Archive:
    """Return the archive whose one part is the user's own cell, loaded in place."""
    cell.load_params(_weights(document, cell, input_size, stored))
    part = Part.of(cell, ("the cell tree was given",))
    return _archive(document, {"cell": part}, {"cell": tuple(stored)}, source)


def fitted(found: Sequence[Found], cell: BaseRNNCell) -> Found:
    """Return the parts as one whose weights go to the cells of the user's own tree, in order.

    Raises
    ------
    WeightFormatError
        If the tree has other cells than the parts have.
    """
    if not found:
        raise WeightFormatError("no recurrent weights were found, of which the cell given could have its own")
    theirs = [leaf for each in found for leaf in plain_leaves(BaseRNNCell.from_spec(each.spec))]
    mine = list(plain_leaves(cell))
    if len(theirs) != len(mine):
        names = ", ".join(repr(each.name) for each in found)
        raise WeightFormatError(
            f"the cell given has {len(mine)} plain cells with weights, and the parts {names} have {len(theirs)}: give "
            "select= for one of them, or another tree"
        )
    renames: dict[str, str] = {}
    for leaf, own in zip(theirs, mine, strict=True):
        if _equation(leaf) != _equation(own):
            raise WeightFormatError(f"the cell given has {_described(own)} where the file has {_described(leaf)}")
        renames.update(zip(leaf.gate_shapes(1), own.gate_shapes(1), strict=True))

    def renamed(block: Block) -> Block:
        return Block(renames[block.weight], None if block.addend is None else renames[block.addend])

    stored = [
        dataclasses.replace(tensor, blocks=tuple(map(renamed, tensor.blocks)))
        for each in found
        for tensor in each.stored
    ]
    evidence = tuple(itertools.chain.from_iterable(each.evidence for each in found))
    return Found("cell", cell.spec, evidence, found[0].input_size, found[-1].output_size, tuple(stored))


def activation_in(cell: BaseRNNCell) -> str | None:
    """Return the activation of a tree's plain recurrent cells, if it is the same in all of them and has a name."""
    found = {_equation(leaf)[1].get("activation") for leaf in plain_leaves(cell) if isinstance(leaf, RNNCell)}
    return found.pop() if len(found) == 1 else None


def arrays_of(archive: Archive) -> dict[str, Array]:
    """Return every array by name, recurrent weights one a gate; those that cells share are there once.

    Raises
    ------
    WeightFormatError
        If two arrays have one name, or an extra one has a name under which a part's weights are looked for.
    """
    arrays: dict[str, Array] = {}
    for part in archive.parts.values():
        for name, array in part.weights.items():
            if not _same(arrays.setdefault(name, array), array):
                raise WeightFormatError(f"two parts have a weight called {name!r} each: give one another prefix=")
    accepted = {name for part in archive.parts.values() for name in accepted_names(part.tree())}
    clash = sorted(accepted & archive.extra.keys())
    if clash:
        raise WeightFormatError(f"an extra array is called {clash[0]!r}, as weights of a cell are: rename it")
    return {**arrays, **archive.extra}


def gates_apart(archive: Archive) -> dict[str, Sequence[Stored]]:
    """Return the layout of files whose weights stand one a gate under their own names, by the parts' names."""
    return {
        name: [as_named(weight, array.shape) for weight, array in part.weights.items()]
        for name, part in archive.parts.items()
    }


def tensors_of(
    archive: Archive, layouts: Mapping[str, Sequence[Stored]], where: str, accepted: Accepted
) -> dict[str, Array | Composed]:
    """Return the tensors that a file of another layout holds, by name: each part's, and every extra array.

    Parameters
    ----------
    archive : Archive
        What is to be written.
    layouts : mapping of str to sequence of Stored
        How each part's weights are stored, by the part's name.
    where : str
        What to call the format in an error.
    accepted : Accepted
        Losses that are no error.

    Raises
    ------
    WeightFormatError
        If something would be lost, or two tensors have one name.
    """
    tensors: dict[str, Array | Composed] = {}
    seen: dict[str, Stored] = {}
    for name, part in archive.parts.items():
        for stored in layouts[name]:
            if seen.setdefault(stored.name, stored) != stored:
                raise WeightFormatError(_twice(stored.name))
        tensors.update(put_together(layouts[name], part.weights, where, accepted.merge_biases))
    for name in archive.extra:
        if name in tensors:
            raise WeightFormatError(_twice(name))
    return {**tensors, **archive.extra}


# -- from a document to an archive ------------------------------------------------------------------------------------


def _weights(document: Document, cell: BaseRNNCell, input_size: int, stored: Sequence[Stored]) -> Mapping[str, Array]:
    _check_alike({each.name: document.arrays[each.name] for each in stored if each.name in document.arrays})
    try:
        shapes = placement.gate_shapes(cell, input_size)
    except ShapeError as error:
        raise WeightFormatError(f"the cell tree does not fit its weights: {error}") from error
    return taken_apart(stored, document.arrays, shapes)


def _check_alike(weights: Mapping[str, Array]) -> None:
    """Refuse weights that are no floats, or of several dtypes."""
    dtypes = {array.dtype.name: name for name, array in weights.items()}
    for dtype, name in dtypes.items():
        if dtype not in FLOATING:
            raise WeightFormatError(f"weight {name!r} has dtype {dtype}, expected one of {', '.join(FLOATING)}")
    if len(dtypes) > 1:
        found = ", ".join(f"{name!r} {dtype}" for dtype, name in sorted(dtypes.items()))
        raise WeightFormatError(f"the weights of one part have several dtypes: {found}")


def _archive(
    document: Document, parts: Mapping[str, Part], layouts: Mapping[str, tuple[Stored, ...]], source: str
) -> Archive:
    used = {each.name for stored in layouts.values() for each in stored}
    extra = {name: array for name, array in document.arrays.items() if name not in used}
    told = any(each.blocks != (Block(each.name),) for stored in layouts.values() for each in stored)
    notes = {**document.notes, STORED: note_of(layouts, source)} if told else document.notes
    return Archive(parts, extra, document.files, notes)


def _equation(leaf: Node) -> tuple[Any, ...]:
    """Return what two cells have in common that compute the same from the same weights."""
    spec = leaf.spec
    fields = {key: value for key, value in spec.fields.items() if key not in ("prefix", "params", "forget_bias")}
    return spec.kind, fields


def _described(leaf: Node) -> str:
    kind, fields = _equation(leaf)
    return f"{kind}({', '.join(f'{key}={value!r}' for key, value in fields.items())})"


def _twice(name: str) -> str:
    return f"two tensors would be called {name!r}: give the part another prefix= (--prefix)"


def _same(one: Array, other: Array) -> bool:
    return one is other or (one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes())

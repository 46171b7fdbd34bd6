"""The recurrent parts of a file put together from its arrays, and taken apart again.

How a format stores weights is told by `rnnx.weights.stored.Stored`; here a file's arrays become parts by it, and parts
become the tensors of a file.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rnnx.archive import Accepted, Archive, Array, Document, Part
from rnnx.cells import BaseRNNCell, RNNCell, placement
from rnnx.cells.arguments import FLOATING
from rnnx.cells.node import Node
from rnnx.errors import ShapeError, WeightFormatError
from rnnx.found import Found, built, name_of
from rnnx.fusion import all_unfused, layers_of, without_modifiers
from rnnx.remembering import STORED, note_of
from rnnx.spec import CellSpec
from rnnx.spelling import accepted_names, plain_leaves
from rnnx.weights.stored import Block, Composed, Stored, as_named, put_together, same_bits, taken_apart

__all__ = [
    "activation_in",
    "assembled",
    "assembled_as",
    "fitted",
    "gates_apart",
    "refuse_ambiguous",
    "refuse_files",
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
    """Return the parts as one whose weights go to the cells of the user's own tree: by prefix, or else in order.

    Raises
    ------
    WeightFormatError
        If the tree has other cells than the parts have, or it is open which weights are whose.
    """
    renames = _corresponding(found, cell)

    def renamed(block: Block) -> Block:
        return Block(renames[block.weight], None if block.addend is None else renames[block.addend])

    stored = [
        dataclasses.replace(tensor, blocks=tuple(map(renamed, tensor.blocks)))
        for each in found
        for tensor in each.stored
    ]
    evidence = tuple(itertools.chain.from_iterable(each.evidence for each in found))
    first = next(iter(next(plain_leaves(cell)).gate_shapes(1)))
    size = next(each.input_size for each in found for tensor in each.stored if first in map(renames.get, _held(tensor)))
    return Found("cell", cell.spec, evidence, size, cell.output_size(size), tuple(stored))


def _held(stored: Stored) -> list[str]:
    return [block.weight for block in stored.blocks]


def _corresponding(found: Sequence[Found], cell: BaseRNNCell) -> dict[str, str]:
    """Return, for each weight of the parts, what the user's tree calls it."""
    if not found:
        raise WeightFormatError("no recurrent weights were found, of which the cell given could have its own")
    theirs = [leaf for each in found for leaf in plain_leaves(BaseRNNCell.from_spec(each.spec))]
    mine, names = list(plain_leaves(cell)), ", ".join(repr(each.name) for each in found)
    if len(theirs) != len(mine):
        raise WeightFormatError(
            f"the cell given has {len(mine)} plain cells with weights, and the parts {names} have {len(theirs)}: give "
            "select= for one of them, or another tree"
        )
    ordered = _by_prefix(found, mine) or (_by_equation(theirs, mine) if len(found) > 1 else None)
    if ordered is not None:
        mine = ordered
    elif len(found) > 1:
        called = ", ".join(repr(leaf.weights_prefix) for leaf in mine)
        raise WeightFormatError(
            f"the file has the parts {names}, and the cells given are called {called}: give them the prefixes "
            f"{', '.join(repr(name_of(each.spec)) for each in found)}, or select= for one part"
        )
    elif _directions(found[0].spec) != _directions(cell.spec):
        raise WeightFormatError(f"the cell given runs in other directions than part {names}, {found[0].spec.to_json()}")
    renames: dict[str, str] = {}
    for leaf, own in zip(theirs, mine, strict=True):
        if _equation(leaf) != _equation(own):
            raise WeightFormatError(f"the cell given has {_described(own)} where the file has {_described(leaf)}")
        renames.update(zip(leaf.gate_shapes(1), own.gate_shapes(1), strict=True))
    if len(set(renames.values())) < len(renames):
        raise WeightFormatError(f"cells of the tree given share weights, and those of {names} have their own")
    return renames


def _by_prefix(found: Sequence[Found], mine: Sequence[Node]) -> list[Node] | None:
    """Return the user's cells in the order of the parts' cells, if they are called alike; None otherwise."""
    called = {leaf.weights_prefix: leaf for leaf in mine}
    ordered = []
    for each in found:
        leaves = list(plain_leaves(BaseRNNCell.from_spec(each.spec)))
        for leaf in leaves:
            # A part of one cell may be called as a whole, as an nn.LSTM of one layer is.
            names = [leaf.weights_prefix, *([name_of(each.spec)] if len(leaves) == 1 else [])]
            ordered += [called[name] for name in names if name in called][:1]
    return ordered if len({id(leaf) for leaf in ordered}) == len(mine) else None


def _by_equation(theirs: Sequence[Node], mine: Sequence[Node]) -> list[Node] | None:
    """Return the user's cells in the order of the parts' cells, if kinds and sizes leave one order only."""
    own = {_described(leaf): leaf for leaf in mine}
    wanted = [_described(leaf) for leaf in theirs]
    return [own[each] for each in wanted] if set(wanted) == own.keys() and len(own) == len(theirs) else None


def _directions(spec: CellSpec) -> list[Any]:
    """Return how many cells run one after the other, and which of them side by side."""
    layers = layers_of(without_modifiers(all_unfused(spec)))
    return [[_directions(side) for side in layer.children] for layer in layers]


def activation_in(cell: BaseRNNCell) -> str | None:
    """Return the activation of a tree's plain recurrent cells, if it is the same in all of them and has a name."""
    found = {_equation(leaf)[1].get("activation") for leaf in plain_leaves(cell) if isinstance(leaf, RNNCell)}
    return found.pop() if len(found) == 1 else None


def refuse_files(archive: Archive, where: str, kept: Collection[str] = ()) -> None:
    """Refuse a file beside the arrays that has no place in what is written; `kept` are those that have.

    Raises
    ------
    WeightFormatError
        If there is one.
    """
    for name in archive.files:
        if name not in kept:
            raise WeightFormatError(
                f"{where} has no place for the file {name!r}: drop_files=True (--drop-files) leaves it out"
            )


def refuse_ambiguous(archive: Archive) -> None:
    """Refuse an extra array that is called as a weight of a part may be, in files where names tell weights.

    Raises
    ------
    WeightFormatError
        If there is one.
    """
    accepted = {name for part in archive.parts.values() for name in accepted_names(part.tree())}
    clash = sorted(accepted & archive.extra.keys())
    if clash:
        raise WeightFormatError(f"an extra array is called {clash[0]!r}, as weights of a cell are: rename it")


def gates_apart(archive: Archive) -> dict[str, Sequence[Stored]]:
    """Return the layout of files whose weights stand one a gate under their own names, by the parts' names."""
    return {
        name: [as_named(weight, shape) for weight, shape in part.shapes.items()] for name, part in archive.parts.items()
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
    seen: dict[str, tuple[Stored, Part]] = {}
    for name, part in archive.parts.items():
        for stored in layouts[name]:
            other, owner = seen.setdefault(stored.name, (stored, part))
            if other != stored or not all(_same_weight(block, owner, part) for block in stored.blocks):
                raise WeightFormatError(
                    f"two parts would have a tensor called {stored.name!r} each: give select= (--select) for one of "
                    "them, or cells with prefixes of their own"
                )
        tensors.update(put_together(layouts[name], part.weights, where, accepted.merge_biases))
    for name in archive.extra:
        if name in tensors:
            raise WeightFormatError(
                f"an array and a weight would both be called {name!r}: give the part another prefix= (--prefix)"
            )
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
    before = document.notes.get(STORED)
    notes = {**document.notes, STORED: note_of(layouts, source, before)} if told else document.notes
    return Archive(parts, extra, document.files, notes, layouts)


def _equation(leaf: Node) -> tuple[Any, ...]:
    """Return what two cells have in common that compute the same from the same weights."""
    spec = leaf.spec
    fields = {key: value for key, value in spec.fields.items() if key not in ("prefix", "params", "forget_bias")}
    return spec.kind, fields


def _described(leaf: Node) -> str:
    kind, fields = _equation(leaf)
    return f"{kind}({', '.join(f'{key}={value!r}' for key, value in fields.items())})"


def _same_weight(block: Block, one: Part, other: Part) -> bool:
    names = [name for name in (block.weight, block.addend) if name is not None]
    return one is other or all(same_bits(one.weights[name], other.weights[name]) for name in names)

"""What rnnx remembers of a file beyond its arrays, as text that goes along in another file.

Two things are: how the parts stood in the files that they were read from, in the note `STORED`, so that a file of the
same format gets them back so; and, where a foreign file has room for it, the description of the very trees that
were written to it, under the key `PARTS`, since few formats tell a whole tree. Neither is trusted: what does not fit
the arrays is not used.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rnnx.archive import Archive, Part
from rnnx.cells import placement
from rnnx.errors import ShapeError, WeightFormatError
from rnnx.found import Found, built
from rnnx.spec import CellSpec
from rnnx.weights.safetensors import json_object
from rnnx.weights.stored import Shape, Stored, as_plain, composes, from_plain

__all__ = [
    "NOTES",
    "PARTS",
    "STORED",
    "described",
    "description",
    "forgotten",
    "misfit",
    "note_of",
    "notes_in",
    "remembered",
]

#: Note with how each part's weights stood in files that they were read from, by the files' formats.
STORED = "stored"

#: What a foreign file calls the description of its parts, and the notes of other formats.
PARTS, NOTES = "rnnx.parts", "rnnx.notes"


# -- how parts stood --------------------------------------------------------------------------------------------------


def note_of(layouts: Mapping[str, Sequence[Stored]], source: str, before: str | None = None) -> str:
    """Return the note on how parts stand in a file of the format `source`, beside what a note says of other formats."""
    told = json_object(before, f"note {STORED!r}") if before is not None else {}
    told[source] = {name: list(map(as_plain, each)) for name, each in layouts.items()}
    return json.dumps(told)


def remembered(archive: Archive, source: str) -> dict[str, tuple[Stored, ...]]:
    """Return how the parts stood in a file of the format `source` that they were once read from; none otherwise.

    Raises
    ------
    WeightFormatError
        If the note makes no sense, as one from a file may.
    """
    if STORED not in archive.notes:
        return {}
    parts = json_object(archive.notes[STORED], f"note {STORED!r}").get(source, {})
    if not isinstance(parts, dict):
        raise WeightFormatError(f"note {STORED!r} should have, for each format, how parts are stored")
    layouts = {name: _layout(tensors, f"note {STORED!r}") for name, tensors in parts.items()}
    return {name: each for name, each in layouts.items() if name in archive.parts and _fits(each, archive.parts[name])}


def forgotten(archive: Archive) -> Archive:
    """Return the archive less the memory of how it was stored, which fits no other trees."""
    notes = {key: note for key, note in archive.notes.items() if key != STORED}
    return dataclasses.replace(archive, notes=notes)


def _layout(plain: Any, where: str) -> tuple[Stored, ...]:
    if not isinstance(plain, list):
        raise WeightFormatError(f"{where} should list the tensors of each part")
    return tuple(from_plain(each, where) for each in plain)


def _fits(layout: Sequence[Stored], part: Part) -> bool:
    return misfit(layout, part.shapes) is None


def misfit(layout: Sequence[Stored], weights: Mapping[str, Shape]) -> str | None:
    """Return why tensors are not made of weights of these shapes, each held once; None if they are."""
    blocks = [block for stored in layout for block in stored.blocks]
    for block in blocks:
        for name in (block.weight, block.addend or block.weight):
            if name not in weights or weights[name] != weights.get(block.weight):
                return f"there is no weight {name!r}, or it has another shape"
    held = Counter(name for block in blocks for name in (block.weight, block.addend) if name is not None)
    for stored in layout:
        if not stored.blocks or not composes(stored, [weights[block.weight] for block in stored.blocks]):
            return f"tensor {stored.name!r} cannot be made of the weights said to be in it"
        # A tensor that is called as a weight is taken for it in files of MXNet.
        if stored.name in weights and [block.weight for block in stored.blocks] != [stored.name]:
            return f"tensor {stored.name!r} is called as a weight, and said to hold others"
    twice = [name for name, times in held.items() if times > 1]
    return f"two tensors hold weight {twice[0]!r}" if twice else None


# -- which trees were written -----------------------------------------------------------------------------------------


def notes_in(text: str) -> dict[str, str]:
    """Return the notes that stand as a JSON object in a foreign file.

    Raises
    ------
    WeightFormatError
        If they are no texts by name.
    """
    notes = json_object(text, f"{NOTES!r}")
    if any(type(note) is not str for note in notes.values()):
        raise WeightFormatError(f"{NOTES!r} should be a JSON object of strings")
    return notes


def description(parts: Mapping[str, Part], layouts: Mapping[str, Sequence[Stored]]) -> str:
    """Return what there is to say of parts in a foreign file: trees, widths of inputs, and how weights are stored."""
    return json.dumps(
        {
            name: {
                "spec": part.spec.to_dict(),
                "input_size": part.input_size,
                "stored": list(map(as_plain, layouts[name])),
            }
            for name, part in parts.items()
        }
    )


def described(text: str, shapes: Mapping[str, Shape]) -> list[Found]:
    """Return the parts that a description tells.

    Parameters
    ----------
    text : str
        What `description` returned when the file was written.
    shapes : mapping of str to tuple of int
        The shape of every array that the file has now.

    Raises
    ------
    RNNXError
        If the description makes no sense, or is of other arrays.
    """
    return [_described(name, node, shapes) for name, node in json_object(text, f"{PARTS!r}").items()]


def _described(name: str, node: Any, shapes: Mapping[str, Shape]) -> Found:
    if not isinstance(node, dict) or type(node.get("input_size")) is not int or node["input_size"] < 1:
        raise WeightFormatError(f"{PARTS!r}: part {name!r} should have a spec and an input_size")
    cell, size = built(CellSpec.from_dict(node.get("spec"))), node["input_size"]
    layout = _layout(node.get("stored"), f"{PARTS!r}")
    try:
        weights, width = placement.gate_shapes(cell, size), cell.output_size(size)
    except ShapeError as error:
        raise WeightFormatError(f"{PARTS!r}: part {name!r} makes no tree: {error}") from error
    _check_holds(name, layout, weights, shapes)
    evidence = (f"the cell tree is written in the file ({PARTS!r}), and its tensors are there",)
    return Found(name, cell.spec, evidence, size, width, layout)


def _check_holds(
    name: str, layout: Sequence[Stored], weights: Mapping[str, Shape], shapes: Mapping[str, Shape]
) -> None:
    """Refuse a layout unless its tensors are there and hold each weight once; biases may be left out, and are zero."""
    why = misfit(_once(layout), weights)
    if why is not None:
        raise WeightFormatError(f"{PARTS!r}: part {name!r}: {why}")
    held = {each for stored in layout for block in stored.blocks for each in (block.weight, block.addend)}
    for weight in weights:
        if weight not in held and not weight.endswith("_bias"):
            raise WeightFormatError(f"{PARTS!r}: no tensor holds weight {weight!r} of part {name!r}")
    for stored in layout:
        if shapes.get(stored.name) != stored.shape:
            raise WeightFormatError(
                f"{PARTS!r}: tensor {stored.name!r} has shape {shapes.get(stored.name)}, expected {stored.shape}"
            )


def _once(layout: Sequence[Stored]) -> list[Stored]:
    """Return the tensors less those that hold what another holds as well, as of cells that share their weights."""
    return list({stored.blocks: stored for stored in layout}.values())

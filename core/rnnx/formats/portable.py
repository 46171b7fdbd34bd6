"""rnnx's own portable file as a format; `rnnx.weights.portable` describes the file itself.

Weights stand under their per-gate names. Metadata ``parts`` maps each recurrent part's name to the spec of its cells,
``notes`` is another format's memory of how its file was written, and a file kept as it is, such as MXNet's
``symbol.json``, is a tensor of bytes called ``file:symbol.json``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rnnx.archive import Accepted, Archive, Document, Format
from rnnx.assembly import gates_apart, refuse_ambiguous, tensors_of
from rnnx.cells import BaseRNNCell
from rnnx.errors import WeightFormatError
from rnnx.found import Assumptions, Found
from rnnx.spec import CellSpec
from rnnx.spelling import found_as, spelled
from rnnx.weights.portable import looks_portable, read_portable, write_portable
from rnnx.weights.safetensors import json_object
from rnnx.weights.stored import Stored

__all__ = ["PortableFormat"]

#: What stands before the name of a file that is kept as it is.
FILE = "file:"

#: Metadata with the specs of the parts.
PARTS = "parts"


class PortableFormat(Format):
    """Safetensors with rnnx's metadata."""

    name = "rnnx"
    suffixes = (".rnnx", ".safetensors")

    def recognises(self, path: Path, head: bytes) -> bool:
        """Say whether the header names the format."""
        return looks_portable(path, head)

    def read(self, path: Path) -> Document:
        """Read a portable file; see `Format.read`."""
        tensors, metadata = read_portable(path)
        arrays = {name: array for name, array in tensors.items() if not name.startswith(FILE)}
        files = {name[len(FILE) :]: array.tobytes() for name, array in tensors.items() if name.startswith(FILE)}
        notes = json_object(metadata.get("notes", "{}"), "metadata 'notes'")
        if any(type(note) is not str for note in notes.values()):
            raise WeightFormatError(f"{path}: metadata 'notes' should be a JSON object of strings")
        return Document(arrays, files, {**notes, PARTS: metadata.get(PARTS, "{}")})

    def find(self, document: Document, assume: Assumptions) -> Sequence[Found]:
        """Return the parts that the metadata describes."""
        shapes = document.shapes
        return [
            found_as(name, CellSpec.from_dict(node), ("the cell tree is written in the file",), shapes)
            for name, node in json_object(document.notes[PARTS], f"metadata {PARTS!r}").items()
        ]

    def spelled(self, document: Document, cell: BaseRNNCell) -> tuple[int, Sequence[Stored]]:
        """Return how the weights stand in the file; see `Format.spelled`."""
        return spelled(cell, document.shapes)

    def layouts(self, archive: Archive) -> dict[str, Sequence[Stored]]:
        """Return how weights are stored: one a gate."""
        return gates_apart(archive)

    def write(self, path: Path, archive: Archive, accepted: Accepted) -> None:
        """Write a portable file; see `Format.write`."""
        refuse_ambiguous(archive)
        tensors = tensors_of(archive, self.layouts(archive), "the portable file", accepted)
        for name in tensors:
            if name.startswith(FILE):
                raise WeightFormatError(f"array {name!r} is called as a file within the portable file is: rename it")
        tensors.update({FILE + name: np.frombuffer(data, np.uint8) for name, data in archive.files.items()})
        parts = {name: part.spec.to_dict() for name, part in archive.parts.items()}
        notes = {key: value for key, value in archive.notes.items() if key != PARTS}
        write_portable(path, tensors, {PARTS: json.dumps(parts), "notes": json.dumps(notes)})

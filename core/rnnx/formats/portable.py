"""rnnx's own portable file as a format; `rnnx.weights.portable` describes the file itself.

Weights stand under their per-gate names. Metadata ``parts`` maps each recurrent part's name to the spec of its cells,
``notes`` is another format's memory of how its file was written, and a file kept as it is, such as MXNet's
``symbol.json``, is a tensor of bytes called ``file:symbol.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnnx.archive import Archive, Array, Document, Format
from rnnx.errors import WeightFormatError
from rnnx.found import Assumptions, Found
from rnnx.spec import CellSpec
from rnnx.weights.portable import looks_portable, read_portable, write_portable

__all__ = ["PortableFormat"]

#: What stands before the name of a file that is kept as it is.
FILE = "file:"


class PortableFormat(Format):
    """Safetensors with rnnx's metadata."""

    name = "rnnx"
    suffixes = (".rnnx", ".safetensors")

    def recognises(self, path: Path, head: bytes) -> bool:
        """Say whether the header names the format."""
        return looks_portable(head)

    def read(self, path: Path) -> Document:
        """Read a portable file; see `Format.read`."""
        tensors, metadata = read_portable(path)
        arrays = {name: array for name, array in tensors.items() if not name.startswith(FILE)}
        files = {name[len(FILE) :]: array.tobytes() for name, array in tensors.items() if name.startswith(FILE)}
        notes = _object(metadata, "notes")
        return Document(arrays, files, {**notes, "parts": metadata.get("parts", "{}")})

    def find(self, document: Document, assume: Assumptions) -> Sequence[Found]:
        """Return the parts that the metadata describes."""
        parts = _object(document.notes, "parts")
        return [
            Found(name, CellSpec.from_dict(node), ("the cell tree is written in the file",))
            for name, node in parts.items()
        ]

    def write(self, path: Path, archive: Archive) -> None:
        """Write a portable file; see `Format.write`."""
        tensors: dict[str, Array] = {}
        for part in archive.parts.values():
            _add(tensors, part.cell.unpack_weights(part.cell.get_params()))
        _add(tensors, archive.extra)
        _add(tensors, {FILE + name: np.frombuffer(data, np.uint8) for name, data in archive.files.items()})
        parts = {name: part.cell.spec.to_dict() for name, part in archive.parts.items()}
        notes = {key: value for key, value in archive.notes.items() if key != "parts"}
        write_portable(path, tensors, {"parts": json.dumps(parts), "notes": json.dumps(notes)})


def _add(tensors: dict[str, Array], more: Mapping[str, Array]) -> None:
    """Add to the tensors; two under one name would lose one."""
    for name, array in more.items():
        if name in tensors:
            raise WeightFormatError(f"two arrays are called {name!r}: rename one, or share the weights of the cells")
        tensors[name] = array


def _object(texts: Mapping[str, str], key: str) -> dict[str, Any]:
    try:
        found = json.loads(texts.get(key, "{}"))
    except (ValueError, RecursionError) as error:
        raise WeightFormatError(f"metadata {key!r} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise WeightFormatError(f"metadata {key!r} should be a JSON object")
    return found

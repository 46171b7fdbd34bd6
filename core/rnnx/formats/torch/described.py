"""Safetensors files with PyTorch's names, and what rnnx says in their metadata of the cells in them.

==============  =======================================================================================================
``format``      ``pt``, by which Hugging Face's transformers knows files with PyTorch's names
``rnnx.parts``  JSON: the trees of the recurrent parts, and how they are stored; see `rnnx.remembering`
``rnnx.notes``  JSON: what formats need to know to write their files again as they were
==============  =======================================================================================================

All other metadata is kept in a note, and written again.

Source: https://github.com/huggingface/safetensors#format; for ``format``, ``modeling_utils.py`` of transformers 4.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rnnx.archive import Archive, Array, Document
from rnnx.remembering import NOTES, PARTS, description, notes_in
from rnnx.weights.portable import looks_portable
from rnnx.weights.safetensors import json_object, read_tensors, write_tensors
from rnnx.weights.stored import Composed, Stored

__all__ = ["looks_like_foreign_safetensors", "read_safetensors", "write_safetensors"]

#: Note with the metadata that is not rnnx's.
OTHERS = "torch.metadata"


def looks_like_foreign_safetensors(path: Path, head: bytes) -> bool:
    """Say whether a file is a safetensors file, a length and a JSON object, and not rnnx's portable file."""
    return head[8:9] == b"{" and not looks_portable(path, head)


def read_safetensors(path: Path) -> Document:
    """Read a file, whose tensors are mapped.

    Raises
    ------
    WeightFormatError
        If it is damaged.
    """
    arrays, metadata = read_tensors(path)
    notes = notes_in(metadata.get(NOTES, "{}"))
    others = {key: value for key, value in metadata.items() if key not in (PARTS, NOTES, "format")}
    told = {PARTS: metadata[PARTS]} if PARTS in metadata else {}
    return Document(arrays, {}, {**notes, **told, **({OTHERS: json.dumps(others)} if others else {})})


def write_safetensors(
    path: Path, archive: Archive, layouts: Mapping[str, Sequence[Stored]], tensors: Mapping[str, Array | Composed]
) -> None:
    """Write an archive's tensors, one in memory at a time, and its description; whole or not at all.

    Raises
    ------
    WeightFormatError
        If a dtype or a name has no place in the file.
    """
    others = json_object(archive.notes.get(OTHERS, "{}"), f"note {OTHERS!r}")
    notes = {key: note for key, note in archive.notes.items() if key not in (PARTS, OTHERS)}
    told = {"format": "pt", PARTS: description(archive.parts, layouts), NOTES: json.dumps(notes)}
    write_tensors(path, tensors, {**{key: str(value) for key, value in others.items()}, **told})

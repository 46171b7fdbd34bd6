"""PyTorch's state dicts as a format: ``.pt`` and ``.pth`` files, and safetensors files with PyTorch's names.

`rnnx.formats.torch.names` tells the recurrent modules and how their tensors are made, `rnnx.formats.torch.modules`
which modules a cell tree is written as; `rnnx.formats.torch.files` and `rnnx.formats.torch.described` are the files.

What else a training checkpoint holds is kept. Its tensors, such as the optimizer's, are arrays; its numbers and texts
are a file `OUTLINE` beside them, for which ``.pt`` and the portable file have a place, and others ask to drop it. Where
a checkpoint is but a nest of tensors, how they were nested is a note, which other formats need not keep.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rnnx.archive import Accepted, Archive, Document, Format, Part
from rnnx.assembly import tensors_of
from rnnx.errors import RNNXError, WeightFormatError
from rnnx.formats.torch.described import (
    looks_like_foreign_safetensors,
    read_safetensors,
    write_safetensors,
)
from rnnx.formats.torch.files import looks_like_checkpoint, read_checkpoint, write_checkpoint
from rnnx.formats.torch.modules import modules_of
from rnnx.formats.torch.names import Place, module_tensors, parts_of_state_dict
from rnnx.formats.torch.outline import fits
from rnnx.found import Assumptions, Found
from rnnx.remembering import PARTS, described, remembered
from rnnx.spec import CellSpec
from rnnx.weights.stored import Stored

__all__ = ["OUTLINE", "TorchFormat"]

#: The file with what a checkpoint holds beside tensors, and the note with where its tensors stood.
OUTLINE, NESTED = "checkpoint.json", "torch.nested"


class TorchFormat(Format):
    """State dicts, written as `torch.save` writes them, or as safetensors where the path ends so."""

    name = "torch"
    suffixes = (".pt", ".pth")

    def recognises(self, path: Path, head: bytes) -> bool:
        """Say whether a file is one of `torch.save`, or a safetensors file that is not rnnx's portable one."""
        return looks_like_checkpoint(path, head) or looks_like_foreign_safetensors(path, head)

    def read(self, path: Path) -> Document:
        """Read tensors and all else; see `Format.read`."""
        with path.open("rb") as file:
            head = file.read(9)
        if head[8:] == b"{":
            return read_safetensors(path)
        checkpoint = read_checkpoint(path)
        if checkpoint.bare:
            return Document(checkpoint.arrays, {}, {NESTED: checkpoint.outline})
        return Document(checkpoint.arrays, {OUTLINE: checkpoint.outline.encode()})

    def find(self, document: Document, assume: Assumptions) -> Sequence[Found]:
        """Return the parts that the file's metadata describes, or else those that names and shapes tell."""
        told = [f"what is no tensor in the file is kept as {OUTLINE!r}"] if OUTLINE in document.files else []
        found = None
        if PARTS in document.notes:
            try:
                found = described(document.notes[PARTS], document.shapes)
            except RNNXError as error:
                told.append(f"what the file says of its cells is not believed, for its tensors are others: {error}")
        if found is None:
            found = parts_of_state_dict(document.shapes, assume)
        return [dataclasses.replace(part, evidence=(*part.evidence, *told)) for part in found]

    def layouts(self, archive: Archive) -> dict[str, Sequence[Stored]]:
        """Return how weights are stored: under the place that a prefix tells, or as in the PyTorch file they are of."""
        known = remembered(archive, self.name)
        alone = len(archive.parts) == 1 and not archive.extra
        return {
            name: known[name] if name in known else tuple(_tensors(part, alone)) for name, part in archive.parts.items()
        }

    def write(self, path: Path, archive: Archive, accepted: Accepted) -> None:
        """Write a state dict or a training checkpoint; see `Format.write`."""
        safe = path.suffix == ".safetensors"
        lost = [name for name in archive.files if safe or name != OUTLINE]
        if lost:
            raise WeightFormatError(
                f"{'a safetensors' if safe else 'a PyTorch'} file has no place for {lost[0]!r}: drop_files=True "
                "(--drop-files) leaves it out"
            )
        layouts = self.layouts(archive)
        tensors = tensors_of(archive, layouts, "a PyTorch file", accepted)
        if safe:
            write_safetensors(path, archive, layouts, tensors)
        else:
            write_checkpoint(path, tensors, _outline(archive, tensors))


def _tensors(part: Part, alone: bool) -> Iterator[Stored]:
    """Yield how a part's weights are stored; under bare names if the file has no other and the prefix says nothing."""
    shapes = part.shapes
    modules = list(modules_of(part.spec))
    for module in modules:
        first = next(node for node in module.layers[0].walk() if "num_hidden" in node.fields)
        bare = alone and len(modules) == 1 and module.prefix in _default_prefixes(first)
        where = "" if bare else module.prefix.removesuffix("_").removesuffix(".")
        yield from module_tensors(Place(where and f"{where}."), module.layers, shapes)


def _default_prefixes(cell: CellSpec) -> Sequence[str]:
    """Return the prefixes that a module of such cells has where it stands in no other."""
    if cell.kind == "RNNCell":
        return "rnn_", f"rnn_{cell.fields['activation']}_"
    return ("gru_",) if cell.kind == "GRUCell" else ("lstm_",)


def _outline(archive: Archive, tensors: Mapping[str, object]) -> str | bytes | None:
    """Return where the tensors are to stand: as they stood, unless they are others and nothing else is to be kept."""
    note = archive.notes.get(NESTED)
    return archive.files.get(OUTLINE) or (note if note is not None and fits(note, tensors) else None)

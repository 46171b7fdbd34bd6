"""ONNX models as a format: recurrent nodes are read as cells, and cell trees are written as graphs that run.

Reading keeps the weights of recurrent nodes, and as further arrays all other initializers by their names; the graph
around them is not kept, and where it computes anything else a file `REST` says so. What is written is a graph of
rnnx's own (see `rnnx.formats.onnx.graph`), so that a model read and written again computes what its recurrent parts
compute, and no more. A model that rnnx wrote says in its metadata which trees it was made of; these are read back as
they were.

A node computes ``Y (T, D, N, H)`` of ``X (T, N, I)``; cells do so of inputs ``(N, T, I)`` with outputs ``(N, T, D*H)``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from rnnx.archive import Accepted, Archive, Array, Document, Format
from rnnx.errors import RNNXError
from rnnx.formats.onnx.files import TensorFiles, looks_like_model, read_model, text_of
from rnnx.formats.onnx.nodes import recurrent_nodes, weight_inputs
from rnnx.formats.onnx.parts import parts_of_program
from rnnx.formats.onnx.program import program_of
from rnnx.formats.onnx.rest import rest_of
from rnnx.formats.onnx.values import Values
from rnnx.found import Assumptions, Found
from rnnx.remembering import NOTES, PARTS, described, notes_in
from rnnx.weights.stored import Stored

__all__ = ["OnnxFormat"]

#: The file that tells what else a graph computes: nothing can write that again, and leaving it out has to be said.
REST = "graph.txt"


@dataclasses.dataclass(frozen=True)
class _Model(Document):
    """A document with the graph that its arrays stand in, which is read and not kept."""

    values: Values | None = None
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)


class OnnxFormat(Format):
    """ONNX models, with their weights inside or in files beside them."""

    name = "onnx"
    suffixes = (".onnx",)

    def recognises(self, path: Path, head: bytes) -> bool:
        """Say whether the file begins as a model does, or is called one."""
        return looks_like_model(head) or (bool(head) and path.suffix == ".onnx")

    def read(self, path: Path) -> Document:
        """Read the graph and map the arrays; see `Format.read`."""
        model = read_model(path)
        values = Values(program_of(model), TensorFiles(path.parent))
        metadata = {text_of(each.key): text_of(each.value) for each in model.metadata_props}
        rest = "" if PARTS in metadata else rest_of(values.program)
        files = {REST: rest.encode()} if rest else {}
        return _Model(_arrays(values), files, notes_in(metadata.get(NOTES, "{}")), values, metadata)

    def find(self, document: Document, assume: Assumptions) -> Sequence[Found]:
        """Return the parts that rnnx wrote, or else those that the graph's recurrent nodes make."""
        assert isinstance(document, _Model)
        assert document.values is not None
        if PARTS not in document.metadata:
            return parts_of_program(document.values)
        try:
            return described(document.metadata[PARTS], document.shapes)
        except RNNXError as error:
            why = f"the graph was read, since the model's metadata does not fit it: {error}"
            parts = parts_of_program(document.values)
            return [dataclasses.replace(part, evidence=(*part.evidence, why)) for part in parts]

    def layouts(self, archive: Archive) -> Mapping[str, Sequence[Stored]]:
        """Return how the weights of each part stand in the model that `write` makes; see `Format.layouts`."""
        from rnnx.formats.onnx.graph import written_layouts

        return written_layouts(archive)

    def write(self, path: Path, archive: Archive, accepted: Accepted) -> None:
        """Write a model; see `Format.write`."""
        from rnnx.formats.onnx.graph import write_model

        write_model(path, archive, accepted)


def _arrays(values: Values) -> dict[str, Array]:
    """Return the initializers and the other constants that recurrent nodes read.

    Initializers that do nothing but be joined to such a constant stand there as parts of it.
    """
    arrays = dict(values.initializers)
    for node in recurrent_nodes(values.program):
        for name in weight_inputs(node):
            held = values.constant(name)
            if held is not None:
                arrays[held[0]] = held[1]
    for name in values.joined_away(arrays):
        del arrays[name]
    return arrays

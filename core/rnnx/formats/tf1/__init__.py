"""TensorFlow 1 checkpoints as a format: ``model.ckpt-1000.index`` and the files beside it.

A part's place is the scope that its variables stand in: ``encoder/rnn/basic_lstm_cell/kernel`` is of ``encoder/rnn``,
and its cell has the prefix ``encoder/rnn_``.

LSTM cells add a constant to the forget gate when they run, which the checkpoint does not hold. It must be given where
one is read, and becomes a bias of its own, so nothing is rounded. What was read with it is written as it was, and its
code is to add the same constant. All else is written under the name ``cudnn_compatible_lstm_cell``, that of a cell of
``tf.contrib.cudnn_rnn`` that adds none: a graph whose cells add one cannot take it by mistake. An ``LSTMCell`` that is
given ``forget_bias=0.0, name="cudnn_compatible_lstm_cell"`` is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from rnnx.archive import Accepted, Archive, Array, Document, Format
from rnnx.assembly import refuse_files, tensors_of
from rnnx.checks import finite
from rnnx.errors import WeightFormatError
from rnnx.formats.tf1.files import read_graph, read_variables, recognised, stem_of, write_checkpoint
from rnnx.formats.tf1.names import CONSTANT, Cell, form_named, tensors_of_cell
from rnnx.formats.tf1.scopes import parts_of_variables, scopes_of
from rnnx.found import Assumptions, Found
from rnnx.remembering import remembered
from rnnx.spec import CellSpec
from rnnx.weights.stored import Stored

__all__ = ["FORGET_BIAS", "GRAPH", "TF1Format"]

#: What the graph beside the variables is kept as.
GRAPH = "model.meta"

#: Note with the constant, other than zero, that the file's LSTM cells add to their forget gates when they run.
FORGET_BIAS = "tf1.forget_bias"


class TF1Format(Format):
    """Checkpoints as ``tf.train.Saver`` writes them, told by the names of variables."""

    name = "tf1"
    suffixes = (".ckpt",)

    def recognises(self, path: Path, head: bytes) -> bool:
        """Say whether there is an index where the path leads; see `Format.recognises`."""
        return recognised(path, head)

    def read(self, path: Path) -> Document:
        """Read variables, and the graph as it is; see `Format.read`."""
        stem = stem_of(path)
        arrays = read_variables(stem)
        constant = next((name for name in arrays if name.endswith(CONSTANT)), None)
        if constant is not None:
            raise WeightFormatError(f"TensorFlow has no variable called {constant!r}")
        graph = read_graph(stem)
        return Document(arrays, {} if graph is None else {GRAPH: graph}, {})

    def find(self, document: Document, assume: Assumptions) -> Sequence[Found]:
        """Return the parts that names and shapes tell, and add the constants that were given to the document."""
        found = parts_of_variables(document.shapes, assume)
        arrays, notes = document.arrays, document.notes
        assert isinstance(arrays, dict), "as `read` made it"
        assert isinstance(notes, dict), "as `read` made it"
        for part in found:
            for stored in filter(_is_constant, part.stored):
                constant = finite("forget_bias", assume.forget_bias_of(part.name))
                dtype = arrays[part.stored[0].name].dtype
                arrays[stored.name] = np.broadcast_to(np.array(constant, dtype), stored.shape)
                notes[FORGET_BIAS] = repr(constant)
        return found

    def layouts(self, archive: Archive) -> dict[str, Sequence[Stored]]:
        """Return how weights are stored: as today's cells have them, unless another checkpoint had them otherwise."""
        constant = _constant(archive)
        memory = remembered(archive, self.name)
        layouts: dict[str, Sequence[Stored]] = {}
        for name, part in archive.parts.items():
            told = memory.get(name)
            kept = told is not None and all(
                _is(part.weights[block.weight], constant)
                for stored in told
                if _is_constant(stored)
                for block in stored.blocks
            )
            layouts[name] = told if told is not None and kept else tuple(_made(part.spec, part.weights, constant))
        return layouts

    def write(self, path: Path, archive: Archive, accepted: Accepted) -> None:
        """Write variables and, if there is one, the graph; see `Format.write`."""
        refuse_files(archive, "a TensorFlow checkpoint", (GRAPH,))
        layouts = self.layouts(archive)
        tensors = tensors_of(archive, layouts, "a TensorFlow checkpoint", accepted)
        for stored in (each for layout in layouts.values() for each in layout if _is_constant(each)):
            tensors.pop(stored.name, None)
        write_checkpoint(path, tensors, archive.files.get(GRAPH))


def _made(spec: CellSpec, weights: Mapping[str, Array], constant: float | None) -> Iterator[Stored]:
    """Yield the variables of a tree's cells."""
    for scope, leaf in scopes_of(spec):
        prefix = leaf.fields.get("params", leaf.fields["prefix"])
        forget = weights.get(f"{prefix}h2h_f_bias")
        added = constant if forget is not None and _is(forget, constant) else None
        yield from tensors_of_cell(_cell(scope, leaf, weights, prefix, added), prefix)


def _cell(scope: str, leaf: CellSpec, weights: Mapping[str, Array], prefix: str, added: float | None) -> Cell:
    num_projection, after = leaf.fields.get("num_projection"), leaf.fields.get("reset_after", False)
    if leaf.kind == "GRUCell":
        mode, gate, name = "gru", "_o", "cudnn_compatible_gru_cell" if after else "gru_cell"
    elif leaf.kind == "RNNCell":
        mode, gate, name = "rnn", "", "basic_rnn_cell"
    else:
        mode, gate, name = "lstm", "_o", "lstm_cell" if num_projection else "basic_lstm_cell"
        name = "cudnn_compatible_lstm_cell" if added is None else name
    width = weights[f"{prefix}i2h{gate}_weight"].shape[1]
    form = form_named(mode, after)
    return Cell(scope + name, form, width, leaf.fields["num_hidden"], num_projection, added or 0.0)


def _is_constant(stored: Stored) -> bool:
    return stored.name.endswith(CONSTANT)


def _is(array: Array, constant: float | None) -> bool:
    """Say whether every element is the constant, as far as the dtype has it."""
    return constant is not None and bool(np.all(array == np.array(constant, array.dtype)))


def _constant(archive: Archive) -> float | None:
    try:
        return float(archive.notes[FORGET_BIAS]) if FORGET_BIAS in archive.notes else None
    except ValueError as error:
        raise WeightFormatError(f"note {FORGET_BIAS!r} is {archive.notes[FORGET_BIAS]!r}, and no number") from error

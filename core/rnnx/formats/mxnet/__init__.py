"""MXNet checkpoints as a format: ``prefix-0001.params``, and ``prefix-symbol.json`` beside it.

What the arrays are is read from the symbol where there is one, and from names and shapes where there is none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rnnx.archive import Accepted, Archive, Array, Document, Format, Part
from rnnx.assembly import gates_apart, refuse_ambiguous, refuse_files, tensors_of
from rnnx.atomic import replace_file
from rnnx.cells import BaseRNNCell, GRUCell, ResidualCell
from rnnx.errors import UnsupportedError, WeightFormatError
from rnnx.formats.mxnet.gluon import parts_of_file, told_by_keys
from rnnx.formats.mxnet.ndarray import looks_like_ndarrays, read_ndarrays, write_ndarrays
from rnnx.formats.mxnet.symbol import parts_of_symbol
from rnnx.found import Assumptions, Found
from rnnx.remembering import remembered
from rnnx.spelling import Told, found_as, spelled
from rnnx.weights.stored import Composed, Stored

__all__ = ["ARGUMENT", "AUXILIARY", "SYMBOL", "MXNetFormat", "params_path", "read_params", "symbol_path", "write_both"]

#: What stands before a name in a checkpoint: of a weight, and of an auxiliary state such as a moving mean.
ARGUMENT, AUXILIARY = "arg:", "aux:"

SYMBOL = "symbol.json"

#: Note on whether names bear ``arg:`` and ``aux:``.
NAMES = "mxnet.names"


class MXNetFormat(Format):
    """NDArray files and symbols, written as `mxnet.rnn.save_rnn_checkpoint` writes them."""

    name = "mxnet"
    suffixes = (".params", ".nd")

    def recognises(self, path: Path, head: bytes) -> bool:
        """Say whether the file starts with the magic number of NDArray files."""
        return looks_like_ndarrays(head)

    def read(self, path: Path) -> Document:
        """Read arrays and symbol; see `Format.read`."""
        names, arrays = read_ndarrays(path)
        if arrays and not names:
            raise WeightFormatError(f"{path} holds {len(arrays)} arrays without names, of which nothing can be told")
        stored = dict(zip(names, arrays, strict=True))
        prefixed = bool(stored) and all(name.startswith((ARGUMENT, AUXILIARY)) for name in stored)
        named = {name.removeprefix(ARGUMENT): array for name, array in stored.items()} if prefixed else stored
        if len(named) < len(stored):
            raise WeightFormatError(f"{path} holds an argument called {ARGUMENT}{AUXILIARY}…, as auxiliary states are")
        symbol = symbol_path(path)
        files = {SYMBOL: symbol.read_bytes()} if symbol.exists() else {}
        return Document(named, files, {NAMES: "prefixed" if prefixed else "bare"})

    def find(self, document: Document, assume: Assumptions) -> Sequence[Found]:
        """Return the recurrent parts that the symbol tells, or else those that names and shapes tell."""
        shapes = {name: shape for name, shape in document.shapes.items() if not name.startswith(AUXILIARY)}
        if SYMBOL not in document.files:
            return parts_of_file(shapes, assume)
        drawn = parts_of_symbol(document.files[SYMBOL])
        return [found_as(part.name, part.spec, part.evidence, shapes, part) for part in drawn]

    def spelled(self, document: Document, cell: BaseRNNCell) -> tuple[int, Sequence[Stored]]:
        """Return how the weights stand in the file, with what the symbol or Gluon's keys say; see `Format.spelled`."""
        drawn = SYMBOL in document.files
        told = _told_by_symbol(document.files) if drawn else told_by_keys(cell, document.shapes)
        return spelled(cell, document.shapes, told)

    def layouts(self, archive: Archive) -> dict[str, Sequence[Stored]]:
        """Return how weights are stored: one a gate, unless another file of MXNet had them otherwise."""
        for name, part in archive.parts.items():
            _refuse_untold(name, part, archive)
        return {**gates_apart(archive), **remembered(archive, self.name)}

    def write(self, path: Path, archive: Archive, accepted: Accepted) -> None:
        """Write arrays and, if there is one, the symbol; see `Format.write`."""
        refuse_files(archive, "an MXNet checkpoint", (SYMBOL,))
        refuse_ambiguous(archive)
        beside = symbol_path(path)
        if SYMBOL not in archive.files and beside.exists():
            raise WeightFormatError(
                f"{beside} is there and would be taken for the symbol of what is written: write to another folder, or "
                "under another prefix, or remove it"
            )
        arrays = tensors_of(archive, self.layouts(archive), "an MXNet checkpoint", accepted)
        if archive.notes.get(NAMES) != "bare":
            states = {name: array for name, array in arrays.items() if name.startswith(AUXILIARY)}
            arrays = {ARGUMENT + name: array for name, array in arrays.items() if name not in states} | states
        write_both(path, arrays, symbol_path(path), archive.files.get(SYMBOL))


def params_path(prefix: str, epoch: int) -> Path:
    """Return where MXNet keeps the arrays of an epoch: ``prefix-0001.params``."""
    return Path(f"{prefix}-{epoch:04d}.params")


def symbol_path(params: Path) -> Path:
    """Return where the symbol of a file of arrays stands: ``prefix-symbol.json``."""
    return params.with_name(re.sub(r"-\d+$", "", params.stem) + f"-{SYMBOL}")


def read_params(path: Path) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the arguments and the auxiliary states of a checkpoint's arrays, by name.

    Raises
    ------
    WeightFormatError
        If a name bears neither prefix; MXNet fails there or drops the array.
    """
    kinds: dict[str, dict[str, Array]] = {ARGUMENT: {}, AUXILIARY: {}}
    for name, array in zip(*read_ndarrays(path), strict=True):
        kind = name[: len(ARGUMENT)]
        if kind not in kinds:
            raise WeightFormatError(f"{path}: array {name!r} is called neither {ARGUMENT}… nor {AUXILIARY}…")
        kinds[kind][name[len(kind) :]] = np.array(array)
    return kinds[ARGUMENT], kinds[AUXILIARY]


def write_both(path: Path, arrays: Mapping[str, Array | Composed], symbol: Path, content: bytes | None) -> None:
    """Write arrays and, unless its content is None, the symbol's file; where one cannot be written, neither is."""
    if content is None:
        write_ndarrays(path, list(arrays), list(arrays.values()))
        return
    with replace_file(symbol) as file:
        file.write(content)
        # Once the arrays are replaced, nothing may be left to do that a full or failing disk could refuse.
        file.flush()
        os.fsync(file.fileno())
        write_ndarrays(path, list(arrays), list(arrays.values()))


def _refuse_untold(name: str, part: Part, archive: Archive) -> None:
    """Refuse what no cell of MXNet computes, and what a symbol alone tells, unless a checkpoint is written back."""
    told = SYMBOL in archive.files or NAMES in archive.notes
    for cell in part.tree().walk():
        if isinstance(cell, GRUCell) and not cell.spec.fields["reset_after"]:
            raise UnsupportedError(
                f"the GRUCell {cell.weights_prefix!r} resets before the recurrent product (reset_after=False), and "
                "MXNet's after it: write the portable file, Keras or ONNX instead"
            )
        if isinstance(cell, ResidualCell) and not told:
            raise UnsupportedError(
                f"part {name!r} has a ResidualCell, which a checkpoint without a symbol file does not tell: "
                "weights_only=True (--weights-only) writes the weights alone, for code that has the rest"
            )
        if cell.has_anothers_weights and not told:
            raise UnsupportedError(
                f"part {name!r} has cells that share their weights, which a checkpoint without a symbol file does not "
                "tell: write the portable file or ONNX instead"
            )


def _told_by_symbol(files: Mapping[str, bytes]) -> Told:
    """Return what a symbol says of all weights together."""
    try:
        drawn = parts_of_symbol(files[SYMBOL])
    except UnsupportedError:  # it has cells of the user's own alone, of which it tells nothing
        drawn = []
    orders = {prefix: order for each in drawn for prefix, order in each.gate_order.items()}
    return Told(orders, {old: new for each in drawn for old, new in each.renames.items()})

"""MXNet checkpoints as a format: ``prefix-0001.params``, and ``prefix-symbol.json`` beside it.

What the arrays are is read from the symbol where there is one, and from names and shapes where there is none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rnnx.archive import Archive, Array, Document, Format
from rnnx.atomic import replace_file
from rnnx.errors import WeightFormatError
from rnnx.found import Assumptions, Found
from rnnx.formats.mxnet_names import parts_of_weights
from rnnx.formats.mxnet_ndarray import looks_like_ndarrays, read_ndarrays, write_ndarrays
from rnnx.formats.mxnet_symbol import parts_of_symbol

__all__ = ["AUXILIARY", "MXNetFormat", "params_path", "read_params", "symbol_path", "write_params"]

#: What stands before a name in a checkpoint: of a weight, and of an auxiliary state such as a moving mean.
ARGUMENT, AUXILIARY = "arg:", "aux:"

SYMBOL = "symbol.json"

#: Note on whether names bear ``arg:`` and ``aux:``, and on whether weights are one a gate or packed.
NAMES, WEIGHTS = "mxnet.names", "mxnet.weights"


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
        symbol = symbol_path(path)
        files = {SYMBOL: symbol.read_bytes()} if symbol.exists() else {}
        return Document(named, files, {NAMES: "prefixed" if prefixed else "bare"})

    def find(self, document: Document, assume: Assumptions) -> Sequence[Found]:
        """Return the recurrent parts that the symbol tells, or else those that names and shapes tell."""
        if SYMBOL in document.files:
            return parts_of_symbol(document.files[SYMBOL])
        shapes = {name: array.shape for name, array in document.arrays.items() if not name.startswith(AUXILIARY)}
        return parts_of_weights(shapes, assume)

    def write(self, path: Path, archive: Archive) -> None:
        """Write arrays and, if there is one, the symbol; see `Format.write`."""
        arrays: dict[str, Array] = {}
        for part in archive.parts.values():
            arrays.update(part.cell.unpack_weights(part.cell.get_params()))
        clash = sorted(set(arrays) & set(archive.extra))
        if clash:
            raise WeightFormatError(f"two arrays are called {clash[0]!r}")
        arrays.update(archive.extra)
        if archive.notes.get(NAMES) == "bare":
            write_ndarrays(path, list(arrays), list(arrays.values()))
        else:
            states = [name for name in arrays if name.startswith(AUXILIARY)]
            auxiliary = {name.removeprefix(AUXILIARY): arrays.pop(name) for name in states}
            write_params(path, arrays, auxiliary)
        if SYMBOL in archive.files:
            with replace_file(symbol_path(path)) as file:
                file.write(archive.files[SYMBOL])


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


def write_params(path: Path, arguments: Mapping[str, Array], auxiliary: Mapping[str, Array]) -> None:
    """Write a checkpoint's arrays as ``mx.model.save_checkpoint`` does."""
    arrays = {ARGUMENT + name: array for name, array in arguments.items()}
    arrays.update({AUXILIARY + name: array for name, array in auxiliary.items()})
    write_ndarrays(path, list(arrays), list(arrays.values()))

"""cuDNN's weight buffer as a format: a vector in a ``.npy`` file, in cuDNN's canonical order.

The order is that of `rnnx.FusedRNNCell`: every matrix by layer, direction and ``i2h`` before ``h2h``, the gates one
under the other; then every bias likewise (see `rnnx.weights.layout`). It is also the vector of MXNet's fused cells, and
the ``params`` of TensorFlow's CudnnRNN. A buffer does not tell what it is of, so the tree must be given to read it: a
fused cell, or any stack of equal layers. Dropout and zoneout act in training only and are not in it.

Source: ``cudnnGetRNNWeightParams`` in the documentation of cuDNN; ``numpy/lib/format.py`` for the file.
"""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rnnx.archive import Accepted, Archive, Array, Document, Format
from rnnx.assembly import tensors_of
from rnnx.atomic import replace_file
from rnnx.cells import BaseRNNCell, FusedRNNCell
from rnnx.errors import UnsupportedError, WeightFormatError
from rnnx.found import Assumptions, Found
from rnnx.fusion import fused_spec, running_layers
from rnnx.spec import CellSpec
from rnnx.weights.mapped import release
from rnnx.weights.stored import Composed, Stored, blocks, pieces_of

__all__ = ["CudnnFormat"]

_MAGIC = b"\x93NUMPY"

#: Versions of the file's header, and what reads each; the third differs only for names of fields.
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}

#: What a file's one array is called.
_BUFFER = "parameters"

_DTYPES = ("float16", "float32", "float64")


class CudnnFormat(Format):
    """A vector of weights in a ``.npy`` file."""

    name = "cudnn"
    suffixes = (".npy",)
    describes = False

    def recognises(self, path: Path, head: bytes) -> bool:
        """Say whether the file begins as NumPy's do."""
        return head.startswith(_MAGIC)

    def read(self, path: Path) -> Document:
        """Map a vector; see `Format.read`."""
        return Document({_BUFFER: _mapped(path)})

    def find(self, document: Document, assume: Assumptions) -> Sequence[Found]:
        """Refuse: nothing in the file tells what it is of."""
        raise WeightFormatError(
            f"a vector of {document.arrays[_BUFFER].size} numbers does not tell what it is the weights of: give the "
            "tree as cell=rnnx.FusedRNNCell(num_hidden, num_layers, mode, bidirectional) (on the command line "
            "--cell \"FusedRNNCell(60, num_layers=2, mode='lstm')\")"
        )

    def spelled(self, document: Document, cell: BaseRNNCell) -> tuple[int, Sequence[Stored]]:
        """Return how the vector is made of the weights of a tree; see `Format.spelled`.

        Raises
        ------
        UnsupportedError
            If the tree has no fused form.
        WeightFormatError
            If the vector is not as long as one of such a tree.
        """
        size = document.arrays[_BUFFER].size
        fused, held = _as_fused(cell.spec)
        (vector,) = fused.gate_weights()
        width = fused.input_size_of({vector: (size,)})
        assert width is not None, "the vector is there"
        return width, (Stored(_BUFFER, (size,), blocks(*held)),)

    def layouts(self, archive: Archive) -> dict[str, Sequence[Stored]]:
        """Return how the vector is made of the weights of the archive's only part."""
        others = [*archive.extra, *archive.files]
        if len(archive.parts) != 1 or others:
            names = ", ".join(map(repr, [*archive.parts, *others][:6])) or "nothing"
            raise UnsupportedError(
                "a cuDNN buffer holds the weights of one recurrent part and nothing else, and there is more or less: "
                f"{names}; select= (--select) writes one part only"
            )
        ((name, part),) = archive.parts.items()
        _, held = _as_fused(part.spec)
        size = sum(math.prod(part.weights[weight].shape) for weight in held)
        return {name: (Stored(_BUFFER, (size,), blocks(*held)),)}

    def write(self, path: Path, archive: Archive, accepted: Accepted) -> None:
        """Write the vector; see `Format.write`."""
        vector = tensors_of(archive, self.layouts(archive), "a cuDNN buffer", accepted)[_BUFFER]
        if vector.dtype.name not in _DTYPES:
            raise UnsupportedError(
                f"weights of {vector.dtype} have no place in a .npy file: dtype= (--dtype) makes them one of "
                f"{', '.join(_DTYPES)}"
            )
        with replace_file(path) as file:
            _write(file, vector)


# -- trees ------------------------------------------------------------------------------------------------------------


def _as_fused(spec: CellSpec) -> tuple[FusedRNNCell, tuple[str, ...]]:
    """Return a tree as one fused cell, and the tree's own names of the weights that its vector holds, in order.

    A buffer has no names, so the prefixes of the layers do not matter as they do elsewhere in a fused form.
    """
    own: dict[str, str] = {}
    layers = [_numbered(layer, number, own) for number, layer in enumerate(running_layers(spec))]
    fused = BaseRNNCell.from_spec(fused_spec(CellSpec("SequentialRNNCell", {}, tuple(layers))))
    assert isinstance(fused, FusedRNNCell), "nothing else is fused"
    (vector,) = fused.gate_weights().values()
    return fused, tuple(own[f"{layer}_"] + weight for layer, _, weight in (name.partition("_") for name in vector))


def _numbered(spec: CellSpec, number: int, own: dict[str, str], letter: str = "l") -> CellSpec:
    """Return a layer with the prefixes of a fused cell's, and note in `own` what stood before its weights' names."""
    if spec.kind == "BidirectionalCell":
        sides = zip(spec.children, "lr", strict=True)
        return dataclasses.replace(spec, children=tuple(_numbered(side, number, own, which) for side, which in sides))
    prefix = f"{letter}{number}_"
    own[prefix] = spec.fields.get("params", spec.fields.get("prefix", ""))
    fields = {key: value for key, value in spec.fields.items() if key not in ("params", "forget_bias")}
    return dataclasses.replace(spec, fields={**fields, "prefix": prefix})


# -- files ------------------------------------------------------------------------------------------------------------


def _mapped(path: Path) -> Array:
    """Return the vector in a file, mapped and read-only."""
    with path.open("rb") as file:
        shape, dtype = _header(file)
        start, size = file.tell(), os.fstat(file.fileno()).st_size
    if dtype.name not in _DTYPES:
        raise WeightFormatError(f"the array has dtype {dtype}, expected one of {', '.join(_DTYPES)}")
    if len(shape) != 1 or shape[0] < 1:
        raise WeightFormatError(f"the array has shape {shape}, expected one axis: weights of cuDNN are a vector")
    if size - start != shape[0] * dtype.itemsize:
        raise WeightFormatError(
            f"{shape[0]} numbers of {dtype.name} are {shape[0] * dtype.itemsize} bytes, and behind the header are "
            f"{size - start}"
        )
    stored: Array = np.memmap(path, dtype, "r", start, shape)
    return stored.astype(dtype.newbyteorder("="), copy=False)


def _header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return what the header says of the array: its shape and its dtype."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old files are read as well as new ones
            version = np.lib.format.read_magic(file)
            if version not in _HEADERS:
                raise WeightFormatError(f"the header is of version {version}, expected 1.0 or 2.0")
            shape, _, dtype = _HEADERS[version](file)
    except (OSError, WeightFormatError):
        raise
    except Exception as error:  # NumPy parses it as Python, and whatever that raises comes through
        raise WeightFormatError(f"the header of the .npy file makes no sense: {error}") from error
    return tuple(int(size) for size in shape), dtype


def _write(file: BinaryIO, vector: Array | Composed) -> None:
    """Write a vector, piece by piece."""
    native = vector.dtype.newbyteorder("<")
    np.lib.format.write_array_header_1_0(
        file, {"descr": np.lib.format.dtype_to_descr(native), "fortran_order": False, "shape": vector.shape}
    )
    for piece in pieces_of(vector):
        file.write(np.ascontiguousarray(piece, native).data)
        release(piece)

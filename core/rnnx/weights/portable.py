"""The portable file: safetensors, with what rnnx needs to know in its metadata.

A safetensors file is a u64 length, a JSON header that gives each tensor's dtype, shape and place, and the tensors'
bytes. The header's ``__metadata__`` maps strings to strings; here it always has

==================  ===================================================================================================
``format``          ``rnnx``
``format_version``  ``1``
``digest``          ``sha256:`` and the hash of all other metadata and of every tensor's name, dtype, shape and bytes
==================  ===================================================================================================

Reading executes nothing, trusts no length (the safetensors library checks the header, the digest the rest), and maps
the tensors instead of copying them.

Source of the format: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rnnx.atomic import replace_file
from rnnx.errors import WeightFormatError

__all__ = ["FORMAT", "FORMAT_VERSION", "looks_portable", "read_portable", "write_portable"]

FORMAT = "rnnx"
FORMAT_VERSION = "1"

Array = npt.NDArray[Any]

_LENGTH = struct.Struct("<Q")

#: How safetensors names NumPy's dtypes.
_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
}


def looks_portable(head: bytes) -> bool:
    """Say whether a file that starts so is a safetensors file: a length, and a JSON object."""
    return len(head) > _LENGTH.size and head[_LENGTH.size : _LENGTH.size + 1] == b"{"


def read_portable(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the tensors, as read-only views of the mapped file, and the metadata without digest and format.

    Raises
    ------
    WeightFormatError
        If the file is no portable file, of another version, truncated, or changed since it was written.
    """
    metadata = _checked_metadata(path)
    arrays = _mapped(path)
    wanted, found = metadata.pop("digest"), _digest(arrays, metadata)
    if wanted != found:
        raise WeightFormatError(f"{path} was changed after it was written: its digest is {found}, expected {wanted}")
    return arrays, {key: value for key, value in metadata.items() if key not in ("format", "format_version")}


def write_portable(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata, whole or not at all.

    Raises
    ------
    WeightFormatError
        If a tensor's dtype has no place in the format.
    """
    plain = {name: _plain(name, array) for name, array in arrays.items()}
    complete = {**metadata, "format": FORMAT, "format_version": FORMAT_VERSION}
    data = save(plain, {**complete, "digest": _digest(plain, complete)})
    with replace_file(path) as file:
        file.write(data)


def _checked_metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(os.fspath(path), framework="np") as file:
            metadata = dict(file.metadata() or {})
    except SafetensorError as error:
        raise WeightFormatError(f"{path} is no whole safetensors file: {error}") from error
    if metadata.get("format") != FORMAT or "digest" not in metadata:
        raise WeightFormatError(f"{path} is a safetensors file, but not one that rnnx wrote")
    if metadata.get("format_version") != FORMAT_VERSION:
        raise WeightFormatError(
            f"{path} has version {metadata.get('format_version')!r} of the portable format, and this rnnx reads "
            f"{FORMAT_VERSION!r}: a newer rnnx is needed"
        )
    return metadata


def _mapped(path: Path) -> dict[str, Array]:
    """Return views of the file's tensors, at the places that safetensors has just checked."""
    data = np.memmap(path, np.uint8, "r")
    (length,) = _LENGTH.unpack(data[: _LENGTH.size].tobytes())
    start = _LENGTH.size + length
    header = json.loads(data[_LENGTH.size : start].tobytes())
    header.pop("__metadata__")
    arrays = {}
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise WeightFormatError(f"{path}: tensor {name!r} has dtype {entry['dtype']}, which NumPy does not have")
        first, last = (start + offset for offset in entry["data_offsets"])
        dtype = np.dtype(_DTYPES[entry["dtype"]]).newbyteorder("<")
        arrays[name] = np.asarray(data[first:last]).view(dtype).reshape(entry["shape"])
    return arrays


def _plain(name: str, array: Array) -> Array:
    if array.dtype.name not in _DTYPES.values():
        raise WeightFormatError(
            f"{name!r} has dtype {array.dtype}, which the portable file cannot hold; it holds "
            f"{', '.join(sorted(_DTYPES.values()))}"
        )
    return np.ascontiguousarray(array).reshape(array.shape)


def _digest(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> str:
    found = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, array in sorted(arrays.items()):
        found.update(json.dumps([name, array.dtype.name, array.shape]).encode())
        found.update(np.ascontiguousarray(array).data)
    return f"sha256:{found.hexdigest()}"

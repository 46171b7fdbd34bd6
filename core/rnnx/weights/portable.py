"""The portable file: safetensors, with what rnnx needs to know in its metadata.

`rnnx.weights.safetensors` describes the file itself. Its metadata always has

==================  ===================================================================================================
``format``          ``rnnx``
``format_version``  ``1``
``digest``          ``sha256:`` and the hash of all other metadata and of every tensor's name, dtype, shape and bytes
==================  ===================================================================================================

Reading executes nothing, trusts no length, and maps the tensors instead of copying them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from rnnx.errors import WeightFormatError
from rnnx.weights.mapped import release
from rnnx.weights.safetensors import bits, check_writable, read_metadata, read_tensors, write_tensors
from rnnx.weights.stored import Composed, pieces_of

__all__ = ["FORMAT", "FORMAT_VERSION", "looks_portable", "read_portable", "write_portable"]

FORMAT = "rnnx"
FORMAT_VERSION = "1"

#: Metadata that no other safetensors file has.
_OWN_KEYS = frozenset({"format_version", "digest"})

Array = npt.NDArray[Any]


def looks_portable(path: Path, head: bytes) -> bool:
    """Say whether a file is a safetensors file, a length and a JSON object, with metadata that only this format has.

    A file that was damaged in one key of them is still ours, and is refused as such.
    """
    metadata = read_metadata(path) or {} if head[8:9] == b"{" else {}
    return metadata.get("format") == FORMAT or metadata.keys() >= _OWN_KEYS


def read_portable(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the tensors, as read-only views of the mapped file, and the metadata without digest and format.

    Raises
    ------
    WeightFormatError
        If the file is no portable file, of another version, truncated, or changed since it was written.
    """
    arrays, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT or "digest" not in metadata:
        raise WeightFormatError(f"{path} is a safetensors file, but not one that rnnx wrote")
    if metadata.get("format_version") != FORMAT_VERSION:
        raise WeightFormatError(
            f"{path} has version {metadata.get('format_version')!r} of the portable format, and this rnnx reads "
            f"{FORMAT_VERSION!r}: a newer rnnx is needed"
        )
    wanted, found = metadata.pop("digest"), _digest(arrays, metadata)
    if wanted != found:
        raise WeightFormatError(f"{path} was changed after it was written: its digest is {found}, expected {wanted}")
    return arrays, {key: value for key, value in metadata.items() if key not in ("format", "format_version")}


def write_portable(path: Path, arrays: Mapping[str, Array | Composed], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata, whole or not at all.

    Raises
    ------
    WeightFormatError
        If a tensor's dtype, number of dimensions or name has no place in the format.
    """
    check_writable(arrays)
    complete = {**metadata, "format": FORMAT, "format_version": FORMAT_VERSION}
    write_tensors(path, arrays, {**complete, "digest": _digest(arrays, complete)})


def _digest(arrays: Mapping[str, Array | Composed], metadata: Mapping[str, str]) -> str:
    found = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, array in sorted(arrays.items()):
        found.update(json.dumps([name, array.dtype.name, array.shape]).encode())
        for piece in pieces_of(array):
            found.update(bits(piece).data)
            release(piece)
    return f"sha256:{found.hexdigest()}"

"""The three files that Keras keeps models in, read into documents and written from them.

==============  =======================================================================================================
``.keras``      a zip archive: ``config.json``, ``metadata.json``, ``model.weights.h5``, and files beneath ``assets/``
``.weights.h5`` an HDF5 file of weights alone, as the one in the archive
``.h5``         an HDF5 file of before Keras 3: weights under the layers' names, the config in an attribute
==============  =======================================================================================================

Arrays are called by their paths in the HDF5 file. Arrays that no layer of Keras has stand in the group ``rnnx_extra``,
which Keras passes over, under their names with ``%`` and ``/`` written as in a URL; there is also what `rnnx` needs to
know to build the very tree again.

Nothing is extracted to the disk. What stands in an archive uncompressed, as Keras writes it, is mapped.

Source: ``keras/src/saving/saving_lib.py`` and ``keras/src/legacy/saving/legacy_h5_format.py`` of Keras 3.15.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
import struct
import tempfile
import urllib.parse
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rnnx.archive import Array, Document
from rnnx.atomic import replace_file
from rnnx.errors import WeightFormatError
from rnnx.formats.keras.hdf5 import MOST, SIGNATURE, Attribute, Tree, read_tree, write_tree
from rnnx.weights.mapped import Mapped
from rnnx.weights.safetensors import json_object
from rnnx.weights.stored import Composed

__all__ = [
    "ARCHIVE",
    "ATTRIBUTES",
    "CONFIG",
    "EXTRA",
    "KIND",
    "LEGACY",
    "LEGACY_CONFIG",
    "LEGACY_ROOT",
    "METADATA",
    "PATHS",
    "WEIGHTS",
    "attributes_of",
    "kind_of",
    "looks_like_keras",
    "name_of_path",
    "path_of_name",
    "paths_of",
    "read_keras",
    "write_keras",
]

#: The kinds of file.
ARCHIVE, WEIGHTS, LEGACY = "archive", "weights", "legacy"

#: Notes: the kind of file, the attributes of its groups, and the paths of its arrays.
KIND, ATTRIBUTES, PATHS = "keras.kind", "keras.attributes", "keras.paths"

#: What an archive holds.
CONFIG, METADATA, _WEIGHTS_FILE = "config.json", "metadata.json", "model.weights.h5"

#: Attributes of a legacy file that are kept as files, since they describe the network.
LEGACY_CONFIG = "model_config.json"
_LEGACY_FILES = {"model_config": LEGACY_CONFIG, "training_config": "training_config.json"}

#: Where a legacy file that holds a whole model has the layers' weights.
LEGACY_ROOT = "model_weights"

#: The group of arrays that no layer has.
EXTRA = "rnnx_extra"

_ZIP, _LOCAL = b"PK\3\4", struct.Struct("<4s22xHH")
_FIRST_NAMES = (CONFIG, METADATA, _WEIGHTS_FILE, "assets/")
_EPOCH = (1980, 1, 1, 0, 0, 0)
_STEP = 1 << 24

#: How often its size an archive that was packed again, compressed, may hold; moments of an optimizer are often zeros.
_SWELLING = 8


def looks_like_keras(head: bytes) -> bool:
    """Say whether a file that starts so is HDF5, or an archive whose first file is one of Keras's."""
    if head.startswith(_ZIP) and len(head) >= _LOCAL.size:
        _, length, _ = _LOCAL.unpack_from(head)
        return head[_LOCAL.size : _LOCAL.size + length].decode("latin-1").startswith(_FIRST_NAMES)
    return head.startswith(SIGNATURE)


def kind_of(path: Path, otherwise: str) -> str:
    """Return the kind of file that Keras takes a name for."""
    for ending, kind in ((".keras", ARCHIVE), (".weights.h5", WEIGHTS), (".h5", LEGACY), (".hdf5", LEGACY)):
        if path.name.endswith(ending):
            return kind
    return otherwise


def read_keras(path: Path) -> Document:
    """Read a file of any of the three kinds.

    Raises
    ------
    WeightFormatError
        If it is damaged, or holds what no file of Keras's does.
    """
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise WeightFormatError("the file is empty")
        data = memoryview(Mapped(file.fileno(), 0, access=mmap.ACCESS_READ))
    if data[: len(_ZIP)] == _ZIP:
        files = _unzipped(path, data)
        if _WEIGHTS_FILE not in files:
            raise WeightFormatError(f"the archive has no {_WEIGHTS_FILE!r}; it has {', '.join(files) or 'nothing'}")
        tree = read_tree(files.pop(_WEIGHTS_FILE))
        return _document(tree, ARCHIVE, {name: bytes(content) for name, content in files.items()})
    tree = read_tree(data)
    if not _is_legacy(tree):
        return _document(tree, WEIGHTS, {})
    own = dict(tree.attributes.get("", {}))
    described = {_LEGACY_FILES[name]: _encoded(own.pop(name), name) for name in list(own) if name in _LEGACY_FILES}
    return _document(Tree(tree.arrays, {**tree.attributes, "": own}), LEGACY, described)


def write_keras(
    path: Path,
    kind: str,
    arrays: Mapping[str, Array | Composed],
    attributes: Mapping[str, Mapping[str, Attribute]],
    files: Mapping[str, bytes],
) -> None:
    """Write a file of a kind, whole or not at all; arrays by their paths.

    Raises
    ------
    WeightFormatError
        If a file, a name or a dtype has no place in it.
    """
    legacy = {attribute: name for attribute, name in _LEGACY_FILES.items() if name in files and kind == LEGACY}
    lost = [name for name in files if kind != ARCHIVE and name not in legacy.values()]
    if lost:
        raise WeightFormatError(
            f"the file {lost[0]!r} has no place in {path.name}, which is a Keras file of another kind: "
            "drop_files=True (--drop-files) leaves it out"
        )
    own = {**attributes.get("", {}), **{name: {"text": _text(files[file], file)} for name, file in legacy.items()}}
    # HDF5 is written to and fro, which a file that is to be replaced at once, or one in an archive, is not open for.
    with tempfile.TemporaryFile(dir=path.parent) as between:
        write_tree(between, Tree(arrays, {**attributes, "": own}))
        between.seek(0)
        with replace_file(path) as file:
            if kind == ARCHIVE:
                _zip(file, files, between)
            else:
                shutil.copyfileobj(between, file, _STEP)


def name_of_path(path: str) -> str:
    """Return what an array is called that stands at a path of the HDF5 file."""
    group, slash, rest = path.partition("/")
    return urllib.parse.unquote(rest, errors="surrogatepass") if slash and group == EXTRA else path


def path_of_name(name: str) -> str:
    """Return where an array that no layer has stands in the HDF5 file."""
    quoted = urllib.parse.quote(name, safe="", errors="surrogatepass")
    return f"{EXTRA}/{'%2E' + quoted[1:] if quoted.startswith('.') else quoted}"


def attributes_of(notes: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the attributes that a file had, by the paths of their owners.

    Raises
    ------
    WeightFormatError
        If the note makes no sense, as one from a file may.
    """
    found = json_object(notes.get(ATTRIBUTES, "{}"), f"note {ATTRIBUTES!r}")
    if not all(
        isinstance(own, dict) and all(isinstance(each, dict) for each in own.values()) for own in found.values()
    ):
        raise WeightFormatError(f"note {ATTRIBUTES!r} should hold attributes by name, by path")
    return found


def paths_of(notes: Mapping[str, str]) -> list[str]:
    """Return the paths of the arrays that a file had.

    Raises
    ------
    WeightFormatError
        If the note makes no sense, as one from a file may.
    """
    try:
        found = json.loads(notes.get(PATHS, "[]"))
    except (ValueError, RecursionError) as error:
        raise WeightFormatError(f"note {PATHS!r} is not JSON: {error}") from error
    if not isinstance(found, list) or any(type(path) is not str for path in found):
        raise WeightFormatError(f"note {PATHS!r} should be a list of paths")
    return found


def _document(tree: Tree, kind: str, files: Mapping[str, bytes]) -> Document:
    named = [name_of_path(path) for path in tree.arrays]
    twice = [name for name, times in Counter(named).items() if times > 1]
    if twice:
        raise WeightFormatError(f"two arrays are called {twice[0]!r}, one of them in the group {EXTRA!r}")
    return Document(
        {name: np.asarray(array) for name, array in zip(named, tree.arrays.values(), strict=True)},
        files,
        {KIND: kind, ATTRIBUTES: json.dumps(tree.attributes), PATHS: json.dumps(list(tree.arrays))},
    )


def _is_legacy(tree: Tree) -> bool:
    own = tree.attributes.get("", {}).keys()
    return bool(own & {"model_config", "layer_names", "layer_names0"}) or any(
        path.startswith(f"{LEGACY_ROOT}/") for path in [*tree.arrays, *tree.attributes]
    )


def _encoded(attribute: Attribute, name: str) -> bytes:
    text = attribute.get("text", attribute.get("bytes"))
    if not isinstance(text, str):
        raise WeightFormatError(f"attribute {name!r} of the file should be text")
    return text.encode("utf-8", "surrogateescape") if "text" in attribute else text.encode("latin-1")


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise WeightFormatError(f"{name!r} is not UTF-8, as an attribute of a Keras file must be: {error}") from error


# -- archives ---------------------------------------------------------------------------------------------------------


def _unzipped(path: Path, data: memoryview) -> dict[str, memoryview]:
    """Return what the files of an archive hold, in order; views of it where they are not compressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.filename.endswith("/")]
            _check_entries(entries, len(data))
            return {entry.filename: _content(archive, entry, data) for entry in entries}
    except (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, EOFError, struct.error) as error:
        if isinstance(error, WeightFormatError):
            raise
        raise WeightFormatError(f"the archive is damaged: {error}") from error


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    total = sum(entry.file_size for entry in entries)
    if total > _SWELLING * size + MOST:
        raise WeightFormatError(f"the archive of {size} bytes is said to hold {total}, which is not read")
    for name, times in Counter(entry.filename for entry in entries).items():
        if times > 1:
            raise WeightFormatError(f"the archive has {name!r} {times} times")
        if re.search(r"[\\:\0]", name) or any(part in ("", ".", "..") for part in name.split("/")):
            raise WeightFormatError(f"the archive has a file called {name!r}, which is no place within a folder")


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, data: memoryview) -> memoryview:
    if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise WeightFormatError(f"{entry.filename!r} is encrypted, or compressed in a way that Keras does not read")
    if entry.compress_type == zipfile.ZIP_DEFLATED:
        with archive.open(entry) as file:
            content = file.read(entry.file_size + 1)
        found = memoryview(content)
    else:
        _, *lengths = _LOCAL.unpack_from(data, entry.header_offset)
        start = entry.header_offset + _LOCAL.size + sum(lengths)
        found = data[start : start + entry.compress_size]
        if _checksum(found) != entry.CRC:
            raise WeightFormatError(f"{entry.filename!r} is damaged: its checksum is not the one that was written")
    if len(found) != entry.file_size:
        raise WeightFormatError(f"{entry.filename!r} has {len(found)} bytes, said to be {entry.file_size}")
    return found


def _checksum(content: memoryview) -> int:
    found = 0
    for start in range(0, len(content), _STEP):
        found = zlib.crc32(content[start : start + _STEP], found)
    return found


def _zip(file: BinaryIO, files: Mapping[str, bytes], weights: BinaryIO) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name in sorted(files, key=lambda name: (name not in (METADATA, CONFIG), name == CONFIG, name)):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), files[name])
        with archive.open(zipfile.ZipInfo(_WEIGHTS_FILE, _EPOCH), "w", force_zip64=True) as entry:
            shutil.copyfileobj(weights, entry, _STEP)

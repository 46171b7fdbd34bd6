"""Checkpoints of TensorFlow 1 on the disk: ``model.ckpt-1000.index``, ``.data-00000-of-00001``, and maybe ``.meta``.

What a user gives may be the beginning that their names share, one of them, or a directory in which a file
``checkpoint`` tells which one is the latest. TensorFlow reads and writes the arrays; before it reads, the index is
checked (`rnnx.formats.tf1.index`), and that every variable's bytes are there.

Sources: ``tensorflow/core/util/tensor_bundle/tensor_bundle.h`` and
``tensorflow/python/checkpoint/checkpoint_management.py`` of TensorFlow 2.21.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from rnnx.archive import Array
from rnnx.atomic import replace_file
from rnnx.errors import RNNXError, UnsupportedError, WeightFormatError
from rnnx.formats.tf1.index import OBJECT_GRAPH, Index, looks_like_index, read_index
from rnnx.optional import required
from rnnx.weights.stored import Composed

__all__ = ["read_graph", "read_variables", "recognised", "stem_of", "write_checkpoint"]

#: The file by which a directory tells its latest checkpoint.
_STATE = "checkpoint"

_ENDING = re.compile(r"(?s)(.+)\.(?:index|meta|data-[0-9]{5}-of-[0-9]{5})")

#: The graph's file has no place among the variables, and is kept as it is.
_GRAPH = ".meta"


def recognised(path: Path, head: bytes) -> bool:
    """Say whether a path leads to a checkpoint: a directory, the beginning of files' names, or one of the files."""
    if path.is_dir():
        return (path / _STATE).is_file()
    if path.name == _STATE and head.startswith(b"model_checkpoint_path"):
        return True
    return looks_like_index(_beside(_without_ending(path), ".index")) or looks_like_index(path)


def stem_of(path: Path) -> Path:
    """Return what the names of a checkpoint's files begin with.

    A directory's latest checkpoint is looked for in the directory itself: where it was written is of no matter.

    Raises
    ------
    WeightFormatError
        If a directory does not tell its latest checkpoint.
    """
    directory = path.parent if path.name == _STATE and path.is_file() else path
    if not directory.is_dir():
        return _without_ending(path)
    tf = _tensorflow()
    with _translated(f"{directory / _STATE}"):
        state = tf.train.get_checkpoint_state(str(directory))
    name = PurePath(state.model_checkpoint_path).name if state is not None else ""
    if not name:
        raise WeightFormatError(f"{directory} has no file {_STATE!r} that tells its latest checkpoint")
    return directory / name


def read_variables(stem: Path) -> dict[str, Array]:
    """Return every variable of a checkpoint by name.

    Raises
    ------
    WeightFormatError
        If the checkpoint is damaged, or holds something other than numbers.
    UnsupportedError
        If it is of another kind: that of TensorFlow 2, where names mean something else, or the oldest.
    """
    tf = _tensorflow()
    listed = _beside(stem, ".index")
    if not listed.exists() and looks_like_index(stem):
        raise UnsupportedError(
            f"{stem} is a checkpoint of the first version, all in one file: restore it with tf.compat.v1.train.Saver "
            "and save it again"
        )
    index = read_index(listed)
    if OBJECT_GRAPH in index.variables:
        raise UnsupportedError(
            f"{stem} is a checkpoint of TensorFlow 2, which calls variables by the objects that hold them: save the "
            "Keras model with model.save('model.keras') and read that, or the variables by their own names with "
            "tf.compat.v1.train.Saver"
        )
    _check_bytes(tf, stem, index)
    with _translated(f"checkpoint {stem}"):
        names = [key.decode() for key in index.variables]
        reader = tf.compat.v1.train.NewCheckpointReader(str(stem))
        return {name: np.asarray(reader.get_tensor(name)) for name in names}


def read_graph(stem: Path) -> bytes | None:
    """Return the file with the graph, if there is one."""
    graph = _beside(stem, _GRAPH)
    return graph.read_bytes() if graph.is_file() else None


def write_checkpoint(path: Path, arrays: Mapping[str, Array | Composed], graph: bytes | None) -> None:
    """Write a checkpoint's files, all of them or none; the index last, so that it never stands there without its data.

    Raises
    ------
    UnsupportedError
        If TensorFlow has no variable of that name or dtype, or the path is a directory.
    OSError
        If the disk refuses.
    """
    if path.is_dir():
        raise UnsupportedError(f"{path} is a directory: say how the files' names begin, such as {path / 'model.ckpt'}")
    stem = _without_ending(path)
    for name in arrays:
        _check_writable(name, arrays[name].dtype)
    if not arrays:
        raise UnsupportedError("a TensorFlow checkpoint holds at least one variable, and there is none to write")
    with tempfile.TemporaryDirectory(prefix=".rnnx-", dir=stem.parent) as directory:
        made = Path(directory) / "made"
        _save(made, arrays)
        if graph is not None:
            _beside(made, _GRAPH).write_bytes(graph)
        _put_in_place(made, stem)


# -- paths ------------------------------------------------------------------------------------------------------------


def _beside(stem: Path, ending: str) -> Path:
    return stem.parent / (stem.name + ending)


def _without_ending(path: Path) -> Path:
    named = _ENDING.fullmatch(path.name)
    return path.with_name(named[1]) if named else path


def _shard(stem: Path, number: int, count: int) -> Path:
    return _beside(stem, f".data-{number:05d}-of-{count:05d}")


# -- reading ----------------------------------------------------------------------------------------------------------


def _tensorflow() -> Any:
    return required("tensorflow", "tensorflow", "TensorFlow checkpoints")


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    """Make one error of the many that TensorFlow raises over a damaged file."""
    try:
        yield
    except (RNNXError, OSError, MemoryError):
        raise
    except Exception as error:
        raise WeightFormatError(f"{what} cannot be read: {str(error)[:400]}") from error


def _check_bytes(tf: Any, stem: Path, index: Index) -> None:
    """Refuse variables that are no numbers, or whose bytes are not where the index says."""
    sizes: dict[int, int] = {}
    total = 0
    for key, entry in (*index.variables.items(), *index.slices.items()):
        name, itemsize = key.decode("utf-8", "replace"), _itemsize(tf, key, entry.dtype)
        if entry.slices:
            continue
        if not 0 <= entry.shard_id < index.num_shards:
            raise WeightFormatError(f"variable {name!r} is in file {entry.shard_id} of {index.num_shards}")
        if entry.shard_id not in sizes:
            sizes[entry.shard_id] = _shard(stem, entry.shard_id, index.num_shards).stat().st_size
        expected = itemsize * math.prod(dim.size for dim in entry.shape.dim)
        if entry.size != expected or entry.offset < 0 or entry.offset + entry.size > sizes[entry.shard_id]:
            raise WeightFormatError(
                f"variable {name!r} should have {expected} bytes; the index says {entry.size} from byte {entry.offset} "
                f"on, and {_shard(stem, entry.shard_id, index.num_shards).name} has {sizes[entry.shard_id]}"
            )
        total += entry.size
    if total > sum(sizes.values()):
        raise WeightFormatError(f"the variables of {stem.name} have {total} bytes, and its files {sum(sizes.values())}")


def _itemsize(tf: Any, key: bytes, code: int) -> int:
    """Return the size of a dtype's elements, if they are numbers."""
    try:
        dtype = tf.dtypes.as_dtype(code)
    except TypeError:
        dtype = None
    numbers = dtype is not None and (dtype.is_floating or dtype.is_integer or dtype.is_bool or dtype.is_complex)
    if not numbers or dtype != dtype.base_dtype:
        what = f"dtype number {code}" if dtype is None else f"dtype {dtype.name}"
        raise WeightFormatError(
            f"variable {key.decode('utf-8', 'replace')!r} has {what}, and only numbers are read: save the checkpoint "
            "without it, with Saver(var_list=...)"
        )
    return int(dtype.size)


# -- writing ----------------------------------------------------------------------------------------------------------


def _check_writable(name: str, dtype: np.dtype[Any]) -> None:
    try:
        named = bool(name.encode())
    except UnicodeEncodeError:
        named = False
    if not named or name.startswith("\0"):
        raise UnsupportedError(f"TensorFlow takes no variable called {name!r}")
    try:
        made = _tensorflow().dtypes.as_dtype(dtype)
    except TypeError:
        made = None
    if made is None or made.name == "string" or not dtype.isnative:
        raise UnsupportedError(f"array {name!r} has dtype {dtype}, which TensorFlow has not")


def _save(stem: Path, arrays: Mapping[str, Array | Composed]) -> None:
    """Write arrays with TensorFlow, in a graph of its own, whatever mode the program runs it in.

    They stand in the order in which ``Saver`` puts them, so that a file that was read becomes the same again.
    """
    tf = _tensorflow()
    v1 = tf.compat.v1
    names = sorted(arrays)
    values = [np.asarray(arrays[name]) for name in names]
    with tf.Graph().as_default(), v1.Session(config=v1.ConfigProto(device_count={"GPU": 0})) as session:
        tensors = [v1.placeholder(value.dtype, value.shape) for value in values]
        whole = [""] * len(values)
        saved = tf.raw_ops.SaveV2(prefix=str(stem), tensor_names=names, shape_and_slices=whole, tensors=tensors)
        try:
            session.run(saved, dict(zip(tensors, values, strict=True)))
        except tf.errors.OpError as error:
            raise OSError(f"TensorFlow could not write a checkpoint: {error.message}") from error


def _put_in_place(made: Path, stem: Path) -> None:
    """Replace a checkpoint's files by those made: what is opened last is renamed first."""
    with contextlib.ExitStack() as stack:
        for ending in (".index", _GRAPH, ".data-00000-of-00001"):
            source = _beside(made, ending)
            if source.exists():
                target = stack.enter_context(replace_file(_beside(stem, ending)))
                with source.open("rb") as file:
                    shutil.copyfileobj(file, target)
                # Once the first file is replaced, nothing may be left to do that a full disk could refuse.
                target.flush()
                os.fsync(target.fileno())

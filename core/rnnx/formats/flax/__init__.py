"""Files of flax as a format: ``.msgpack``, as ``flax.serialization.to_bytes`` writes parameters, of linen and of nnx.

An array is called by the keys that lead to it, joined by ``/``: ``params/encoder/cell/hi/kernel``. A part is called by
its place in the model, ``encoder``. What else is in the tree is kept: arrays as arrays, Python's numbers as arrays of
no dimensions, text and bytes as files. Which of these a value was, and the order of all, is kept in the note `TREE`.

Written is linen's form. The layer whose cell has prefix ``encoder_`` stands where flax looks for it::

    {"params": {"encoder": {"cell": …}}}                                      # RNN(LSTMCell(H), name="encoder")
    {"params": {"lstm_l0": {"forward_rnn": {"cell": …}, "backward_rnn": …}}}  # Bidirectional(…, name="lstm_l0")

where a bidirectional layer is called as its forward cell is. A part that was read from a file of flax is written as it
stood there, of nnx or wherever it was.

Source: ``flax/serialization.py`` of flax 0.12.8; for the cells see `rnnx.formats.flax.trees`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnnx.archive import Accepted, Archive, Array, Document, Format, Part
from rnnx.assembly import tensors_of
from rnnx.errors import UnsupportedError, WeightFormatError
from rnnx.formats.flax.msgpack import DTYPES, KINDS, Key, Value, looks_like_tree, read_tree, write_tree
from rnnx.formats.flax.trees import BACKWARD, CELL, FORWARD, LINEN, cell_tensors, parts_of_tree
from rnnx.found import Assumptions, Found
from rnnx.fusion import running_layers
from rnnx.remembering import remembered
from rnnx.spec import CellSpec
from rnnx.weights.stored import Stored

__all__ = ["FlaxFormat"]

#: Note on what each value of the tree was, and in which order they stood.
TREE = "flax.tree"

#: Kinds of values that are kept as files.
_FILES = ("text", "bytes")

#: Deepest tree and longest name that are read or written.
_MAX_DEPTH, _MAX_NAME = 64, 1024

#: The collection in which linen keeps what is trained.
_PARAMS = "params"

#: What to do with a tree that flax has nothing for.
_INSTEAD = "write rnnx's own file (.rnnx), or another that has it, such as ONNX"


class FlaxFormat(Format):
    """msgpack files of flax, of linen and of nnx."""

    name = "flax"
    suffixes = (".msgpack", ".flax")

    def recognises(self, path: Path, head: bytes) -> bool:
        """Say whether the file begins as a map of msgpack does."""
        return looks_like_tree(head)

    def read(self, path: Path) -> Document:
        """Read a tree; see `Format.read`."""
        tree = read_tree(path)
        arrays: dict[str, Array] = {}
        files: dict[str, bytes] = {}
        for name, value in _leaves(tree, None, 0):
            if name in arrays or name in files:
                raise WeightFormatError(f"two values are called {name!r}")
            if not isinstance(value.data, bytes):
                arrays[name] = np.asarray(value.data)
            elif value.kind in _FILES:
                files[name] = value.data
        return Document(arrays, files, {TREE: json.dumps(_kinds(tree))})

    def find(self, document: Document, assume: Assumptions) -> Sequence[Found]:
        """Return the cells of flax in the tree, those of a stack together."""
        return parts_of_tree(document.shapes, assume)

    def layouts(self, archive: Archive) -> dict[str, Sequence[Stored]]:
        """Return how linen stores the weights of each part, unless a file of flax had them otherwise."""
        tree = _tree_of(archive)
        collection = f"{_PARAMS}/" if tree is None or _PARAMS in tree else ""
        known = remembered(archive, self.name)
        return {name: known.get(name) or _as_linen(part, collection) for name, part in archive.parts.items()}

    def write(self, path: Path, archive: Archive, accepted: Accepted) -> None:
        """Write a tree; see `Format.write`."""
        arrays = tensors_of(archive, self.layouts(archive), "a flax file", accepted)
        for name, array in arrays.items():
            if array.dtype.name not in DTYPES:
                raise UnsupportedError(
                    f"array {name!r} has dtype {array.dtype}, which files of flax have no name for: convert it to one "
                    f"of {', '.join(DTYPES)}"
                )
        write_tree(path, _grown(_tree_of(archive) or {}, arrays, archive.files))


# -- cells ------------------------------------------------------------------------------------------------------------


def _as_linen(part: Part, collection: str) -> tuple[Stored, ...]:
    """Return how linen stores a part's weights."""
    tensors: list[Stored] = []
    for cells in _layers(part.spec):
        place = cells[0].fields["prefix"].removesuffix("_")
        for cell, direction in zip(cells, (FORWARD, BACKWARD) if len(cells) == 2 else ("",), strict=True):
            stem = "".join(f"{name}/" for name in (place, direction, CELL) if name)
            prefix = cell.fields.get("params", cell.fields["prefix"])
            module = LINEN[{"LSTMCell": "lstm", "GRUCell": "gru", "RNNCell": "rnn"}[cell.kind]]
            first = f"{prefix}i2h{module.layers[0].gates[0]}_weight"
            hidden, width = part.weights[first].shape
            tensors += cell_tensors(module, collection + stem, prefix, width, hidden)
    return tuple(tensors)


def _layers(spec: CellSpec) -> Iterator[tuple[CellSpec, ...]]:
    """Yield the plain cells of each layer, forward and backward; what only acts in training is left out."""
    for layer in running_layers(spec):
        cells = layer.children if layer.kind == "BidirectionalCell" else (layer,)
        if any(child.kind in ("SequentialRNNCell", "BidirectionalCell", "FusedRNNCell") for child in cells):
            raise UnsupportedError(
                f"flax's Bidirectional runs one cell each way, and the BidirectionalCell of the cells "
                f"{_prefixes(layer)} runs several: {_INSTEAD}"
            )
        for cell in cells:
            _check_plain(cell)
        yield cells


def _check_plain(cell: CellSpec) -> None:
    if cell.kind == "GRUCell" and not cell.fields["reset_after"]:
        raise UnsupportedError(
            f"GRUCell {cell.fields['prefix']!r} resets the state before the recurrent product, and flax's GRUCell only "
            f"after it: {_INSTEAD}"
        )
    if cell.kind not in ("LSTMCell", "GRUCell", "RNNCell"):
        raise UnsupportedError(f"flax has nothing that computes what {cell.kind} {_prefixes(cell)} does: {_INSTEAD}")


def _prefixes(spec: CellSpec) -> str:
    return ", ".join(repr(cell.fields["prefix"]) for cell in spec.walk() if "prefix" in cell.fields)


# -- the tree ---------------------------------------------------------------------------------------------------------


def _leaves(node: Any, path: str | None, depth: int) -> Iterator[tuple[str, Value]]:
    """Yield every value below a map or list, with its name."""
    if depth > _MAX_DEPTH:
        raise WeightFormatError(f"the tree is nested deeper than {_MAX_DEPTH} maps")
    for key, each in node.items() if isinstance(node, dict) else enumerate(node):
        name = str(key) if path is None else f"{path}/{key}"
        if len(name) > _MAX_NAME:
            raise WeightFormatError(f"a name has {len(name)} characters, more than {_MAX_NAME}: {name[:40]!r}...")
        if isinstance(each, Value):
            yield name, each
        else:
            yield from _leaves(each, name, depth + 1)


def _kinds(node: Any) -> Any:
    """Return a tree as JSON: a value's kind, a map as a list of pairs, and a list in an object."""
    if isinstance(node, Value):
        return node.kind
    if isinstance(node, list):
        return {"list": [_kinds(each) for each in node]}
    return [[key, _kinds(each)] for key, each in node.items()]


def _tree_of(archive: Archive) -> dict[Key, Any] | None:
    """Return the tree that the note describes, with kinds for values, or None if there is no note."""
    if TREE not in archive.notes:
        return None
    try:
        tree = _tree(json.loads(archive.notes[TREE]), 0)
        if not isinstance(tree, dict):
            raise TypeError("expected a map")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WeightFormatError(f"note {TREE!r} does not describe a tree: {error!r}") from error
    return tree


def _tree(plain: Any, depth: int) -> Any:
    """Return a tree from JSON: the reverse of `_kinds`."""
    if depth > _MAX_DEPTH + 1 or (isinstance(plain, str) and plain not in KINDS):
        raise ValueError(f"nested deeper than {_MAX_DEPTH} maps, or a value that is none of {', '.join(KINDS)}")
    if isinstance(plain, str):
        return plain
    if isinstance(plain, dict):
        return [_tree(each, depth + 1) for each in plain["list"]]
    if not all(_is_key(key) for key, _ in plain):
        raise ValueError("a key that msgpack cannot hold")
    return {key: _tree(each, depth + 1) for key, each in plain}


def _is_key(key: object) -> bool:
    if isinstance(key, str):
        return len(key) <= _MAX_NAME and key.encode(errors="replace").decode() == key
    return type(key) is int and -(1 << 63) <= key < 1 << 64


def _grown(tree: dict[Key, Any], arrays: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[Key, Any]:
    """Return a tree of values: the one given less what is no longer there, and every array that it had no place for.

    Raises
    ------
    WeightFormatError
        If there is a file that no value of the tree is, or an array would have to be a map too.
    """
    left: dict[tuple[str, bool], Any] = {(name, False): array for name, array in arrays.items()}
    left.update({(name, True): data for name, data in files.items()})
    grown: dict[Key, Any] = _filled(tree, None, left) or {}
    for (name, is_file), data in left.items():
        if is_file:
            raise WeightFormatError(
                f"a flax file has no place for the file {name!r}: drop_files=True (--drop-files) leaves it out"
            )
        _plant(grown, name, Value("array", data))
    return grown


def _filled(node: Any, path: str | None, left: dict[tuple[str, bool], Any]) -> Any:
    """Return a node with its values, which are taken from what is left to be placed; None if none of them is there."""
    if node == "none":
        return Value("none", b"")
    if isinstance(node, str):
        data = left.pop((path or "", node in _FILES), None)
        return None if data is None else Value(node, data)
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    filled = {key: _filled(each, str(key) if path is None else f"{path}/{key}", left) for key, each in pairs}
    there = {key: each for key, each in filled.items() if each is not None}
    if node and not there:
        return None
    return there if isinstance(node, dict) else list(there.values())


def _plant(tree: dict[Key, Any], name: str, value: Value) -> None:
    """Put a value at the place that its name says."""
    *path, last = name.split("/")
    if len(path) > _MAX_DEPTH or len(name) > _MAX_NAME:
        raise WeightFormatError(
            f"array {name[:40]!r}... would be nested deeper than {_MAX_DEPTH} maps, or has a name of more than "
            f"{_MAX_NAME} characters: rename it"
        )
    for key in path:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise WeightFormatError(f"array {name!r} would stand below {key!r}, which is no map: rename one of them")
    if last in tree:
        raise WeightFormatError(f"array {name!r} would stand where there is a map: rename it")
    tree[last] = value

"""A nest of dicts, lists and tuples as arrays by name and an outline of all else, from which it can be made again.

Arrays are called by the keys that lead to them, such as ``optimizer.state.0.exp_avg``; those of the model's state dict
by its own keys alone, where it stands at the top under ``"state_dict"``, ``"model_state_dict"`` or ``"model"``. The
outline is JSON in which each array's place has its name::

    {"dict": [["epoch", 3], ["state_dict", {"OrderedDict": [["weight_ih_l0", {"tensor": "weight_ih_l0"}]]}]]}

It keeps numbers, texts, booleans and None, and the ``_metadata`` that PyTorch hangs on a state dict. Other objects are
refused by name.
"""

from __future__ import annotations

import dataclasses
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rnnx.archive import Array
from rnnx.errors import WeightFormatError
from rnnx.weights.safetensors import json_object

__all__ = ["Outlined", "fits", "outlined", "placed"]

#: Keys under which a training checkpoint has the model's state dict.
STATE_DICTS = ("state_dict", "model_state_dict", "model")

#: Deepest nest, and most objects in it: one that holds itself, or one list many times, would have no end.
_MAX_DEPTH, _MAX_OBJECTS = 64, 1 << 20

#: Integers are kept up to what 64 bits hold.
_MAX_INTEGER = 1 << 63

_SEQUENCES: Mapping[type, str] = {list: "list", tuple: "tuple"}
_MAPPINGS: Mapping[type, str] = {dict: "dict", OrderedDict: "OrderedDict"}
_PLAIN = (str, bool, int, float, type(None))

_METADATA = "_metadata"


@dataclasses.dataclass(frozen=True)
class Outlined:
    """A nest taken apart.

    Parameters
    ----------
    arrays : dict of str to array
        Its arrays by name.
    outline : str
        What is left of it, as JSON.
    bare : bool
        Whether that is nothing but places of arrays.
    """

    arrays: dict[str, Array]
    outline: str
    bare: bool


def outlined(content: dict[Any, Any], array_of: Callable[[str, Any], Array | None]) -> Outlined:
    """Take a nest apart, which need not be trusted.

    Parameters
    ----------
    content : dict
        The nest.
    array_of : callable
        Returns the array that a named object is, or None if it is none.

    Raises
    ------
    WeightFormatError
        If it holds an object of another kind, two arrays of one name, or has no end.
    """
    # An OrderedDict from a file may have attributes called as its methods are: those of dict are called throughout.
    walk = _Walk(array_of, next((key for key in STATE_DICTS if type(dict.get(content, key)) in _MAPPINGS), None))
    outline = walk.node(content, "", 0)
    return Outlined(walk.arrays, json.dumps(outline), walk.bare)


def placed(outline: str | bytes, arrays: Mapping[str, Any]) -> Any:
    """Make a nest again, from an outline that need not be trusted.

    Raises
    ------
    WeightFormatError
        If the outline is none, names an array that is not there, or has no place for one that is.
    """
    try:
        text = outline.decode() if isinstance(outline, bytes) else outline
    except UnicodeDecodeError as error:
        raise WeightFormatError(f"the checkpoint's outline is not UTF-8: {error}") from error
    left = dict(arrays)
    content = _made(json_object(text, "the checkpoint's outline"), left, 0)
    if left:
        raise WeightFormatError(f"the checkpoint's outline has no place for tensor {next(iter(left))!r}")
    return content


def fits(outline: str, names: Iterable[str]) -> bool:
    """Say whether an outline has a place for arrays of these names, and for no others."""
    try:
        placed(outline, dict.fromkeys(names))
    except WeightFormatError:
        return False
    return True


class _Walk:
    """What was found in a nest so far."""

    def __init__(self, array_of: Callable[[str, Any], Array | None], model: str | None) -> None:
        self._array_of, self._model = array_of, model
        self.arrays: dict[str, Array] = {}
        self.bare = True
        self._left = _MAX_OBJECTS

    def node(self, value: Any, path: str, depth: int) -> Any:
        """Return what the outline says of an object, and keep its arrays."""
        self._left -= 1
        if depth > _MAX_DEPTH or self._left < 0:
            raise WeightFormatError(
                f"{path[:80]!r} is nested deeper than {_MAX_DEPTH} levels, or the file has more than {_MAX_OBJECTS} "
                "objects"
            )
        kind = type(value)
        if kind in _SEQUENCES:
            return {_SEQUENCES[kind]: [self._child(each, path, key, depth) for key, each in enumerate(value)]}
        if kind in _MAPPINGS:
            return self._mapping(value, path, depth)
        return self._leaf(value, path)

    def _mapping(self, value: dict[Any, Any], path: str, depth: int) -> dict[str, Any]:
        pairs = [[self._plain(key, path), self._child(each, path, key, depth)] for key, each in dict.items(value)]
        node: dict[str, Any] = {_MAPPINGS[type(value)]: pairs}
        for key, each in vars(value).items() if type(value) is OrderedDict else ():
            if key != _METADATA:
                raise WeightFormatError(f"{path!r} has an attribute {key!r}, which is kept nowhere")
            bare = self.bare
            node[_METADATA] = self._child(each, path, key, depth)
            self.bare = bare
        return node

    def _child(self, value: Any, path: str, key: object, depth: int) -> Any:
        return self.node(value, f"{path}.{key}" if depth else str(key), depth + 1)

    def _leaf(self, value: Any, path: str) -> Any:
        name = path.removeprefix(f"{self._model}.") if self._model else path
        array = self._array_of(name, value)
        if array is None:
            self.bare = False
            return self._plain(value, path)
        if name in self.arrays:
            raise WeightFormatError(f"two tensors would be called {name!r}: save the state dict alone")
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise WeightFormatError(f"a tensor is called {name!r}, which is no text that UTF-8 can hold")
        self.arrays[name] = array
        return {"tensor": name}

    def _plain(self, value: Any, path: str) -> Any:
        whole = type(value) is not int or -_MAX_INTEGER <= value < _MAX_INTEGER
        if type(value) in _PLAIN and whole:
            return value
        what = f"{type(value).__module__}.{type(value).__qualname__}" if whole else "whole number of more than 64 bits"
        raise WeightFormatError(
            f"{path!r} holds a {what}, which is neither a tensor nor a number, text, list, tuple or dict: save the "
            "state dict alone, with torch.save(model.state_dict(), path)"
        )


def _made(node: Any, left: dict[str, Any], depth: int) -> Any:
    """Return what a node of an outline stands for, and take its arrays out of those that are left."""
    if type(node) in _PLAIN:
        return node
    if depth > _MAX_DEPTH or not isinstance(node, dict) or not node:
        raise _no_outline(node)
    (kind, held), *more = node.items()
    if kind == "tensor" and isinstance(held, str) and held in left:
        return left.pop(held)
    if kind in _SEQUENCES.values() and isinstance(held, list):
        made = [_made(each, left, depth + 1) for each in held]
        return made if kind == "list" else tuple(made)
    if kind not in _MAPPINGS.values() or not isinstance(held, list) or not all(map(_is_pair, held)):
        raise _no_outline(node)
    pairs = [(key, _made(each, left, depth + 1)) for key, each in held]
    return dict(pairs) if kind == "dict" else _ordered(pairs, {key: _made(each, left, depth + 1) for key, each in more})


def _ordered(pairs: Sequence[tuple[Any, Any]], attributes: Mapping[str, Any]) -> OrderedDict[Any, Any]:
    ordered = OrderedDict(pairs)
    if not attributes.keys() <= {_METADATA}:
        raise _no_outline(dict(attributes))
    vars(ordered).update(attributes)
    return ordered


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and type(pair[0]) in _PLAIN


def _no_outline(node: Any) -> WeightFormatError:
    return WeightFormatError(f"the checkpoint's outline makes no sense at {repr(node)[:80]}")

"""What the values of an ONNX program are that it does not compute from its inputs.

A weight is an initializer or the output of a ``Constant``; behind ``Identity`` it keeps that name. PyTorch's newer
exporter stores weights as PyTorch has them, and cuts and joins them in the graph: operations that only move numbers
about are carried out here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rnnx.archive import Array
from rnnx.formats.onnx.files import TensorFiles
from rnnx.formats.onnx.program import Node, Program

__all__ = ["Values"]

#: Longest chain of operations that is followed backwards.
_MAX_CHAIN = 32

#: How many times the size of all initializers the constants may have that are joined from them.
_GROWTH = 4

#: Largest constant that is looked through for zeros, in elements.
_SMALL = 1 << 20

#: Operations whose outputs are zeros where their first input is.
_ZERO_AGAIN = {"Cast", "Expand", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}

#: What NumPy raises where an operation's arguments make no sense.
_NONSENSE = (ValueError, IndexError, TypeError, OverflowError, MemoryError)


class Values:
    """The values of a program: where they come from and go to, and those that are constant.

    Parameters
    ----------
    program : Program
        The program.
    files : TensorFiles
        What its tensors are read by.
    """

    def __init__(self, program: Program, files: TensorFiles) -> None:
        self.program = program
        self.producers = {name: node for node in program.nodes for name in node.outputs if name}
        self.readers: dict[str, list[Node]] = defaultdict(list)
        for node in program.nodes:
            for name in dict.fromkeys(node.inputs):
                self.readers[name].append(node)
        self.initializers = {name: files.array(tensor, name) for name, tensor in program.tensors.items()}
        self._files = files
        self._found: dict[str, tuple[str, Array] | None] = {
            name: (name, array) for name, array in self.initializers.items()
        }
        self._zeros: dict[str, bool] = {}
        self._allowance = _GROWTH * sum(array.nbytes for array in self.initializers.values())

    def constant(self, name: str, depth: int = 0) -> tuple[str, Array] | None:
        """Return a constant value with the name of what holds it, or None if it is computed from inputs."""
        if name not in self._found and depth < _MAX_CHAIN and name in self.producers:
            self._found[name] = self._made(name, self.producers[name], depth)
        return self._found.get(name)

    def numbers(self, name: str) -> list[int] | None:
        """Return the whole numbers that a short constant holds, or None."""
        held = self.constant(name) if name else None
        if held is None or held[1].dtype.kind not in "iu" or held[1].size > _MAX_CHAIN:
            return None
        return [int(number) for number in held[1].reshape(-1)]

    def joined_away(self, names: Iterable[str]) -> set[str]:
        """Return the initializers that are read for nothing but to join these constants."""
        nodes: set[Node] = set()
        waiting = [name for name in names if name not in self.initializers]
        while waiting:
            node = self.producers.get(waiting.pop())
            if node is not None and node not in nodes:
                nodes.add(node)
                waiting += node.inputs
        read = {name for node in nodes for name in node.inputs if name in self.initializers}
        return {name for name in read if nodes.issuperset(self.readers[name]) and not self.program.results[name]}

    def zero(self, name: str, depth: int = 0) -> bool:
        """Say whether a value is known to be all zeros, whatever its shape."""
        if name not in self._zeros:
            self._zeros[name] = depth < _MAX_CHAIN and self._is_zero(name, depth)
        return self._zeros[name]

    def origin(self, name: str) -> str:
        """Say in words where a value comes from."""
        if name in self.program.given:
            return f"the input {name!r}"
        node = self.producers.get(name)
        return f"{name!r}, computed by {node.op} {node.name!r}" if node else repr(name)

    def _is_zero(self, name: str, depth: int) -> bool:
        held, node = self.constant(name), self.producers.get(name)
        if held is not None:
            return held[1].size <= _SMALL and not np.any(held[1] != 0)
        if node is None or node.domain:
            return False
        if node.op == "ConstantOfShape":
            value = node.attributes.get("value")
            return value is None or not np.any(self._files.array(value.t, name) != 0)
        if node.op == "Concat":
            return all(self.zero(each, depth + 1) for each in node.inputs)
        return node.op in _ZERO_AGAIN and self.zero(node.input(0), depth + 1)

    # -- constants ----------------------------------------------------------------------------------------------------

    def _made(self, name: str, node: Node, depth: int) -> tuple[str, Array] | None:
        if node.domain:
            return None
        if node.op == "Constant":
            array = self._literal(node, name)
            return None if array is None else (name, array)
        if node.op == "Identity":
            return self.constant(node.input(0), depth + 1)
        move = _MOVES.get(node.op)
        if move is None or not node.inputs:
            return None
        inputs = [self.constant(each, depth + 1) if each else None for each in node.inputs]
        if inputs[0] is None or any(each and held is None for each, held in zip(node.inputs, inputs, strict=True)):
            return None
        return self._moved(name, node, move, [None if held is None else held[1] for held in inputs])

    def _moved(self, name: str, node: Node, move: _Move, arrays: Sequence[Array | None]) -> tuple[str, Array] | None:
        size = sum(array.nbytes for array in arrays if array is not None)
        if node.op in _COPIES:
            self._allowance -= size
        if self._allowance < 0:
            return None
        try:
            array = move(arrays, {name: _plain(each) for name, each in node.attributes.items()})
        except _NONSENSE:
            return None
        array.flags.writeable = False
        return name, array

    def _literal(self, node: Node, name: str) -> Array | None:
        """Return the value of a ``Constant``, if it is of numbers."""
        for kind, attribute in node.attributes.items():
            if kind == "value":
                return self._files.array(attribute.t, name)
            if kind in ("value_int", "value_ints"):
                return np.array(_plain(attribute), np.int64)
            if kind in ("value_float", "value_floats"):
                return np.array(_plain(attribute), np.float32)
        return None


_Move = Callable[[Sequence["Array | None"], Mapping[str, Any]], Array]


def _plain(attribute: Any) -> Any:
    """Return the number or numbers that an attribute holds, whichever its type says."""
    fields = {1: "f", 2: "i", 6: "floats", 7: "ints"}
    held = getattr(attribute, fields.get(attribute.type, "ints"))
    return held if isinstance(held, int | float) else list(held)


def _listed(arrays: Sequence[Array | None], index: int, attributes: Mapping[str, Any], name: str) -> list[int] | None:
    """Return whole numbers that are an input in newer operators and an attribute in older ones."""
    array = arrays[index] if index < len(arrays) else None
    return attributes.get(name) if array is None else [int(number) for number in array.reshape(-1)]


def _first(arrays: Sequence[Array | None]) -> Array:
    if arrays[0] is None:
        raise TypeError("the first input is left out")
    return arrays[0]


def _concat(arrays: Sequence[Array | None], attributes: Mapping[str, Any]) -> Array:
    held = [array for array in arrays if array is not None]
    if len({array.dtype for array in held}) != 1 or "axis" not in attributes:
        raise TypeError("arrays of several dtypes, or no axis")
    joined: Array = np.concatenate(held, attributes["axis"])
    return joined


def _reshape(arrays: Sequence[Array | None], attributes: Mapping[str, Any]) -> Array:
    array, target = _first(arrays), _listed(arrays, 1, attributes, "shape")
    if target is None or (attributes.get("allowzero") and 0 in target):
        raise TypeError("no shape, or one with an empty axis")
    reshaped: Array = array.reshape([size or array.shape[axis] for axis, size in enumerate(target)])
    return reshaped


def _slice(arrays: Sequence[Array | None], attributes: Mapping[str, Any]) -> Array:
    array = _first(arrays)
    told = [_listed(arrays, index, attributes, name) for index, name in enumerate(("starts", "ends", "axes"), 1)]
    starts, ends, axes = told[0] or [], told[1] or [], told[2] or range(len(told[0] or []))
    steps = _listed(arrays, 4, attributes, "steps") or [1] * len(starts)
    if any(step < 1 for step in steps):
        raise ValueError("a slice that runs backwards")
    index = [slice(None)] * array.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, end, step)
    cut: Array = array[tuple(index)]
    return cut


def _squeeze(arrays: Sequence[Array | None], attributes: Mapping[str, Any]) -> Array:
    axes = _listed(arrays, 1, attributes, "axes")
    squeezed: Array = np.squeeze(_first(arrays), None if axes is None else tuple(axes))
    return squeezed


def _unsqueeze(arrays: Sequence[Array | None], attributes: Mapping[str, Any]) -> Array:
    return np.expand_dims(_first(arrays), tuple(_listed(arrays, 1, attributes, "axes") or ()))


def _transpose(arrays: Sequence[Array | None], attributes: Mapping[str, Any]) -> Array:
    return np.transpose(_first(arrays), attributes.get("perm"))


_MOVES: Mapping[str, _Move] = {
    "Concat": _concat,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}

#: Those that may copy their input.
_COPIES = ("Concat", "Reshape")

"""The graph in an MXNet symbol file (``prefix-symbol.json``), read without trusting it.

The file is JSON: ``nodes``, each with an ``op`` (``"null"`` for a variable), a ``name``, ``inputs`` and attributes, in
an order in which they can run. Attributes are strings and stand under ``attrs`` (MXNet 1.x), ``attr`` (0.9 to 0.12) or
``param`` (before 0.9, with the user's own under ``attr``). An input is ``[node, output]``, or that and a version.

Sources: ``nnvm/src/pass/saveload_json.cc`` (``JSONNode::Load`` takes all three spellings); the aliases of operators in
``src/operator/tensor/elemwise_binary_op_basic.cc``, where 0.9 had ``_plus`` and ``_mul`` as names of ``broadcast_add``
and ``broadcast_mul``, too.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from rnnx.errors import WeightFormatError

__all__ = ["ADD", "MULTIPLY", "SUBTRACT", "Entry", "Graph", "Node", "both_ways"]

#: One output of a node: the node's position and the output's.
Entry = tuple[int, int]

#: Largest file that is read: a thousand steps of ten layers fit.
MAX_BYTES = 1 << 26

#: Longest number that is read: 2**64 has 20 digits.
MAX_DIGITS = 20

#: Longest name of a node that is read.
MAX_NAME = 1024

ADD = "elemwise_add"
MULTIPLY = "elemwise_mul"
SUBTRACT = "elemwise_sub"

#: Names of operators that mean the same here.
_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("_plus", "_Plus", "_add", "broadcast_add", "broadcast_plus"), ADD),
        **dict.fromkeys(("_mul", "_Mul", "broadcast_mul"), MULTIPLY),
        **dict.fromkeys(("_minus", "_Minus", "_sub", "broadcast_sub", "broadcast_minus"), SUBTRACT),
        "_RMinusScalar": "_rminus_scalar",
        "concat": "Concat",
        "flip": "reverse",
        "split": "SliceChannel",
        "swapaxes": "SwapAxis",
    }
)

#: MXNet's activations (``src/operator/nn/activation-inl.h``); most are operators of their own, too, which Gluon uses.
_ACTIVATIONS = frozenset({"relu", "sigmoid", "tanh", "softrelu", "softsign"})

_FLAGS = MappingProxyType({"True": True, "true": True, "1": True, "False": False, "false": False, "0": False})


@dataclasses.dataclass(frozen=True)
class Node:
    """An operator or, with ``op == "null"``, a variable."""

    op: str
    name: str
    attrs: Mapping[str, str]
    inputs: tuple[Entry, ...]

    def integer(self, key: str, default: int | None = None) -> int:
        """Return an attribute that is a whole number; `WeightFormatError` if it is something else or missing."""
        text = self.attrs.get(key, str(default))
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS):
            raise self._wrong(key, "a whole number")
        return int(text)

    def rate(self, key: str, default: float) -> float:
        """Return an attribute that is a probability."""
        try:
            found = float(self.attrs.get(key, default))
        except ValueError as error:
            raise self._wrong(key, "a number from 0 to 1") from error
        if not 0 <= found <= 1:
            raise self._wrong(key, "a number from 0 to 1")
        return found

    def flag(self, key: str) -> bool:
        """Return an attribute that is true or false, false where it is missing."""
        if self.attrs.get(key, "False") not in _FLAGS:
            raise self._wrong(key, "True or False")
        return _FLAGS[self.attrs.get(key, "False")]

    def initializer(self, kind: str) -> Mapping[str, Any]:
        """Return the arguments of a variable's own initializer, if it has one of that kind: ``["lstmbias", {...}]``."""
        try:
            found = json.loads(self.attrs.get("__init__", "null"), parse_int=_whole)
        except (ValueError, RecursionError):
            return {}  # a name or a script of the user's own
        fits = isinstance(found, list) and len(found) == 2 and found[0] == kind and isinstance(found[1], dict)
        return found[1] if fits else {}

    def forget_bias(self, kind: str) -> float:
        """Return the forget bias that a variable's initializer gives, 1 where it gives none."""
        found = self.initializer(kind).get("forget_bias", 1.0)
        if type(found) not in (int, float) or not math.isfinite(found):
            raise self._wrong("__init__", "a forget_bias that is a finite number")
        return float(found)

    def _wrong(self, key: str, wanted: str) -> WeightFormatError:
        found = repr(self.attrs[key])[:60] if key in self.attrs else "nothing"
        return WeightFormatError(f"symbol file: {self.op} {self.name!r}: expected {wanted} for {key!r}, found {found}")


class Graph:
    """The nodes of a symbol file, every input of a node standing before it.

    Parameters
    ----------
    symbol : bytes
        The file's content.

    Raises
    ------
    WeightFormatError
        If it is not a symbol file, naming the node that is wrong.
    """

    def __init__(self, symbol: bytes) -> None:
        self.nodes = tuple(_node(position, raw) for position, raw in enumerate(_raw_nodes(symbol)))

    def node(self, entry: Entry) -> Node:
        """Return the node that an entry is an output of."""
        return self.nodes[entry[0]]

    def operands(self, entry: Entry | None, op: str) -> tuple[Entry, ...]:
        """Return the two inputs of an operator of that name, or nothing if the entry is something else."""
        if entry is None or self.node(entry).op != op or len(self.node(entry).inputs) != 2:
            return ()
        return self.node(entry).inputs

    def activation(self, entry: Entry) -> str | None:
        """Return the name of the activation that an entry is, or None."""
        node = self.node(entry)
        kind = node.attrs.get("act_type") if node.op == "Activation" else node.op
        return kind if kind in _ACTIVATIONS and len(node.inputs) == 1 else None

    def before(self, entry: Entry, activation: str) -> Entry | None:
        """Return what that activation is applied to, or None if the entry is something else."""
        return self.node(entry).inputs[0] if self.activation(entry) == activation else None


def both_ways(pair: tuple[Entry, ...]) -> Iterator[tuple[Entry, Entry]]:
    """Yield the two operands of a commutative operator in both orders; nothing if there are not two."""
    if len(pair) == 2:
        yield pair[0], pair[1]
        yield pair[1], pair[0]


def _raw_nodes(symbol: bytes) -> list[object]:
    if len(symbol) > MAX_BYTES:
        raise WeightFormatError(f"symbol file: {len(symbol)} bytes are more than the {MAX_BYTES} that are read")
    try:
        content = json.loads(symbol, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise WeightFormatError(f"symbol file: not JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("nodes"), list):
        raise WeightFormatError("symbol file: expected an object with a list 'nodes', as MXNet writes it")
    nodes: list[object] = content["nodes"]
    return nodes


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _node(position: int, raw: object) -> Node:
    where = f"symbol file: node {position}"
    if not isinstance(raw, dict) or not isinstance(raw.get("op"), str) or not isinstance(raw.get("name"), str):
        raise WeightFormatError(f"{where}: expected an object with strings 'op' and 'name'")
    where += f" ({raw['name'][:60]!r})"
    if len(raw["name"]) > MAX_NAME:
        raise WeightFormatError(f"{where}: its name is longer than {MAX_NAME} characters")
    inputs = raw.get("inputs", [])
    if not isinstance(inputs, list):
        raise WeightFormatError(f"{where}: expected a list of inputs")
    entries = tuple(_entry(where, position, entry) for entry in inputs)
    return Node(_ALIASES.get(raw["op"], raw["op"]), raw["name"], _attributes(where, raw), entries)


def _entry(where: str, position: int, raw: object) -> Entry:
    if not isinstance(raw, list) or len(raw) not in (2, 3) or any(type(number) is not int for number in raw):
        raise WeightFormatError(f"{where}: expected each of its inputs to be a list of two or three whole numbers")
    if not 0 <= raw[0] < position or raw[1] < 0:
        raise WeightFormatError(
            f"{where}: its input is output {raw[1]} of node {raw[0]}; only nodes 0 to {position - 1} stand before it"
        )
    return raw[0], raw[1]


def _attributes(where: str, raw: Mapping[str, object]) -> Mapping[str, str]:
    merged: dict[str, str] = {}
    for spelling in ("param", "attr", "attrs"):
        found = raw.get(spelling, {})
        if not isinstance(found, dict) or any(type(value) is not str for value in found.values()):
            raise WeightFormatError(f"{where}: expected {spelling!r} to be an object of strings")
        merged |= found
    return MappingProxyType(merged)

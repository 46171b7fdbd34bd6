"""The frozen, serialisable description of a cell tree.

A `CellSpec` holds what the constructors of a tree were given and nothing else: no weights and no code. It is what
the portable file stores, what a foreign format is read into, and what two trees are compared by.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from rnnx.errors import UnsupportedError, WeightFormatError, nearest

__all__ = ["GATES", "KINDS", "MODES", "CellSpec"]

#: Gate suffixes, in the order in which the gates stand in a packed weight.
GATES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "rnn_relu": ("",),
        "rnn_tanh": ("",),
        "lstm": ("_i", "_f", "_c", "_o"),
        "gru": ("_r", "_z", "_o"),
    }
)

#: The modes of a fused cell.
MODES: tuple[str, ...] = tuple(GATES)

#: Deepest tree that is read from a file; deeper ones are taken for an attack on the recursion limit.
MAX_DEPTH = 64


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What a kind of cell is described by: the type of each field, and how many children it has."""

    fields: Mapping[str, type]
    children: range = range(1)


_ANY_NUMBER = range(1 << 16)

#: Fields that a spec has only where they say something.
_OPTIONAL = {"params"}

#: Below this, every whole number is a float.
_EXACT = 1 << 53

_KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "RNNCell": _Kind({"num_hidden": int, "activation": str, "prefix": str, "params": str}),
        "LSTMCell": _Kind({"num_hidden": int, "forget_bias": float, "prefix": str, "params": str}),
        "LSTMPCell": _Kind(
            {"num_hidden": int, "num_projection": int, "forget_bias": float, "prefix": str, "params": str}
        ),
        "GRUCell": _Kind({"num_hidden": int, "reset_after": bool, "prefix": str, "params": str}),
        "FusedRNNCell": _Kind(
            {
                "num_hidden": int,
                "num_layers": int,
                "mode": str,
                "bidirectional": bool,
                "dropout": float,
                "get_next_state": bool,
                "forget_bias": float,
                "prefix": str,
                "params": str,
            }
        ),
        "SequentialRNNCell": _Kind({}, _ANY_NUMBER),
        "BidirectionalCell": _Kind({"output_prefix": str}, range(2, 3)),
        "DropoutCell": _Kind({"dropout": float, "prefix": str}),
        "ZoneoutCell": _Kind({"zoneout_outputs": float, "zoneout_states": float}, range(1, 2)),
        "ResidualCell": _Kind({}, range(1, 2)),
    }
)

#: The kinds of cell that can be built from a description.
KINDS = frozenset(_KINDS)


@dataclasses.dataclass(frozen=True)
class CellSpec:
    """One cell of a tree.

    Parameters
    ----------
    kind : str
        Name of the cell's class, such as ``"LSTMCell"``. A class that is not rnnx's own is named
        ``"module:Class"``: such a spec can be shown and compared, but never built from a file.
    fields : mapping of str to int, float, bool or str
        The constructor's arguments by name. ``params`` is the prefix of the weights where it is not the cell's own.
    children : tuple of CellSpec
        The cells it is made of, in order.
    """

    kind: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    children: tuple[CellSpec, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", MappingProxyType(dict(self.fields)))
        object.__setattr__(self, "children", tuple(self.children))

    def __hash__(self) -> int:
        return hash((self.kind, tuple(sorted(self.fields.items())), self.children))

    def walk(self) -> Iterator[CellSpec]:
        """Yield this spec and all below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain dicts and lists, ready for JSON."""
        node: dict[str, Any] = {"kind": self.kind, **self.fields}
        if self.children:
            node["children"] = [child.to_dict() for child in self.children]
        return node

    def to_json(self) -> str:
        """Return the spec as JSON, with sorted keys: equal specs give equal text."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> CellSpec:
        """Read a spec back from JSON that need not be trusted.

        Raises
        ------
        WeightFormatError
            If the text is not JSON, or a field is unknown, missing or of another type than the kind's.
        UnsupportedError
            If it names a class that is not rnnx's own: code is never imported because a file says so.
        """
        try:
            node = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise WeightFormatError(f"the spec of the cell tree is not JSON: {error}") from error
        return cls.from_dict(node)

    @classmethod
    def from_dict(cls, node: object, depth: int = 0) -> CellSpec:
        """Read a spec back from plain dicts and lists, checking every field; errors as in `from_json`."""
        if depth > MAX_DEPTH:
            raise WeightFormatError(f"the spec of the cell tree is nested deeper than {MAX_DEPTH} cells")
        if not isinstance(node, dict) or not isinstance(node.get("kind"), str):
            raise WeightFormatError(f"a cell's spec is an object with a 'kind', found {_shown(node)}")
        name, kind = node["kind"], _known_kind(node["kind"])
        fields = {key: value for key, value in node.items() if key not in ("kind", "children")}
        children = node.get("children", [])
        if not isinstance(children, list) or len(children) not in kind.children:
            raise WeightFormatError(f"{name}: 'children' does not fit the kind, found {_shown(children)}")
        return cls(name, _checked(name, kind, fields), tuple(cls.from_dict(child, depth + 1) for child in children))


def _known_kind(name: str) -> _Kind:
    if name in _KINDS:
        return _KINDS[name]
    if ":" in name:
        raise UnsupportedError(
            f"the tree holds {name!r}, a cell class of the user's own, and a file never causes code to be imported: "
            "build the tree yourself and pass it as cell="
        )
    raise WeightFormatError(f"no kind of cell is called {name!r}{nearest(name, _KINDS)}")


def _checked(name: str, kind: _Kind, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with whole numbers widened to float where the kind says so; refuse all else."""
    checked: dict[str, Any] = {}
    for key, value in fields.items():
        wanted = kind.fields.get(key)
        if wanted is None:
            raise WeightFormatError(f"{name} has no field {key!r}{nearest(key, kind.fields)}")
        if wanted is float and type(value) is int and abs(value) < _EXACT:
            value = float(value)
        if type(value) is not wanted:
            raise WeightFormatError(f"{name}: {key!r} should be {wanted.__name__}, found {_shown(value)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise WeightFormatError(f"{name}: {key!r} should be finite, found {value}")
        checked[key] = value
    missing = kind.fields.keys() - checked.keys() - _OPTIONAL
    if missing:
        raise WeightFormatError(f"{name}: {', '.join(map(repr, sorted(missing)))} missing")
    return checked


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

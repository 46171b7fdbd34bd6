"""LSTM, GRU and RNN nodes of ONNX read as cells, or refused for what rnnx has no equation of.

Of what a node may have, this is refused, by name: peepholes P, ``clip``, ``input_forget``, activations other than an
LSTM's and GRU's own and than Tanh, Relu, Sigmoid, Softplus and Softsign of an RNN, parameters of activations, and
weights that the graph computes. ``sequence_lens``, initial states and ``layout`` are no cell's: they are told.

Source: ``docs/Operators.md`` and ``docs/Changelog.md`` of ONNX, operators LSTM, GRU and RNN, versions 1 to 22.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rnnx.building import plain_cell
from rnnx.errors import UnsupportedError, WeightFormatError
from rnnx.formats.onnx.layout import node_tensors
from rnnx.formats.onnx.program import Node, Program
from rnnx.formats.onnx.values import Values
from rnnx.found import built
from rnnx.spec import CellSpec
from rnnx.weights.stored import Shape, Stored

__all__ = [
    "BACKWARD",
    "BOTH",
    "FORWARD",
    "Recurrent",
    "evidence_of",
    "label",
    "recurrent",
    "recurrent_nodes",
    "weight_inputs",
]

FORWARD, BACKWARD, BOTH = "forward", "reverse", "bidirectional"

#: How many gates a node has, and its activations in one direction.
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}

#: The activations of a plain recurrent cell, as rnnx calls them.
_ACTIVATIONS = {"tanh": "tanh", "relu": "relu", "sigmoid": "sigmoid", "softplus": "softrelu", "softsign": "softsign"}

_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")

#: The type of each attribute (``AttributeProto.AttributeType``), and its field.
_FLOAT, _INT, _STRING, _FLOATS, _STRINGS = (1, "f"), (2, "i"), (3, "s"), (6, "floats"), (8, "strings")
_ATTRIBUTES = {
    "activation_alpha": _FLOATS,
    "activation_beta": _FLOATS,
    "activations": _STRINGS,
    "clip": _FLOAT,
    "direction": _STRING,
    "hidden_size": _INT,
    "input_forget": _INT,
    "layout": _INT,
    "linear_before_reset": _INT,
    "output_sequence": _INT,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Recurrent:
    """A node that rnnx has cells for.

    Parameters
    ----------
    node : Node
        The node.
    direction : str
        ``"forward"``, ``"reverse"`` or ``"bidirectional"``.
    layout : int
        1 where inputs and outputs stand batch first, 0 where time first.
    activations : tuple of str
        Of each direction, as rnnx calls them; they matter in RNN nodes only.
    reset_after : bool
        Of a GRU, whether the reset gate acts after the recurrent product.
    tensors : tuple of str or None
        What W, R and B are called; None for a B that is left out.
    input_size, num_hidden : int
        The sizes I and H.
    """

    node: Node
    direction: str
    layout: int
    activations: tuple[str, ...]
    reset_after: bool
    tensors: tuple[str, str, str | None]
    input_size: int
    num_hidden: int

    @property
    def directions(self) -> int:
        """The number of directions."""
        return len(self.activations)

    def cells(self, prefixes: Sequence[str]) -> list[CellSpec]:
        """Return the cell of each direction."""
        return [
            plain_cell(
                self.node.op.lower(), self.num_hidden, prefix, reset_after=self.reset_after, activation=activation
            )
            for prefix, activation in zip(prefixes, self.activations, strict=True)
        ]

    def stored(self, cells: Sequence[CellSpec]) -> tuple[Stored, ...]:
        """Return how the node's tensors are made of the weights of these cells."""
        shapes: dict[str, Shape] = {}
        for cell in cells:
            shapes.update(built(cell).gate_shapes(self.input_size))
        return node_tensors(cells, shapes, *self.tensors)


def recurrent_nodes(program: Program) -> Iterator[Node]:
    """Yield the nodes that are recurrent, whether rnnx can read them or not."""
    for node in program.nodes:
        if node.op in _GATES if not node.domain else node.op.endswith(("LSTM", "GRU", "RNN")):
            yield node


def weight_inputs(node: Node) -> Iterator[str]:
    """Yield the values that are weights of a node, or its initial states."""
    yield from (name for name in (*node.inputs[1:4], *node.inputs[5:7]) if name)


def label(node: Node) -> str:
    """Return what errors and evidence call a node."""
    return f"{node.op} node {node.name!r}" if node.name else f"the {node.op} node that makes {_first_output(node)!r}"


def recurrent(node: Node, values: Values) -> Recurrent:
    """Return a node with what its cells are described by.

    Raises
    ------
    UnsupportedError
        If rnnx has no cell for it; the message says why.
    WeightFormatError
        If it contradicts itself.
    """
    if node.domain:
        raise UnsupportedError(f"{label(node)} is an operator of {node.domain!r}, which rnnx does not know")
    told = _attributes(node)
    _refuse(node, told, values)
    direction, layout = _direction(node, told), int(told.get("layout", 0))
    activations = _activations(node, told, 2 if direction == BOTH else 1)
    tensors = _tensors(node, values)
    input_size, num_hidden = _sizes(node, told, tensors, values, len(activations))
    reset_after = bool(told.get("linear_before_reset", 0))
    return Recurrent(node, direction, layout, activations, reset_after, tensors, input_size, num_hidden)


def evidence_of(found: Recurrent, values: Values) -> Iterator[str]:
    """Yield in sentences what was seen of a node, and what its inputs ask of those who run its cell."""
    node, tensors = found.node, zip("WRB", found.tensors, strict=True)
    seen = ", ".join(f"{letter} {name!r} {_shape(name, values)}" for letter, name in tensors if name is not None)
    biases = "" if found.tensors[2] else ", no B (all biases are zero)"
    yield f"{label(node)}, {found.direction}: {seen}{biases}: {found.num_hidden} hidden, reading {found.input_size}"
    if node.op == "GRU":
        when = "after" if found.reset_after else "before"
        yield f"linear_before_reset={int(found.reset_after)}: the reset gate acts {when} the recurrent product"
    if node.op == "RNN":
        yield f"its activation is {' and '.join(dict.fromkeys(found.activations))}"
    if found.layout:
        yield "layout=1: its inputs and outputs stand batch first, and its weights as ever"
    if node.input(4):
        yield f"sequence_lens is {values.origin(node.input(4))}: pass it as valid_length="
    for index in (5, 6):
        if node.input(index) and not values.zero(node.input(index)):
            held = values.constant(node.input(index))
            where = f"the array {held[0]!r} {held[1].shape}" if held else values.origin(node.input(index))
            yield f"{_INPUTS[index]} is {where}: pass it as begin_state="


# -- attributes -------------------------------------------------------------------------------------------------------


def _attributes(node: Node) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, attribute in node.attributes.items():
        if name not in _ATTRIBUTES:
            raise UnsupportedError(f"{label(node)} has an attribute {name!r}, which rnnx does not know")
        kind, field = _ATTRIBUTES[name]
        if attribute.type != kind:
            raise WeightFormatError(
                f"{label(node)}: its attribute {name!r} is of type {attribute.type}, expected {kind}"
            )
        told[name] = getattr(attribute, field)
    return told


def _refuse(node: Node, told: Mapping[str, Any], values: Values) -> None:
    """Refuse what changes a cell's equation into one that rnnx does not have."""
    if "clip" in told:
        raise UnsupportedError(f"{label(node)} bounds its gates (clip={told['clip']:g}); rnnx's cells do not")
    if told.get("input_forget", 0):
        raise UnsupportedError(f"{label(node)} couples its input and forget gates (input_forget); rnnx's LSTM does not")
    if node.input(7) and not values.zero(node.input(7)):
        raise UnsupportedError(
            f"{label(node)} has peepholes (P is {values.origin(node.input(7))}); rnnx's LSTM has none"
        )
    for name in ("activation_alpha", "activation_beta"):
        if any(told.get(name, ())):
            raise UnsupportedError(f"{label(node)} gives its activations parameters ({name}); rnnx's take none")
    if told.get("layout", 0) not in (0, 1):
        raise WeightFormatError(f"{label(node)} has layout {told['layout']}, expected 0 or 1")


def _direction(node: Node, told: Mapping[str, Any]) -> str:
    direction = _text(told.get("direction", FORWARD.encode()))
    if direction not in (FORWARD, BACKWARD, BOTH):
        raise WeightFormatError(f"{label(node)} has direction {direction!r}, expected one of {FORWARD, BACKWARD, BOTH}")
    return direction


def _activations(node: Node, told: Mapping[str, Any], directions: int) -> tuple[str, ...]:
    """Return the activation of each direction, as rnnx calls it; an LSTM or GRU has ONNX's defaults or none at all."""
    given = [_text(name) for name in told.get("activations", ())] or list(_DEFAULTS[node.op]) * directions
    expected = len(_DEFAULTS[node.op]) * directions
    if len(given) != expected:
        raise WeightFormatError(f"{label(node)} has {len(given)} activations, expected {expected}")
    if node.op != "RNN":
        for found, own in zip(given, _DEFAULTS[node.op] * directions, strict=True):
            if found.lower() != own.lower():
                raise UnsupportedError(f"{label(node)} has activation {found!r} where rnnx's {node.op} has {own}")
        return ("tanh",) * directions
    strange = [name for name in given if name.lower() not in _ACTIVATIONS]
    if strange:
        known = "Tanh, Relu, Sigmoid, Softplus and Softsign"
        raise UnsupportedError(f"{label(node)} has activation {strange[0]!r}; rnnx has {known}")
    return tuple(_ACTIVATIONS[name.lower()] for name in given)


# -- tensors ----------------------------------------------------------------------------------------------------------


def _tensors(node: Node, values: Values) -> tuple[str, str, str | None]:
    names = []
    for index in (1, 2, 3):
        held = values.constant(node.input(index)) if node.input(index) else None
        if held is None and (index < 3 or node.input(index)):
            where = values.origin(node.input(index)) if node.input(index) else "left out"
            raise UnsupportedError(
                f"{label(node)}: its {_INPUTS[index]} is {where}; only constants are read as weights"
            )
        names.append(None if held is None else held[0])
    w, r, b = names
    assert w is not None
    assert r is not None
    return w, r, b


def _sizes(
    node: Node, told: Mapping[str, Any], tensors: Sequence[str | None], values: Values, directions: int
) -> tuple[int, int]:
    """Return I and H, if all tensors have shapes that fit them."""
    shapes = [_shape(name, values) for name in tensors]
    w, r, _ = shapes
    gates = _GATES[node.op]
    width, hidden = (w or (0,))[-1], (r or (0,))[-1]
    expected = [
        (directions, gates * hidden, width),
        (directions, gates * hidden, hidden),
        (directions, 2 * gates * hidden),
    ]
    for letter, name, found, wanted in zip("WRB", tensors, shapes, expected, strict=True):
        if found is not None and (found != wanted or 0 in wanted):
            raise WeightFormatError(
                f"{label(node)}: {letter} {name!r} has shape {found}, expected {wanted} of {directions} direction(s), "
                f"{gates} gate(s) and {hidden} units as R tells"
            )
    if told.get("hidden_size", hidden) != hidden:
        raise WeightFormatError(f"{label(node)} has hidden_size {told['hidden_size']}, and its R {r} tells {hidden}")
    return width, hidden


def _shape(name: str | None, values: Values) -> Shape | None:
    held = None if name is None else values.constant(name)
    return None if held is None else held[1].shape


def _first_output(node: Node) -> str:
    return next((name for name in node.outputs if name), "")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")

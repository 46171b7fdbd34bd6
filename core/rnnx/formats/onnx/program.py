"""An ONNX model as one list of nodes: functions put in where they are called, bodies of loops and branches beside.

Every value has a name of its own there. At the top it is the graph's own name; within a function or a body, the names
of the nodes around it stand before it, as in ``encoder/body/W``.

Source: ``docs/IR.md`` of ONNX (graphs, functions, names and scopes).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rnnx.errors import UnsupportedError, WeightFormatError
from rnnx.formats.onnx.files import text_of

__all__ = ["Node", "Program", "program_of"]

#: Deepest nesting of functions and bodies; deeper ones are taken for an attack on the recursion limit.
_MAX_DEPTH = 32

#: Most nodes within functions and bodies once they are put in, and most letters of the names that are made for that.
_MAX_INNER, _MAX_LETTERS = 1 << 16, 1 << 26

_GRAPH, _GRAPHS = 5, 10  # AttributeProto.AttributeType


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One operation.

    Parameters
    ----------
    op, domain, name : str
        Its operator, that operator's domain (empty for ONNX's own), and its name, often empty.
    inputs, outputs : tuple of str
        The values it reads and makes; empty where one is left out.
    attributes : mapping of str to AttributeProto
        By name.
    """

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def input(self, index: int) -> str:
        """Return the name of an input, empty where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def output(self, index: int) -> str:
        """Return the name of an output, empty where it is left out."""
        return self.outputs[index] if index < len(self.outputs) else ""


@dataclasses.dataclass
class Program:
    """All nodes of a model, each after those that make what it reads.

    Parameters
    ----------
    nodes : list of Node
        In order.
    tensors : dict of str to TensorProto
        The initializers by name.
    given : set of str
        The values that are put in from outside: inputs of the model, and of bodies.
    results : Counter of str
        How often each value is handed out: as the model's output, or a body's.
    shapes : dict of str to tuple of int or None
        What the model says of its values' shapes; None for a size that is not known.
    """

    nodes: list[Node] = dataclasses.field(default_factory=list)
    tensors: dict[str, Any] = dataclasses.field(default_factory=dict)
    given: set[str] = dataclasses.field(default_factory=set)
    results: Counter[str] = dataclasses.field(default_factory=Counter)
    shapes: dict[str, tuple[int | None, ...]] = dataclasses.field(default_factory=dict)


def program_of(model: Any) -> Program:
    """Return the nodes of a ``ModelProto``.

    Raises
    ------
    WeightFormatError
        If a value is made twice or by nothing that comes before it, functions call themselves, or nesting or size are
        beyond all measure.
    UnsupportedError
        If there are sparse initializers.
    """
    flattening = _Flattening(model.functions)
    flattening.graph(model.graph, _Scope(flattening, "", None), (), {})
    return flattening.program


class _Flattening:
    """A program in the making."""

    def __init__(self, functions: Sequence[Any]) -> None:
        self.program = Program()
        self._functions: dict[tuple[str, str, str], Any] = {}
        for each in functions:
            key = (_domain(each.domain), text_of(each.name), _overload(each))
            if self._functions.setdefault(key, each) is not each:
                raise WeightFormatError(f"function {each.name!r} of domain {each.domain!r} is there twice")
        self._inner, self._letters = 0, 0
        self._names: Counter[str] = Counter()

    def unique(self, prefix: str, name: str) -> str:
        """Return the name that a value has in the program."""
        whole = f"{prefix}{name}"
        if prefix:
            self._letters += len(whole)
        while self._names[whole]:
            self._names[whole] += 1
            whole = f"{whole}#{self._names[whole]}"
        self._names[whole] += 1
        return whole

    def graph(self, graph: Any, scope: _Scope, around: tuple[Any, ...], given: Mapping[str, Any]) -> None:
        """Add the nodes of a graph; `around` are the functions and bodies it stands in, `given` their attributes."""
        if len(around) > _MAX_DEPTH:
            raise WeightFormatError(f"the model's bodies and functions are nested deeper than {_MAX_DEPTH}")
        if len(graph.sparse_initializer):
            raise UnsupportedError("the model has sparse initializers, which rnnx does not read: store them densely")
        for tensor in graph.initializer:
            self.program.tensors[scope.define(tensor.name)] = tensor
        for value in graph.input:
            if value.name not in scope.names:  # an initializer is its default
                self.program.given.add(scope.define(value.name))
        self._nodes(graph.node, scope, around, given)
        self.program.results.update(scope.value(output.name, "the graph's outputs") for output in graph.output)
        for value in (*graph.input, *graph.value_info, *graph.output):
            if value.name in scope.names and value.type.HasField("tensor_type"):
                self.program.shapes[scope.names[value.name]] = _sizes(value.type.tensor_type.shape)

    def _nodes(self, nodes: Sequence[Any], scope: _Scope, around: tuple[Any, ...], given: Mapping[str, Any]) -> None:
        for node in nodes:
            self._count(scope, len(node.input) + len(node.output) + len(node.attribute))
            name = f"{scope.prefix}{text_of(node.name)}" if node.name else ""
            inputs = tuple(name and scope.value(name, _label(node)) for name in node.input)
            attributes = _attributes(node, given)
            key = (_domain(node.domain), text_of(node.op_type), _overload(node))
            if key in self._functions:
                self._call(self._functions[key], node, inputs, scope, around, attributes)
                continue
            self._bodies(node, scope, around, given, attributes)
            outputs = tuple(name and scope.define(name) for name in node.output)
            self.program.nodes.append(Node(node.op_type, key[0], name, inputs, outputs, attributes))

    def _count(self, scope: _Scope, names: int) -> None:
        """Refuse functions that call others so often that the program would never end."""
        self._inner += bool(scope.prefix)
        self._letters += len(scope.prefix) and len(scope.prefix) + names
        if self._inner > _MAX_INNER or self._letters > _MAX_LETTERS:
            what = f"have more than {_MAX_INNER} nodes when they are put in, or names beyond all measure"
            raise WeightFormatError(f"the model's functions and bodies {what}")

    def _call(self, function: Any, node: Any, inputs: tuple[str, ...], scope: _Scope, around: tuple[Any, ...],
              attributes: Mapping[str, Any]) -> None:  # fmt: skip
        if any(each is function for each in around) or len(around) > _MAX_DEPTH:
            raise WeightFormatError(f"function {function.name!r} calls itself, or stands too deep in others")
        inner = _Scope(self, f"{scope.prefix}{node.name or node.op_type}/", None)
        for index, name in enumerate(function.input):
            inner.names[name] = inputs[index] if index < len(inputs) else ""
        self._letters += len(function.input) + len(function.output) + len(function.attribute_proto)
        defaults = {each.name: each for each in function.attribute_proto}
        self._nodes(function.node, inner, (*around, function), {**defaults, **attributes})
        for inside, outside in zip(function.output, node.output, strict=False):
            if outside:
                scope.bind(outside, inner.value(inside, f"function {function.name!r}"))

    def _bodies(self, node: Any, scope: _Scope, around: tuple[Any, ...], given: Mapping[str, Any],
                attributes: Mapping[str, Any]) -> None:  # fmt: skip
        for name, attribute in attributes.items():
            bodies = {_GRAPH: [attribute.g], _GRAPHS: attribute.graphs}.get(attribute.type, ())
            for body in bodies:
                inner = _Scope(self, f"{scope.prefix}{node.name or node.op_type}/{name}/", scope)
                self.graph(body, inner, (*around, body), given)


class _Scope:
    """The values that can be seen at one place: what they are called there, and in the program."""

    def __init__(self, flattening: _Flattening, prefix: str, outer: _Scope | None) -> None:
        self.prefix, self.names = prefix, dict[str, str]()
        self._flattening, self._outer = flattening, outer

    def define(self, name: str) -> str:
        """Add a value, and return its name in the program."""
        self.bind(name, self._flattening.unique(self.prefix, name))
        return self.names[name]

    def bind(self, name: str, value: str) -> None:
        """Let a name stand for a value of the program."""
        if text_of(name) in self.names or not name:
            raise WeightFormatError(f"{name!r} is the name of two values, or of an initializer that is there twice")
        self.names[name] = value

    def value(self, name: str, reader: str) -> str:
        """Return what a name stands for here or further out."""
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope._outer
        raise WeightFormatError(
            f"{reader} reads {name!r}, which nothing before it makes: the graph has a cycle, or is not in order"
        )


def _attributes(node: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node's attributes, with those of the function that it stands in where it refers to them."""
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.name in found:
            raise WeightFormatError(f"{_label(node)} has its attribute {attribute.name!r} twice")
        known = given.get(attribute.ref_attr_name) if attribute.ref_attr_name else attribute
        if known is not None:
            found[text_of(attribute.name)] = known
    return found


def _label(node: Any) -> str:
    return f"node {node.name!r} ({node.op_type})"


def _domain(name: str) -> str:
    return "" if text_of(name) == "ai.onnx" else name


def _overload(message: Any) -> str:
    """Return which of several functions of one name is meant; ONNX before 1.16 has one of each name."""
    return text_of(getattr(message, "overload", ""))


def _sizes(shape: Any) -> tuple[int | None, ...]:
    return tuple(each.dim_value if each.HasField("dim_value") else None for each in shape.dim)

"""What a model's graph computes beside its recurrent parts, and no conversion can rewrite."""

from __future__ import annotations

from collections.abc import Iterator

from rnnx.formats.onnx.nodes import recurrent_nodes
from rnnx.formats.onnx.program import Node, Program

__all__ = ["rest_of"]

#: Operators that move elements and compute nothing, as exporters put them around recurrent nodes.
_MOVING = frozenset(
    (
        *("Cast", "Concat", "Constant", "ConstantOfShape", "Dropout", "Expand", "Gather", "Identity", "Reshape"),
        *("Shape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
    )
)

#: Inputs of a recurrent node that say how a call begins and ends: lengths, h and c.
_OF_THE_CALL = (4, 5, 6)


def rest_of(program: Program) -> str:
    """Return, a line each, the nodes that compute something else, and the constants that recurrent nodes begin with.

    Nothing, where the graph is its recurrent parts and no more.
    """
    return "\n".join([*_others(program), *_beginnings(program)])


def _others(program: Program) -> Iterator[str]:
    recurrent = {id(node) for node in recurrent_nodes(program)}
    for node in program.nodes:
        looks_up = node.op == "Gather" and node.input(0) in program.tensors
        if id(node) not in recurrent and (node.op not in _MOVING or node.domain or looks_up):
            yield f"{node.op} {node.name!r}: {', '.join(node.inputs)} -> {', '.join(node.outputs)}"


def _beginnings(program: Program) -> Iterator[str]:
    """Yield the lengths and initial states that are constants of the graph."""
    constants = program.tensors.keys() | {name for node in program.nodes for name in _constant(node)}
    for node in recurrent_nodes(program):
        held = [node.input(index) for index in _OF_THE_CALL if node.input(index) in constants]
        if held:
            yield f"{node.op} {node.name!r} begins with {', '.join(held)}"


def _constant(node: Node) -> tuple[str, ...]:
    return node.outputs if node.op == "Constant" else ()

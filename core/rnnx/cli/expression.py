"""A cell tree typed on the command line, as in Python: ``FusedRNNCell(60, num_layers=2, mode='gru')``.

The text is parsed and never run: it may hold calls of rnnx's cells, and literals.
"""

from __future__ import annotations

import ast
from typing import Any

import rnnx
from rnnx.cells import BaseRNNCell
from rnnx.errors import RNNXError, UnsupportedError, nearest
from rnnx.found import built
from rnnx.spec import KINDS

__all__ = ["cell_of"]


def cell_of(text: str) -> BaseRNNCell:
    """Return the cell tree that a text describes.

    A stack is a list: ``[LSTMCell(60, prefix='a_'), DropoutCell(0.2), LSTMCell(60, prefix='b_')]``.

    Raises
    ------
    UnsupportedError
        If it is something else, or takes no such arguments.
    """
    try:
        return _bounded(_cell(ast.parse(text.strip(), mode="eval").body))
    except RNNXError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnsupportedError(f"{text[:200]!r} is no cell tree as Python writes it: {error}") from error


def _cell(node: ast.expr) -> BaseRNNCell:
    made = _value(node)
    if not isinstance(made, BaseRNNCell):
        raise UnsupportedError(f"{ast.unparse(node)!r} is no cell; write one such as FusedRNNCell(60, num_layers=2)")
    return made


def _bounded(cell: BaseRNNCell) -> BaseRNNCell:
    built(cell.spec)
    return cell


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        return _call(node)
    if isinstance(node, ast.List):
        stack = rnnx.SequentialRNNCell()
        for each in node.elts:
            stack.add(_cell(each))
        return stack
    return ast.literal_eval(node)


def _call(node: ast.Call) -> BaseRNNCell:
    name = ast.unparse(node.func).removeprefix("rnnx.").removeprefix("rnn.")
    if name not in KINDS or name == "SequentialRNNCell":
        raise UnsupportedError(
            f"no cell is called {name!r}{nearest(name, KINDS)}; a stack is written as a list of cells"
        )
    arguments = [_value(each) for each in node.args]
    if any(each.arg is None for each in node.keywords):
        raise UnsupportedError(f"{ast.unparse(node)}: write the arguments out, without **")
    options = {each.arg: _value(each.value) for each in node.keywords if each.arg is not None}
    try:
        cell: BaseRNNCell = getattr(rnnx, name)(*arguments, **options)
    except (TypeError, AttributeError) as error:
        raise UnsupportedError(f"{ast.unparse(node)}: {error}") from error
    return cell

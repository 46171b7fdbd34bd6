"""The last output of a sequence, in the sense of Keras: each direction's own last step."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from rnnx.cells import (
    BaseRNNCell,
    BidirectionalCell,
    DropoutCell,
    FusedRNNCell,
    ResidualCell,
    SequentialRNNCell,
    ZoneoutCell,
)

__all__ = ["Columns", "columns_of", "last_output"]

#: Widths of neighbouring columns of an output, each with whether they come from a cell that runs backward in time.
Columns = list[tuple[int, bool]]


def columns_of(cell: BaseRNNCell, columns: Columns) -> Columns:
    """Return which columns of a tree's outputs run backward, given which of its inputs do.

    A residual's are those of the cell within it, and dropout leaves columns what they are.
    """
    width = sum(each for each, _ in columns)
    if isinstance(cell, DropoutCell):
        return columns
    if isinstance(cell, ResidualCell | ZoneoutCell):
        return columns_of(cell.base_cell, columns)
    if isinstance(cell, SequentialRNNCell):
        for each in cell._cells:
            columns = columns_of(each, columns)
        return columns
    if isinstance(cell, BidirectionalCell):
        forward, backward = cell._cells
        return [*columns_of(forward, columns), *_turned(columns_of(backward, _turned(columns)))]
    if isinstance(cell, FusedRNNCell) and cell.spec.fields["bidirectional"]:
        half = cell.output_size(width) // 2
        return [(half, False), (half, True)]
    return [(cell.output_size(width), False)]


def last_output(outputs: Any, valid_length: Any, columns: Columns) -> Any:
    """Return (N, C) of outputs (T, N, C): of columns that run backward the first step, of others the last that counts.

    It is what ``keras.layers.Bidirectional`` returns without its ``return_sequences``. A row of length 0 gives zeros,
    as its outputs are.
    """
    if all(backward for _, backward in columns):
        return outputs[0]
    final = outputs[-1] if valid_length is None else _at(outputs, tf.maximum(valid_length - 1, 0))
    if not any(backward for _, backward in columns):
        return final
    widths = [width for width, _ in columns]
    parts = zip(columns, tf.split(outputs[0], widths, -1), tf.split(final, widths, -1), strict=True)
    return tf.concat([first if backward else last for (_, backward), first, last in parts], -1)


def _at(outputs: Any, steps: Any) -> Any:
    """Return of each row the outputs of one step."""
    rows = tf.range(tf.shape(outputs, steps.dtype)[1])
    return tf.gather_nd(outputs, tf.stack([steps, rows], 1))


def _turned(columns: Columns) -> Columns:
    return [(width, not backward) for width, backward in columns]

"""Masks of Keras, which say of every step whether it counts, as lengths of the rows."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from rnnx.cells import sizes
from rnnx.errors import ShapeError

__all__ = ["valid_length_of"]

_HOLES = (
    "the mask has a step that does not count before one that does: rnnx takes sequences that are padded on the right "
    "only, as Embedding(mask_zero=True) and Masking see them where the padding comes last"
)


def valid_length_of(mask: Any, inputs: Any) -> Any:
    """Return the steps of each row that count, (N,) of int64, as a mask (N, T) over inputs (N, T, C) says.

    Raises
    ------
    ShapeError
        If the mask has another shape, or is not padding on the right. In a graph the latter is found when it runs, and
        is an `InvalidArgumentError` of TensorFlow's; compiled by XLA, which leaves assertions out, it is not found.
    """
    mask = tf.cast(tf.convert_to_tensor(mask), tf.bool)
    found, expected = tuple(mask.shape), tuple(inputs.shape)[:2]
    if not sizes.agree(found, expected):
        raise ShapeError(f"the mask has shape {found}, expected {expected}: one value for each step of each row")
    lengths = tf.reduce_sum(tf.cast(mask, tf.int64), 1)
    padded_right = tf.logical_not(tf.reduce_any(mask[:, 1:] & ~mask[:, :-1]))
    if not tf.is_symbolic_tensor(padded_right):
        if not padded_right:
            raise ShapeError(_HOLES)
        return lengths
    with tf.control_dependencies([tf.debugging.Assert(padded_right, [_HOLES])]):
        return tf.identity(lengths)

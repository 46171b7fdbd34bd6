"""Loops of the graph over the steps of a sequence, several steps a turn, from the first on or from the last back.

Turns may run ahead: what the next one does with the inputs alone is done while this one waits for its states. A short
sequence whose length is known needs no loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import tensorflow as tf

from rnnx_tensorflow.internals import for_xla

__all__ = ["downwards", "piece", "pieces", "room", "upwards"]

Tensor = Any

#: Takes a step's number, how many steps to do from there, and what is carried; returns what is carried on.
Turn = Callable[[Any, int, list[Any]], list[Any]]

#: Steps in one turn, of several rows, and of one alone, which takes little time for a step.
STRIDE, STRIDE_ALONE = 2, 4

#: Turns that may be under way at once.
AHEAD = 8


def upwards(inputs: Tensor, turn: Turn, carry: list[Any]) -> list[Any]:
    """Go through the steps of inputs (T, ...) from the first on, several at a time, and the rest one by one."""
    known, length, stride = inputs.shape[0], tf.shape(inputs)[0], _stride(inputs)
    if _is_short(inputs):
        return turn(0, known, carry)
    time, *carry = _while(lambda time: time <= length - stride, turn, stride, [tf.constant(0), *carry])
    if _has_rest(known, stride):
        _, *carry = _while(lambda time: time < length, turn, 1, [time, *carry])
    return carry


def downwards(inputs: Tensor, turn: Turn, carry: list[Any]) -> list[Any]:
    """Go through the same turns from the last back."""
    known, time, stride = inputs.shape[0], tf.shape(inputs)[0], _stride(inputs)
    if _is_short(inputs):
        return turn(0, known, carry)
    if _has_rest(known, stride):
        time, *carry = _while(lambda time: time % stride > 0, turn, -1, [time, *carry])
    _, *carry = _while(lambda time: time > 0, turn, -stride, [time, *carry])
    return carry


def pieces(array: Tensor, time: Any, number: int) -> list[Tensor]:
    """Return the entries ``time`` to ``time + number`` along the first axis, one by one."""
    found: list[Tensor] = tf.unstack(piece(array, time, number), number)
    return found


def piece(array: Tensor, time: Any, number: int) -> Tensor:
    """Return the entries ``time`` to ``time + number`` along the first axis."""
    if array.shape[0] == number:
        return array
    others = len(array.shape) - 1
    found = tf.slice(array, [time, *[0] * others], [number, *[-1] * others])
    found.set_shape([number, *array.shape[1:]])
    return found


class Listed:
    """What a `tf.TensorArray` is to a loop, for a sequence that needs none."""

    def __init__(self, values: Mapping[int, Tensor] = MappingProxyType({})) -> None:
        self._values = values

    def write(self, time: int, value: Tensor) -> Listed:
        """Return it with a value more."""
        return Listed({**self._values, time: value})

    def stack(self) -> Tensor:
        """Return all values along a new first axis."""
        return tf.stack([self._values[time] for time in sorted(self._values)])


def room(inputs: Tensor, batch: int | None, widths: Sequence[int]) -> list[Any]:
    """Return arrays to be written at each step of inputs (T, ...), with entries (N, width)."""
    if _is_short(inputs):
        return [Listed() for _ in widths]
    length = tf.shape(inputs)[0]
    return [tf.TensorArray(inputs.dtype, length, element_shape=[batch, width]) for width in widths]


def _is_short(inputs: Tensor) -> bool:
    return inputs.shape[0] is not None and inputs.shape[0] <= _stride(inputs)


def _stride(inputs: Tensor) -> int:
    """Return how many steps a turn takes: XLA compiles every turn, also one that is longer than the sequence."""
    if inputs.shape[0] is None and for_xla():
        return 1
    return STRIDE_ALONE if inputs.shape[1] == 1 else STRIDE


def _has_rest(known: int | None, stride: int) -> bool:
    return stride > 1 and (known is None or known % stride > 0)


def _while(condition: Callable[[Any], Any], turn: Turn, stride: int, carry: list[Any]) -> list[Any]:
    def body(time: Tensor, *before: Any) -> list[Any]:
        after = turn(time + min(stride, 0), abs(stride), list(before))
        for new, old in zip(after, before, strict=True):
            if isinstance(new, tf.Tensor):
                new.set_shape(old.shape)
        return [time + stride, *after]

    found: list[Any] = tf.while_loop(lambda time, *_: condition(time), body, carry, parallel_iterations=AHEAD)
    return found

"""TensorFlow's operations, on eager tensors, tensors of a graph, and variables."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from rnnx.backend import Backend, ScanStep
from rnnx.errors import ShapeError, UnsupportedError

__all__ = ["TensorFlowOperations", "as_tensor", "short_name"]

#: Elements of zeros up to which they are made once for all.
_SMALL = 1 << 18

#: A `tf.Tensor` or a `tf.Variable`; TensorFlow has no types of its own.
Tensor = Any


class TensorFlowOperations(Backend):
    """Arrays are `tf.Tensor` and `tf.Variable`. Sizes that a graph does not know are scalars of `tf.shape`."""

    name = "tensorflow"

    def owns(self, array: object) -> bool:
        """See `Backend.owns`."""
        return isinstance(array, tf.Tensor | tf.Variable)

    def known(self, array: Tensor) -> bool:
        """See `Backend.known`: False for a tensor of a graph."""
        return not tf.is_symbolic_tensor(array)

    def from_numpy(self, array: npt.NDArray[Any], device: str | None = None) -> Tensor:
        """See `Backend.from_numpy`; an eager tensor, also where a graph is being made."""
        if device is not None and not device.startswith("/") and device not in self.devices():
            raise UnsupportedError(f"TensorFlow has no device {device!r} here; there are {', '.join(self.devices())}")
        with tf.init_scope(), tf.device(device):
            return tf.constant(np.array(array))

    def to_numpy(self, array: Tensor) -> npt.NDArray[Any]:
        """See `Backend.to_numpy`.

        Raises
        ------
        UnsupportedError
            For a tensor of a graph.
        """
        if not self.known(array):
            raise UnsupportedError(
                f"{array!r} is part of a graph and has no values yet: read it outside of the tf.function"
            )
        found: npt.NDArray[Any] = np.array(array.numpy())
        return found

    def devices(self) -> tuple[str, ...]:
        """Return every GPU, and the processor: TensorFlow itself puts tensors on the first GPU."""
        found = [device.name for kind in ("GPU", "CPU") for device in tf.config.list_logical_devices(kind)]
        return tuple(map(short_name, found))

    def device(self, array: Tensor) -> str | None:
        """Return ``"cpu:0"`` or ``"gpu:0"``, or None for a tensor of a graph that has not been placed."""
        return short_name(array.device) if array.device else None

    def shape(self, array: Tensor) -> tuple[Any, ...]:
        """See `Backend.shape`; `ShapeError` where not even the number of axes is known."""
        if array.shape.rank is None:
            raise ShapeError(
                f"{array!r} has no known number of axes: give the tf.function an input_signature, or use set_shape"
            )
        static = tuple(array.shape)
        if None not in static:
            return static
        sizes = tf.shape(array)
        return tuple(sizes[axis] if size is None else size for axis, size in enumerate(static))

    def affine(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See `Backend.affine`."""
        if len(inputs.shape) == 2:
            product = tf.matmul(inputs, weight, transpose_b=True)
        else:
            product = tf.tensordot(inputs, weight, [[-1], [1]])
        return product if bias is None else product + bias

    def sigmoid(self, array: Tensor) -> Tensor:
        """See `Backend.sigmoid`."""
        return tf.sigmoid(array)

    def tanh(self, array: Tensor) -> Tensor:
        """See `Backend.tanh`."""
        return tf.tanh(array)

    def relu(self, array: Tensor) -> Tensor:
        """See `Backend.relu`."""
        return tf.nn.relu(array)

    def softplus(self, array: Tensor) -> Tensor:
        """See `Backend.softplus`."""
        return tf.nn.softplus(array)

    def split(self, array: Tensor, parts: int | Sequence[int], axis: int = -1) -> Sequence[Tensor]:
        """See `Backend.split`."""
        found: list[Tensor] = tf.split(array, parts if isinstance(parts, int) else list(parts), axis)
        return found

    def concat(self, arrays: Sequence[Tensor], axis: int = -1) -> Tensor:
        """See `Backend.concat`."""
        return tf.concat(list(arrays), axis)

    def stack(self, arrays: Sequence[Tensor]) -> Tensor:
        """See `Backend.stack`."""
        return tf.stack(list(arrays))

    def unstack(self, array: Tensor) -> Sequence[Tensor]:
        """See `Backend.unstack`; `ShapeError` where the graph does not know how many there are."""
        if array.shape[0] is None:
            raise ShapeError(
                f"{array!r} cannot be cut into a list: the graph does not know its length; keep it as one tensor "
                "(merge_outputs=True), or give the tf.function an input_signature with the number of steps"
            )
        found: list[Tensor] = tf.unstack(array)
        return found

    def reshape(self, array: Tensor, shape: tuple[Any, ...]) -> Tensor:
        """See `Backend.reshape`."""
        return tf.reshape(array, shape)

    def swapaxes(self, array: Tensor, first: int, second: int) -> Tensor:
        """See `Backend.swapaxes`."""
        return tf.raw_ops.Transpose(x=array, perm=_exchange(len(array.shape), first, second, tf.executing_eagerly()))

    def reverse(self, array: Tensor, valid_length: Tensor | None) -> Tensor:
        """See `Backend.reverse`."""
        if valid_length is None:
            return tf.reverse(array, [0])
        return tf.reverse_sequence(array, valid_length, seq_axis=0, batch_axis=1)

    def where(self, condition: Tensor, one: Tensor, other: Tensor) -> Tensor:
        """See `Backend.where`."""
        return tf.where(condition, one, other)

    def zeros(self, shape: tuple[Any, ...], like: Tensor) -> Tensor:
        """See `Backend.zeros`."""
        if tf.executing_eagerly() and math.prod(shape) <= _SMALL:
            return _zeros(shape, like.dtype, like.device)
        with _beside(like):
            return tf.zeros(shape, like.dtype)

    def bernoulli(self, seed: Any, probability: float, shape: tuple[Any, ...], like: Tensor) -> Tensor:
        """See `Backend.bernoulli`; the same on every device, and TensorFlow's global generator is left alone."""
        pair = self.pair(seed)
        with _beside(like):
            # XLA makes other floats of the same bits
            bits = tf.random.stateless_uniform(shape, pair, None, None, tf.uint32, alg="philox")
            chosen = round(probability * 2**32)
            return bits <= tf.constant(chosen - 1, tf.uint32) if chosen > 0 else tf.zeros(shape, tf.bool)

    def steps_before(self, valid_length: Tensor, length: Any) -> Tensor:
        """See `Backend.steps_before`."""
        with _beside(valid_length):
            return tf.range(tf.cast(length, valid_length.dtype))[:, None] < valid_length

    def scan(self, step: ScanStep, inputs: Tensor, carry: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See `Backend.scan`; eagerly in Python, and in a graph as one `tf.while_loop` whatever the length."""
        if tf.executing_eagerly():
            return super().scan(step, inputs, carry)
        return _while_loop(step, inputs, carry)

    def fold(self, seed: Any, number: Any) -> Tensor:
        """Return two numbers, a seed of TensorFlow's stateless generators.

        The seed may also be a scalar or two numbers, of TensorFlow's own; the number may be a scalar of its own.
        """
        if isinstance(seed, int):
            return tf.stack([tf.constant(seed, tf.int64), tf.cast(number, tf.int64) + 1])
        drawn = tf.random.stateless_uniform([2], self.pair(seed), None, None, tf.int64, alg="philox")
        return drawn + tf.stack([tf.constant(0, tf.int64), tf.cast(number, tf.int64)])

    def pair(self, seed: Any) -> Tensor:
        """Return any seed as two numbers."""
        if isinstance(seed, int):
            return self.fold(seed, -1)
        whole = tf.cast(seed, tf.int64)
        return whole if whole.shape.rank == 1 else tf.stack([whole, tf.zeros_like(whole)])


def as_tensor(array: Tensor) -> Tensor:
    """Return the value of a variable, and a tensor as it is; `tf.convert_to_tensor` takes a while to find that out."""
    return array if isinstance(array, tf.Tensor) else tf.convert_to_tensor(array)


@functools.lru_cache(maxsize=64)
def short_name(device: str) -> str:
    """Return ``"gpu:0"`` of ``"/job:localhost/replica:0/task:0/device:GPU:0"``; another job's name stays whole."""
    spec = tf.DeviceSpec.from_string(device)
    if spec.device_type is None or spec.job not in (None, "localhost") or spec.task not in (None, 0):
        return device
    return f"{spec.device_type.lower()}:{spec.device_index or 0}"


@functools.lru_cache(maxsize=64)
def _exchange(rank: int, first: int, second: int, eager: bool) -> Any:
    """Return the order of axes with two exchanged: eagerly a tensor, which takes longer to make than to use."""
    axes = list(range(rank))
    axes[first], axes[second] = axes[second], axes[first]
    return tf.constant(axes) if eager else axes


@functools.lru_cache(maxsize=32)
def _zeros(shape: tuple[int, ...], dtype: tf.DType, device: str) -> Tensor:
    """Return zeros that every call may share, since a tensor does not change."""
    with tf.device(device):
        return tf.zeros(shape, dtype)


def _beside(like: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Return the scope of a tensor's device; a graph places its own."""
    scope: contextlib.AbstractContextManager[Any] = tf.device(like.device) if like.device else contextlib.nullcontext()
    return scope


def _while_loop(step: ScanStep, inputs: Tensor, carry: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Scan in a loop of the graph. A step's output has the dtype of the inputs, and every step's has one shape."""
    length = tf.shape(inputs)[0]
    shapes: list[Any] = []

    def body(time: Tensor, written: tf.TensorArray, *before: Tensor) -> tuple[Any, ...]:
        output, after = step(time, inputs[time], list(before))
        shapes.append(output.shape)
        for new, old in zip(after, before, strict=True):
            new.set_shape(old.shape)
        return (time + 1, written.write(time, output), *after)

    start = (tf.constant(0), tf.TensorArray(inputs.dtype, length), *carry)
    _, written, *final = tf.while_loop(
        lambda time, *_: time < length, body, start, maximum_iterations=length, parallel_iterations=1
    )
    outputs = written.stack()
    outputs.set_shape([inputs.shape[0], *shapes[-1]])
    return outputs, list(final)

"""The TensorFlow backend: its operations, and the door to its kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from rnnx.backend import Backend, Call, Kernel, KernelWeights, Pullback, Recurrence, Unsupported
from rnnx_tensorflow.compiled import run_compiled
from rnnx_tensorflow.cudnn import run_cudnn
from rnnx_tensorflow.kernels import CUDNN, TensorFlowKernel, kernel_of
from rnnx_tensorflow.operations import TensorFlowOperations, as_tensor

__all__ = ["TensorFlowBackend"]

Tensor = Any


class TensorFlowBackend(TensorFlowOperations):
    """Arrays are `tf.Tensor` and `tf.Variable`, eager or of a graph. Gradients also flow through `tf.GradientTape`."""

    def plan(self, recurrence: Recurrence, call: Call) -> Kernel | Unsupported:
        """Return cuDNN's kernel on a GPU, and otherwise a graph of TensorFlow's operations."""
        return kernel_of(recurrence, call)

    def run(
        self,
        kernel: Kernel,
        weights: KernelWeights,
        inputs: Tensor,
        states: Sequence[Tensor],
        valid_length: Tensor | None,
        seeds: Sequence[Any],
    ) -> tuple[Tensor, list[Tensor]]:
        """See `Backend.run`."""
        assert isinstance(kernel, TensorFlowKernel)
        lengths = None if valid_length is None else tf.cast(valid_length, tf.int64)
        pairs = [self.pair(seed) for seed in seeds]
        if kernel.name == CUDNN:
            return run_cudnn(kernel.recurrence, weights, inputs, states, lengths, pairs)
        return run_compiled(kernel.recurrence, weights, inputs, states, lengths, pairs, kernel.training)

    def differentiate(
        self, function: Callable[[Backend, Sequence[Tensor]], Sequence[Tensor]], arguments: Sequence[Tensor]
    ) -> tuple[list[Tensor], Pullback]:
        """See `Backend.differentiate`; through `tf.GradientTape`."""
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            watched = _distinct(arguments)
            tape.watch(watched)
            results = list(function(self, watched))

        def pullback(cotangents: Sequence[Tensor]) -> list[Tensor]:
            found: list[Tensor] = tape.gradient(
                results, watched, list(cotangents), unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
            return found

        return results, pullback


def _distinct(arrays: Sequence[Tensor]) -> list[Tensor]:
    """Return the arrays as tensors of which no two are one: a tape tells tensors apart, not arguments."""
    found: list[Tensor] = []
    for array in map(as_tensor, arrays):
        found.append(tf.identity(array) if any(array is other for other in found) else array)
    return found

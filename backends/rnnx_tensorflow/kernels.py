"""Which kernel runs a recurrence where."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from rnnx.backend import Call, Kernel, Recurrence
from rnnx_tensorflow import cudnn
from rnnx_tensorflow.internals import for_xla

__all__ = ["COMPILED", "CUDNN", "TensorFlowKernel", "kernel_of"]

#: cuDNN's own recurrence.
CUDNN = "tensorflow.cudnn"

#: A graph of TensorFlow's operations.
COMPILED = "tensorflow.compiled"


@dataclasses.dataclass(frozen=True)
class TensorFlowKernel(Kernel):
    """A kernel, and whether its call is one in training."""

    training: bool = False


def kernel_of(recurrence: Recurrence, call: Call) -> TensorFlowKernel:
    """Return the kernel that runs a recurrence in such a call."""
    fits = call.dtype in cudnn.DTYPES and _has_cudnn(call.device) and not for_xla()
    return TensorFlowKernel(CUDNN if fits else COMPILED, recurrence, reads_flat=True, training=call.training)


def _has_cudnn(device: str | None) -> bool:
    """Say whether a device has cuDNN. What a graph has not placed runs on the first GPU, if there is one."""
    if device is None:
        return bool(tf.config.list_logical_devices("GPU")) and tf.test.is_built_with_cuda()
    return device.startswith("gpu") and tf.test.is_built_with_cuda()

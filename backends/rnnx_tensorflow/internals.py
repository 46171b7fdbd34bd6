"""What TensorFlow knows of a call and does not tell by any public name, in one place.

Sources: ``tensorflow/python/eager/record.py``, ``tensorflow/python/eager/polymorphic_function/atomic_function.py`` and
``tensorflow/python/ops/control_flow_util.py`` of TensorFlow 2.21.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import record as tapes
from tensorflow.python.ops import control_flow_util

__all__ = ["for_xla", "record", "recording", "runner"]


def recording() -> bool:
    """Say whether a `tf.GradientTape` is there that might record."""
    return bool(tapes.could_possibly_record())


def record(name: str, results: Sequence[Any], arguments: Sequence[Any], pullback: Callable[..., Sequence[Any]]) -> None:
    """Tell every tape that results were made of arguments, as `tf.custom_gradient` does in more steps."""
    tapes.record_operation(name, list(results), list(arguments), pullback)


def for_xla() -> bool:
    """Say whether a graph is being made for XLA, as ``tf.function(jit_compile=True)`` makes it."""
    if tf.executing_eagerly():
        return False
    return bool(control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))


def runner(graph: Any) -> Callable[..., list[Any]]:
    """Return the function that runs a `tf.ConcreteFunction` on tensors that are known to fit, past every tape.

    The graph's own call looks its arguments over again, which takes a third of the time of a small recurrence.
    """
    call: Callable[..., list[Any]] = graph.inference_fn.call_flat
    return call

"""cuDNN's recurrence through TensorFlow's operation ``CudnnRNNV3``.

Its ``params`` is cuDNN's weight space: every matrix by layer, direction and gate, those of the inputs before those of
the states, then every bias likewise. That is a fused cell's own vector, which is handed over as it is; weights of
several cells are joined to it.

Dropout is not cuDNN's, whose masks a seed could not repeat: with it the layers run one by one.

Sources: ``tensorflow/core/ops/cudnn_rnn_ops.cc``, ``tensorflow/core/kernels/cudnn_rnn_ops.cc``, and cuDNN's
``cudnnGetRNNWeightParams``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from rnnx.backend import KernelWeights, Recurrence
from rnnx.ops import Ops
from rnnx.weights.layout import join_flat, split_flat
from rnnx_tensorflow.operations import TensorFlowOperations

__all__ = ["DTYPES", "arguments", "run_cudnn"]

Tensor = Any

#: What the operation computes in, of rnnx's dtypes.
DTYPES = ("float16", "float32", "float64")

_OPERATIONS = TensorFlowOperations()

#: The operation; it has a kernel on GPUs alone.
_operation: Any = tf.raw_ops.CudnnRNNV3


def run_cudnn(
    recurrence: Recurrence,
    weights: KernelWeights,
    inputs: Tensor,
    states: Sequence[Tensor],
    valid_length: Tensor | None,
    seeds: Sequence[Tensor],
) -> tuple[Tensor, list[Tensor]]:
    """Run a recurrence; see `rnnx.backend.Backend.run`. Seeds are pairs of numbers."""
    if not seeds:
        params = join_flat(_OPERATIONS, weights.layers) if weights.flat is None else weights.flat
        return _whole(recurrence, params, inputs, list(states), valid_length)
    alone, finals = dataclasses.replace(recurrence, num_layers=1), []
    layers = weights.layers or split_flat(_OPERATIONS, weights.flat, recurrence).layers
    ops = Ops(_OPERATIONS, True, iter(seeds))
    for layer in range(recurrence.num_layers):
        places = slice(layer * recurrence.directions, (layer + 1) * recurrence.directions)
        params = join_flat(_OPERATIONS, layers[places])
        mine = dataclasses.replace(alone, input_size=recurrence.layer_input_size(layer))
        inputs, final = _whole(mine, params, inputs, [state[places] for state in states], valid_length)
        finals.append(final)
        if layer < recurrence.num_layers - 1:
            inputs = ops.dropout(inputs, recurrence.dropout)
    return inputs, [tf.concat(parts, 0) for parts in zip(*finals, strict=True)]


def _whole(
    recurrence: Recurrence, params: Tensor, inputs: Tensor, states: list[Tensor], valid_length: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """Run all layers in one call. A row of length 0, which cuDNN refuses, runs one step for nothing."""
    lengths = None if valid_length is None else tf.maximum(tf.cast(valid_length, tf.int32), 1)
    found = _operation(**arguments(recurrence, params, inputs, states, lengths))
    outputs, finals = found.output, [found.output_h, found.output_c][: recurrence.num_states]
    if valid_length is None:
        return outputs, finals
    mask = _OPERATIONS.steps_before(valid_length, tf.shape(inputs)[0])[..., None]
    ran = (valid_length > 0)[:, None]
    kept = [tf.where(ran, final, state) for final, state in zip(finals, states, strict=True)]
    return tf.where(mask, outputs, tf.zeros([], outputs.dtype)), kept


def arguments(
    recurrence: Recurrence, params: Tensor, inputs: Tensor, states: Sequence[Tensor], lengths: Tensor | None
) -> dict[str, Any]:
    """Return the arguments of ``CudnnRNNV3``.

    Parameters
    ----------
    recurrence : Recurrence
        What runs.
    params : Tensor
        The flat vector, as `rnnx.weights.layout` has it.
    inputs : Tensor
        (T, N, I).
    states : sequence of Tensor
        h and, for lstm, c: each (L*D, N, H).
    lengths : Tensor or None
        (N,) of int32, from 1 to T; None for T throughout.
    """
    if lengths is None:
        lengths = tf.fill(tf.shape(inputs)[1:2], tf.shape(inputs)[0])
    return {
        "input": inputs,
        "input_h": states[0],
        "input_c": states[1] if len(states) > 1 else tf.zeros([], inputs.dtype),
        "params": params,
        "sequence_lengths": lengths,
        "rnn_mode": recurrence.mode,
        "input_mode": "linear_input",
        "direction": "bidirectional" if recurrence.bidirectional else "unidirectional",
        "dropout": 0.0,
        "seed": 0,
        "seed2": 0,
        "num_proj": 0,
        "is_training": True,  # keeps what the gradient needs; it changes nothing else where nothing is dropped
        "time_major": True,
    }

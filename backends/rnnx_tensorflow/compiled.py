"""A recurrence as one graph: layers, directions, masks and dropout around `sweep`.

Called eagerly, it runs in a graph of its own, made once for each kind of call. Batch size and number of steps are left
open in it, so that others are not traced again; only a single step and a single row have graphs to themselves. The
gradient is a second graph, made when the first gradient is wanted. In a graph of the caller's, the recurrence becomes
part of that.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from rnnx.backend import KernelWeights, Recurrence
from rnnx.ops import Ops
from rnnx.weights.layout import flat_size, split_flat
from rnnx_tensorflow.internals import record, recording, runner
from rnnx_tensorflow.operations import TensorFlowOperations, as_tensor
from rnnx_tensorflow.sweep import Keep, Trace, sweep

__all__ = ["Graph", "Kind", "backward_graph", "forward_graph", "run_compiled"]

Tensor = Any

_OPERATIONS = TensorFlowOperations()


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a graph is made for.

    Parameters
    ----------
    recurrence : Recurrence
        What runs.
    dtype, device : str
        Of all arrays.
    flat : bool
        Whether the weights are one vector, or else four arrays for each layer and direction.
    masked : bool
        Whether the rows have lengths.
    dropping : bool
        Whether there is dropout between layers.
    keep : Keep
        What is kept of every step; see `sweep`.
    single : bool
        Whether there is just one step.
    alone : bool
        Whether there is just one row.
    """

    recurrence: Recurrence
    dtype: str
    device: str | None
    flat: bool
    masked: bool
    dropping: bool
    keep: Keep
    single: bool
    alone: bool

    @property
    def signature(self) -> list[tf.TensorSpec]:
        """The arrays of a call: inputs, states, lengths, seeds, weights."""
        recurrence, dtype = self.recurrence, tf.as_dtype(self.dtype)
        floats = [(1 if self.single else None, None, recurrence.input_size)]
        floats += [
            (recurrence.num_layers * recurrence.directions, None, recurrence.hidden_size)
        ] * recurrence.num_states
        integers = [(None,)] * self.masked + [(recurrence.num_layers - 1, 2)] * self.dropping
        return [
            *(tf.TensorSpec(shape, dtype) for shape in floats),
            *(tf.TensorSpec(shape, tf.int64) for shape in integers),
            *(tf.TensorSpec(shape, dtype) for shape in self._weight_shapes()),
        ]

    def _weight_shapes(self) -> Iterator[tuple[int, ...]]:
        recurrence = self.recurrence
        rows, hidden = recurrence.gates * recurrence.hidden_size, recurrence.hidden_size
        if self.flat:
            yield (flat_size(recurrence),)
            return
        for layer in range(recurrence.num_layers):
            for _ in range(recurrence.directions):
                yield from ((rows, recurrence.layer_input_size(layer)), (rows, hidden), (rows,), (rows,))


class Graph:
    """A graph that is made.

    Attributes
    ----------
    function : tf.ConcreteFunction
        The graph itself.
    run : callable
        Runs it eagerly.
    """

    def __init__(self, function: Any) -> None:
        self.function, self.run = function, runner(function)


def run_compiled(
    recurrence: Recurrence,
    weights: KernelWeights,
    inputs: Tensor,
    states: Sequence[Tensor],
    valid_length: Tensor | None,
    seeds: Sequence[Tensor],
    training: bool,
) -> tuple[Tensor, list[Tensor]]:
    """Run a recurrence; see `rnnx.backend.Backend.run`. Seeds are pairs of numbers.

    The gates are kept for a gradient if a tape is there, and in a graph also in training, since a tape may come later.
    Any other graph keeps the states alone, so that inference takes little more than it returns.
    """
    flat, masked = weights.flat is not None, valid_length is not None
    arrays = [inputs, *states, *([valid_length] if masked else []), *([tf.stack(list(seeds))] if seeds else [])]
    arrays += [weights.flat] if flat else itertools.chain(*weights.layers)
    arrays = list(map(as_tensor, arrays))
    dtype, device, eager = _OPERATIONS.dtype(inputs), _OPERATIONS.device(inputs), tf.executing_eagerly()
    keep = Keep.GATES if recording() or (training and not eager) else Keep.OUTPUTS if eager else Keep.STATES
    kind = Kind(recurrence, dtype, device, flat, masked, bool(seeds), keep, inputs.shape[0] == 1, inputs.shape[1] == 1)
    outputs, *finals = _run_graph(kind, arrays) if eager else _recurrence(kind, arrays)[0]
    return outputs, finals


def _run_graph(kind: Kind, arrays: list[Tensor]) -> Sequence[Tensor]:
    """Run a kind of call in its graph, and tell the tapes of the graph of its gradient."""
    count = 1 + kind.recurrence.num_states
    found = forward_graph(kind).run(*arrays)
    results, kept = found[:count], found[count:]

    def pullback(*cotangents: Tensor) -> list[Tensor | None]:
        gradients = iter(backward_graph(kind).run(*arrays, *kept, *cotangents))
        return [next(gradients) if array.dtype.is_floating else None for array in arrays]

    if kind.keep > Keep.OUTPUTS:
        record("RNN", results, arrays, pullback)
    return results


@functools.lru_cache(maxsize=256)
def forward_graph(kind: Kind) -> Graph:
    """Return the graph of a kind of call: from `Kind.signature` to outputs, states and, if kept, the sweeps' traces."""

    def forward(*arrays: Tensor) -> list[Tensor]:
        with tf.device(kind.device):
            results, traces = _recurrence(kind, arrays)
            return [
                *results,
                *(array for trace in traces if kind.keep > Keep.OUTPUTS for array in (*trace.after, *trace.mixed)),
            ]

    return Graph(tf.function(forward, autograph=False).get_concrete_function(*kind.signature))


@functools.lru_cache(maxsize=256)
def backward_graph(kind: Kind) -> Graph:
    """Return the graph of its gradient: from what `forward_graph` took, left and got gradients for, to gradients."""
    given, states = len(kind.signature), kind.recurrence.num_states
    specs = [tf.TensorSpec(each.shape, each.dtype) for each in forward_graph(kind).function.outputs]
    results, kept = specs[: 1 + states], specs[1 + states :]

    def backward(*arrays: Tensor) -> list[Tensor]:
        values, traces, cotangents = arrays[:given], arrays[given : len(arrays) - len(results)], arrays[-len(results) :]
        places = kind.recurrence.num_layers * kind.recurrence.directions
        size = len(kept) // places
        done = [
            Trace(list(traces[start : start + states]), list(traces[start + states : start + size]))
            for start in range(0, len(kept), size)
        ]
        with tf.device(kind.device), tf.GradientTape() as tape:
            watched = [array for array in values if array.dtype.is_floating]
            tape.watch(watched)
            found, _ = _recurrence(kind, values, done)
        gradients: list[Tensor] = tape.gradient(
            found, watched, list(cotangents), unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return gradients

    return Graph(tf.function(backward, autograph=False).get_concrete_function(*kind.signature, *kept, *results))


def _recurrence(
    kind: Kind, arrays: Sequence[Tensor], done: Sequence[Trace] | None = None
) -> tuple[list[Tensor], list[Trace]]:
    """Return the outputs and states of arrays as `Kind.signature` has them, and the traces of the sweeps."""
    recurrence, given, traces = kind.recurrence, iter(arrays), []
    inputs = next(given)
    states = list(itertools.islice(given, recurrence.num_states))
    lengths = next(given) if kind.masked else None
    seeds = tf.unstack(next(given)) if kind.dropping else []
    layers = split_flat(_OPERATIONS, next(given), recurrence).layers if kind.flat else _by_four(list(given))
    ops, finals = Ops(_OPERATIONS, kind.dropping, iter(seeds)), []
    for layer in range(recurrence.num_layers):
        parts: list[Tensor] = []
        for place in range(layer * recurrence.directions, (layer + 1) * recurrence.directions):
            mine = [each[place] for each in states]
            outputs, final, trace = _direction(
                kind, layers[place], inputs, mine, lengths, bool(parts), None if done is None else done[place]
            )
            parts.append(outputs)
            finals.append(final)
            traces.append(trace)
        inputs = tf.concat(parts, -1) if recurrence.bidirectional else parts[0]
        if layer < recurrence.num_layers - 1:
            inputs = ops.dropout(inputs, recurrence.dropout)
    return [inputs, *(tf.stack(each) for each in zip(*finals, strict=True))], traces


def _direction(
    kind: Kind,
    weights: Sequence[Tensor],
    inputs: Tensor,
    states: list[Tensor],
    lengths: Tensor | None,
    backward: bool,
    done: Trace | None,
) -> tuple[Tensor, list[Tensor], Trace]:
    """Return the outputs of one layer in one direction, in the order of time, its last states and its trace."""
    mask = None
    if lengths is not None:
        mask = _OPERATIONS.steps_before(lengths, tf.shape(inputs)[0])[..., None]
    inputs = _OPERATIONS.reverse(inputs, lengths) if backward else inputs
    outputs, finals, trace = sweep(kind.recurrence.mode, weights, inputs, states, mask, kind.keep, done)
    outputs = outputs if mask is None else tf.where(mask, outputs, tf.zeros([], outputs.dtype))
    return _OPERATIONS.reverse(outputs, lengths) if backward else outputs, finals, trace


def _by_four(arrays: list[Tensor]) -> list[list[Tensor]]:
    return [arrays[start : start + 4] for start in range(0, len(arrays), 4)]

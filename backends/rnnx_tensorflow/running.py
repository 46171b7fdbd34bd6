"""A cell tree as `RNNLayer` runs it: on weights that it is given, with states that have the batch first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from rnnx.backend import Call
from rnnx.cells import BaseRNNCell
from rnnx.cells.arguments import checked_states
from rnnx.errors import BackendMismatchError, UnsupportedError
from rnnx.ops import Ops, call_seeds
from rnnx.plan import Plan, Planner
from rnnx_tensorflow.backend import TensorFlowBackend
from rnnx_tensorflow.last import Columns, columns_of, last_output

__all__ = ["Running"]

Tensor = Any

_BACKEND = TensorFlowBackend()


class Running:
    """Runs a tree. It is no object of Keras, so that Keras tracks and saves nothing of what it has.

    Parameters
    ----------
    cell : BaseRNNCell
        The tree; its own weights are not looked at.
    fuse : bool
        False steps through time whatever a kernel could run.

    Attributes
    ----------
    state_shapes : list of tuple of int
        Shapes of the states with the batch first, as Keras has it, and 0 for its size.
    states : list of Variable or None
        What a stateful layer carries from batch to batch.
    """

    def __init__(self, cell: BaseRNNCell, fuse: bool) -> None:
        self.cell, self.fuse = cell, fuse
        shapes = cell.state_shape
        if any(0 not in shape for shape in shapes):
            raise UnsupportedError(f"{type(cell).__name__} has a state without a batch axis, where Keras needs one")
        self._batch_axes = [shape.index(0) for shape in shapes]
        self.state_shapes = [_exchanged(shape, axis) for shape, axis in zip(shapes, self._batch_axes, strict=True)]
        self.states: list[Any] | None = None
        self._plans: dict[tuple[Call, int], Plan] = {}

    def columns(self, input_size: int) -> Columns:
        """Return which columns of the outputs run forward and which backward, for inputs of a width."""
        return columns_of(self.cell, [(input_size, False)])

    def plan(self, inputs: Tensor, training: bool, masked: bool) -> Plan:
        """Return the plan of a call with such inputs; made once, but in graphs, which may be XLA's or not."""
        call = Call(_BACKEND.dtype(inputs), _BACKEND.device(inputs), training, masked)
        width = inputs.shape[-1]
        if not tf.executing_eagerly():
            return self._planned(call, width)
        if (call, width) not in self._plans:
            self._plans[call, width] = self._planned(call, width)
        return self._plans[call, width]

    def _planned(self, call: Call, input_size: int) -> Plan:
        return Plan(_BACKEND, call, self.cell.stage(Planner(_BACKEND, call, self.fuse), input_size))

    def __call__(
        self,
        weights: Mapping[str, Tensor],
        inputs: Tensor,
        states: Sequence[Tensor] | None,
        valid_length: Tensor | None,
        key: Tensor | None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the tree.

        Parameters
        ----------
        weights : mapping of str to tensor
            By name, in the dtype of the inputs.
        inputs : tensor
            (N, T, I).
        states : sequence of tensor or None
            As `state_shapes` says; None for zeros.
        valid_length : tensor or None
            (N,), the steps of each row that count.
        key : tensor or None
            In training two numbers, of which dropout and zoneout draw what no other two give; None in inference.

        Returns
        -------
        outputs : tensor
            (T, N, C).
        states : list of tensor
            As `state_shapes` says.
        """
        _check_dtypes(weights, inputs)
        plan = self.plan(inputs, key is not None, valid_length is not None)
        inputs = tf.transpose(inputs, [1, 0, 2])
        begin = checked_states(_BACKEND, states, self.state_shapes, inputs, "initial_state", 1)
        drawing = (iter(()),) if key is None else call_seeds(_BACKEND, _of_replica(key))
        ops = Ops(_BACKEND, key is not None, *drawing)
        outputs, final = plan.run(ops, weights, inputs, self._exchanged(begin), valid_length)
        return outputs, self._exchanged(final)

    def last(self, outputs: Tensor, valid_length: Tensor | None, input_size: int) -> Tensor:
        """Return (N, C), the last outputs, of those (T, N, C) of all steps."""
        return last_output(outputs, valid_length, self.columns(input_size))

    def _exchanged(self, states: Sequence[Tensor]) -> list[Tensor]:
        """Return the states with the batch first where they stood as the tree has them, and the reverse."""
        pairs = zip(states, self._batch_axes, strict=True)
        return [_BACKEND.swapaxes(state, 0, axis) if axis else state for state, axis in pairs]


def _of_replica(key: Tensor) -> Tensor:
    """Return a key that no other replica of a strategy has, whose seed generators are all alike."""
    replica = tf.distribute.get_replica_context()
    if replica is None:
        return key
    return key + tf.stack([tf.cast(replica.replica_id_in_sync_group, key.dtype) * (1 << 32), tf.zeros([], key.dtype)])


def _check_dtypes(weights: Mapping[str, Tensor], inputs: Tensor) -> None:
    for name, weight in weights.items():
        if weight.dtype != inputs.dtype:
            raise BackendMismatchError(
                f"weight {name!r} is {_BACKEND.dtype(weight)} in this call and the inputs are "
                f"{_BACKEND.dtype(inputs)}: convert the inputs, or give the layer another dtype="
            )


def _exchanged(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    sizes = list(shape)
    sizes[0], sizes[axis] = sizes[axis], sizes[0]
    return tuple(sizes)

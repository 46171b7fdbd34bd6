"""`RNNLayer`: a `keras.layers.Layer` over a cell tree.

The layer's weights are the tree's, and a call runs the tree's plan on them. What a call takes from Keras it takes as
``keras.layers.RNN`` does: the mask, whether dropout acts, the states, the dtype policy, and what is dropped from a
`keras.random.SeedGenerator`.

Sources: ``keras/src/layers/rnn/rnn.py``, ``keras/src/layers/layer.py`` and ``keras/src/random/seed_generator.py``.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from rnnx.cells import BaseRNNCell, placement, sizes
from rnnx.cells.arguments import flat
from rnnx.errors import ShapeError, UnsupportedError
from rnnx.params import Parameter
from rnnx.plan import Plan
from rnnx.registry import backend_of
from rnnx.spec import CellSpec
from rnnx_tensorflow.masks import valid_length_of
from rnnx_tensorflow.running import Running

__all__ = ["RNNLayer"]

Tensor = Any
Shape = tuple[int | None, ...]

_UNKNOWN_WIDTH = "inputs have shape {}: the last size, their width, has to be known"


@keras.saving.register_keras_serializable(package="rnnx")
class RNNLayer(keras.layers.Layer):  # type: ignore[misc]
    """A cell tree as a layer of Keras.

    Its weights are the tree's, under the weights' own names; the first call makes them. The cell then has the layer's
    variables for its weights: what trains one trains the other. A weight that two cells share is one variable.

    Parameters
    ----------
    cell : BaseRNNCell
        The tree. Weights that it has are kept; otherwise new ones are drawn with MXNet's initial values from Python's
        generator, as Keras draws its seeds: ``keras.utils.set_random_seed`` repeats them.
    return_sequences : bool
        Whether to return the outputs of all steps, or the last of each row: of cells that run backward, as in
        ``keras.layers.Bidirectional``, that is the first step.
    return_state : bool
        Whether to return the final states as well.
    stateful : bool
        Whether a call begins with the states in which the last one ended.
    seed : int, optional
        Of what dropout and zoneout draw.
    fuse : bool
        False steps through time whatever a kernel could run.
    **options
        Of every layer: ``name``, ``trainable``, ``dtype``. Without ``dtype`` it is that of the weights that the cell
        has, unless the global policy's variables have it, too.

    Raises
    ------
    UnsupportedError
        If Keras does not run on TensorFlow, or `cell` is not a cell tree, or has a weight or state that Keras can not
        have.
    """

    def __init__(
        self,
        cell: BaseRNNCell,
        return_sequences: bool = False,
        return_state: bool = False,
        stateful: bool = False,
        seed: int | None = None,
        fuse: bool = True,
        **options: Any,
    ) -> None:
        _require_tensorflow()
        _require_tree(cell)
        if options.get("dtype") is None:
            options["dtype"] = _dtype_of_weights(cell)
        super().__init__(**options)
        self.return_sequences, self.return_state, self.stateful = return_sequences, return_state, stateful
        self.seed, self.fuse = seed, fuse
        self.supports_masking = True
        self.supports_jit = not tf.config.list_physical_devices("GPU")  # cuDNN's operations are not XLA's
        self.input_spec = keras.layers.InputSpec(ndim=3)
        self.seed_generator = keras.random.SeedGenerator(seed)
        self._running = Running(cell, fuse)
        self._names: tuple[str, ...] = ()
        self._variables: list[Any] = []

    # -- weights --------------------------------------------------------------------------------------------------

    @property
    def cell(self) -> BaseRNNCell:
        """The cell tree, with the layer's variables for its weights."""
        self._share()
        return self._running.cell

    def build(self, sequences_shape: Shape, initial_state_shape: Any = None) -> None:
        """Make the variables, for inputs of a shape (N, T, I).

        Raises
        ------
        ShapeError
            If I is not known, or N of a stateful layer.
        WeightFormatError
            If the cell has weights for inputs of another width.
        """
        batch, _, width = sequences_shape
        if width is None:
            raise ShapeError(_UNKNOWN_WIDTH.format(tuple(sequences_shape)))
        found = {}
        for leaf, size in self._running.cell.sized_leaves(width):
            for parameter in leaf.own_parameters():
                if parameter.name not in found:
                    found[parameter.name] = self._add(parameter, size)
        self._names, self._variables = tuple(found), list(found.values())
        self._share()
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={-1: width})
        if self.stateful:
            self._remember(batch)

    def _add(self, parameter: Parameter, input_size: int) -> Any:
        """Return a new variable with the parameter's value, or a first one."""
        if parameter.value is None:
            first = functools.partial(_drawn, parameter, random.randint(1, 10**9))
        else:
            parameter.check(tuple(parameter.value.shape), input_size)
            with tf.init_scope():  # a model may be built within a tf.function
                first = functools.partial(_kept, backend_of([parameter.value]).to_numpy(parameter.value))
        return self.add_weight(shape=parameter.shape(input_size), initializer=first, name=parameter.name)

    def _share(self) -> None:
        known = placement.parameters(self._running.cell)
        for name, variable in zip(self._names, self._variables, strict=True):
            # Not `value`, which is another tensor where a policy casts; None where Keras makes it later.
            if variable._value is not None:
                known[name].value = variable._value

    # -- calls ----------------------------------------------------------------------------------------------------

    def call(
        self,
        sequences: Tensor,
        initial_state: Any = None,
        mask: Tensor | None = None,
        training: bool = False,
        sequences_mask: Tensor | None = None,
    ) -> Any:
        """Run the tree over a sequence.

        Parameters
        ----------
        sequences : tensor
            (N, T, I).
        initial_state : tensor or nested list of tensor, optional
            In the order of the cell's `state_info`, or another call's final states; the batch is the first axis, also
            of a fused cell's, which are (N, L * D, H) here. Zeros otherwise, or what a stateful layer remembers.
        mask : tensor of bool, optional
            (N, T), the steps that count: the first so many of each row.
        training : bool
            Whether dropout and zoneout act.
        sequences_mask : tensor of bool, optional
            The same; where there are initial states, Keras passes on the mask of the inputs by this name.

        Returns
        -------
        outputs : tensor
            (N, T, C), zero past a row's last step that counts; without `return_sequences` (N, C).
        *states : tensor
            With `return_state`, every final state of the tree.
        """
        mask = sequences_mask if mask is None else mask
        valid_length = None if mask is None else valid_length_of(mask, sequences)
        weights = {name: tf.convert_to_tensor(each.value) for name, each in self._held()}
        key = self.seed_generator.next() if training else None
        outputs, states = self._running(weights, sequences, self._begin(initial_state), valid_length, key)
        if self.states is not None:
            for variable, state in zip(self.states, states, strict=True):
                variable.assign(state)
        if self.return_sequences:
            outputs = tf.transpose(outputs, [1, 0, 2])
        else:
            outputs = self._running.last(outputs, valid_length, sequences.shape[-1])
        return (outputs, *states) if self.return_state else outputs

    def compute_output_shape(self, sequences_shape: Shape, initial_state_shape: Any = None) -> Any:
        """Return the shape of the outputs, and with `return_state` those of the states."""
        batch, steps, width = sequences_shape
        if width is None:
            raise ShapeError(_UNKNOWN_WIDTH.format(tuple(sequences_shape)))
        columns = sum(size for size, _ in self._running.columns(width))
        outputs = (batch, steps, columns) if self.return_sequences else (batch, columns)
        states = [sizes.filled(shape, batch) for shape in self._running.state_shapes]
        return (outputs, *states) if self.return_state else outputs

    def compute_mask(self, sequences: Any, previous_mask: Any) -> Any:
        """Return the mask of the outputs: that of the inputs with `return_sequences`, and none otherwise."""
        mask = previous_mask if self.return_sequences else None
        return [mask, *(None for _ in self._running.state_shapes)] if self.return_state else mask

    def explain(self, sequences: Tensor, mask: Tensor | None = None, training: bool = False) -> Plan:
        """Return the plan that a call with such inputs runs here; see `rnnx.BaseRNNCell.explain`."""
        sequences = tf.cast(tf.convert_to_tensor(sequences), self.compute_dtype)
        return self._running.plan(sequences, training, mask is not None)

    def _held(self) -> Iterator[tuple[str, Any]]:
        """Yield each weight's name and its variable."""
        return zip(self._names, self._variables, strict=True)

    def _begin(self, given: Any) -> list[Tensor] | None:
        """Return the states that a call begins with, in the dtype in which it computes."""
        if given is None:
            given = self.states
        if given is None:
            return None
        nested = given if isinstance(given, list | tuple) else [given]
        return [tf.cast(tf.convert_to_tensor(state), self.compute_dtype) for state in flat(nested)]

    # -- states that are remembered -------------------------------------------------------------------------------

    @property
    def states(self) -> list[Any] | None:
        """The variables in which a stateful layer remembers its states, once it is built; None of another."""
        return self._running.states

    def reset_state(self) -> None:
        """Make a stateful layer begin with zeros again."""
        for variable in self.states or ():
            variable.assign(tf.zeros(variable.shape, variable.dtype))

    def reset_states(self) -> None:
        """Do as `reset_state`; the layers of Keras have both names."""
        self.reset_state()

    def _remember(self, batch: int | None) -> None:
        if batch is None:
            raise ShapeError(
                f"the stateful layer {self.name!r} has to know the size of its batches: give Input a batch_shape or "
                "batch_size"
            )
        shapes = [sizes.filled(shape, batch) for shape in self._running.state_shapes]
        self._running.states = [
            keras.Variable(tf.zeros(shape, self.variable_dtype), trainable=False, name="rnn_state") for shape in shapes
        ]

    # -- description ----------------------------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Return what makes the layer anew: the cell tree by its spec."""
        return {
            **super().get_config(),
            "cell": self._running.cell.spec.to_dict(),
            "return_sequences": self.return_sequences,
            "return_state": self.return_state,
            "stateful": self.stateful,
            "seed": self.seed,
            "fuse": self.fuse,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> RNNLayer:
        """Return the layer that a config describes.

        Raises
        ------
        UnsupportedError
            If the tree has a cell of a class that is not rnnx's own: a file never causes code to be imported. Build the
            layer of such a tree yourself, and load its weights; or override this in a class of your own.
        """
        cell = BaseRNNCell.from_spec(CellSpec.from_dict(config["cell"]))
        return cls(**{**config, "cell": cell})


def _drawn(parameter: Parameter, seed: int, shape: Sequence[int], dtype: str) -> Tensor:
    """Return a weight's first value, the same for the same seed."""
    return tf.constant(placement.cast(parameter.init(np.random.default_rng(seed), tuple(shape)), dtype))


def _kept(value: Any, shape: Sequence[int], dtype: str) -> Tensor:
    return tf.constant(placement.cast(value, dtype))


def _dtype_of_weights(cell: BaseRNNCell) -> str | None:
    """Return the dtype of the weights that the cell has, or None where the global policy has it, or it has none."""
    backend = placement.backend_of_weights(cell)
    if backend is None:
        return None
    dtype = next(backend.dtype(value) for value in placement.values(cell).values() if value is not None)
    return None if keras.config.dtype_policy().variable_dtype == dtype else dtype


def _require_tensorflow() -> None:
    if keras.config.backend() != "tensorflow":
        raise UnsupportedError(
            f"RNNLayer runs on TensorFlow, and Keras here runs on {keras.config.backend()!r}: set "
            "KERAS_BACKEND=tensorflow in the environment before keras is imported"
        )


def _require_tree(cell: Any) -> None:
    """Raise unless it is a tree with weights that Keras has names for."""
    if not isinstance(cell, BaseRNNCell):
        raise UnsupportedError(
            f"RNNLayer is given a {type(cell).__module__}.{type(cell).__qualname__}, expected a cell tree of rnnx; "
            "rnnx_tensorflow.from_keras makes one of a layer of Keras"
        )
    for name in placement.parameters(cell):
        if "/" in name:
            raise UnsupportedError(f"weight {name!r} has a slash, which no variable of Keras may: give another prefix=")

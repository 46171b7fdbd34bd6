"""Cell trees for the tests of the layer of Keras, layers over them with weights that are all different, and judges.

A test module that imports this is skipped where Keras does not run on TensorFlow.
"""

from __future__ import annotations

import copy
import os
from typing import Any

import numpy as np
import pytest

import networks
import rnnx
from networks import sequential

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
keras = pytest.importorskip("keras", reason="Keras is not installed")
if keras.config.backend() != "tensorflow":
    pytest.skip("Keras runs on another backend", allow_module_level=True)

from rnnx_tensorflow import RNNLayer  # noqa: E402 - it needs TensorFlow

#: The marks of a module: what TensorFlow and Keras warn of that is not rnnx's.
THEIR_WARNINGS = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(keras|tensorflow|google).*"),
    pytest.mark.filterwarnings("ignore:.*__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

BATCH, STEPS, WIDTH, HIDDEN = 4, 5, 3, 4
LENGTHS = np.array(networks.RAGGED)
MASK = np.arange(STEPS) < LENGTHS[:, None]


def fused(mode: str = "lstm", dropout: float = 0.3, **options: Any) -> rnnx.BaseRNNCell:
    return rnnx.FusedRNNCell(HIDDEN, 2, mode, True, dropout, True, **options)


def zoned() -> rnnx.BaseRNNCell:
    """What steps, with a draw at each step, under a residual and two directions."""
    return sequential(
        rnnx.ZoneoutCell(rnnx.GRUCell(HIDDEN, "zoned_", reset_after=False), 0.4, 0.3),
        rnnx.ResidualCell(rnnx.LSTMCell(HIDDEN, "encoder.added_")),
        rnnx.DropoutCell(0.2),
        rnnx.BidirectionalCell(rnnx.RNNCell(2, "softsign", "ahead_"), rnnx.GRUCell(3, "back_")),
    )


def own() -> rnnx.BaseRNNCell:
    return sequential(networks.Accumulator(2), rnnx.DropoutCell(0.4), networks.PeepholeLSTM(HIDDEN))


#: Trees of rnnx's own cells, which a config describes.
DESCRIBED = {
    **{mode: lambda mode=mode: fused(mode) for mode in networks.FUSED_MODES},
    "plain": lambda: rnnx.LSTMCell(HIDDEN),
    "zoned": zoned,
}
TREES = {**DESCRIBED, "own": own}


def weighted(cell: rnnx.BaseRNNCell, dtype: str = "float64") -> rnnx.BaseRNNCell:
    """The cell with every element of every weight different, and none zero."""
    return networks.randomized(cell, WIDTH, dtype, scale=0.7)


def layer_of(cell: rnnx.BaseRNNCell, has: str = "float64", **options: Any) -> RNNLayer:
    """A layer whose weights are all different, of the dtype that the cell has unless another is asked for."""
    return RNNLayer(weighted(cell, has), **options)


def inputs_of(dtype: str = "float64", steps: int = STEPS, batch: int = BATCH) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(batch, steps, WIDTH)).astype(dtype)


def padded(dtype: str = "float64") -> np.ndarray:
    """Inputs that are zero where they do not count, and nowhere else."""
    return inputs_of(dtype) * MASK[..., None].astype(dtype)


def unrolled(cell: rnnx.BaseRNNCell, inputs: np.ndarray, **options: Any) -> tuple[np.ndarray, list[Any]]:
    """What a cell makes of inputs on NumPy, wherever its weights are."""
    here = copy.deepcopy(cell)
    if here.get_params():
        here.to("numpy")
    return here.unroll(None, inputs, merge_outputs=True, **options)


def copied(layer: RNNLayer) -> RNNLayer:
    """Another layer, with the same weights and a seed generator of its own."""
    other = RNNLayer.from_config(layer.get_config())
    other.build((None, None, WIDTH))
    other.set_weights(layer.get_weights())
    return other


def gradients(layer: RNNLayer, inputs: Any, **options: Any) -> list[np.ndarray]:
    """Of the sum of the squares of all outputs with respect to the weights."""
    with tf.GradientTape() as tape:
        found = tf.nest.flatten(layer(inputs, **options))
        loss = tf.add_n([tf.reduce_sum(tf.square(tf.cast(each, "float64"))) for each in found])
    return [np.asarray(each) for each in tape.gradient(loss, layer.trainable_variables)]


def keras_layer(cell: rnnx.BaseRNNCell, **options: Any) -> keras.layers.Layer:
    """The layer of Keras that is equal to a plain cell; gates and biases put in its order by hand."""
    weights = {name.removeprefix(cell.spec.fields["prefix"]): array for name, array in cell.get_params().items()}
    hidden = cell.spec.fields["num_hidden"]
    options = {"dtype": "float64", **options}
    if isinstance(cell, rnnx.GRUCell):
        layer = keras.layers.GRU(hidden, reset_after=True, **options)
        order = np.concatenate([np.arange(hidden) + gate * hidden for gate in (1, 0, 2)])  # r, z, o become z, r, h
        bias = np.stack([weights["i2h_bias"][order], weights["h2h_bias"][order]])
    else:
        kind = keras.layers.LSTM if isinstance(cell, rnnx.LSTMCell) else keras.layers.SimpleRNN
        layer, order = kind(hidden, **options), slice(None)
        bias = weights["i2h_bias"] + weights["h2h_bias"]
    layer.build((BATCH, None, WIDTH))
    layer.set_weights([weights["i2h_weight"][order].T, weights["h2h_weight"][order].T, bias])
    return layer


def batch_first(cell: rnnx.BaseRNNCell, states: Any) -> list[np.ndarray]:
    """A tree's states, however nested, as the layer has them."""
    flat = networks.leaves(states)
    return [np.swapaxes(state, 0, shape.index(0)) for state, shape in zip(flat, cell.state_shape, strict=True)]


def begin_of(cell: rnnx.BaseRNNCell, seed: int = 1) -> list[np.ndarray]:
    """Random states as the tree has them."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=[size or BATCH for size in shape]) for shape in cell.state_shape]


def model_of(*layers: Any, batch: int | None = None, steps: int | None = None) -> Any:
    return keras.Sequential([keras.Input(batch_shape=(batch, steps, WIDTH), dtype="float64"), *layers])


def assert_close(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    networks.assert_all_close(
        [np.asarray(each) for each in tf.nest.flatten(found)],
        [np.asarray(each) for each in tf.nest.flatten(expected)],
        tolerance,
    )

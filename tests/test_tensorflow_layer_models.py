"""`rnnx_tensorflow.RNNLayer` within models of Keras: trained, compiled and saved."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import networks
import rnnx
from kerased import (
    BATCH,
    DESCRIBED,
    HIDDEN,
    LENGTHS,
    STEPS,
    THEIR_WARNINGS,
    TREES,
    WIDTH,
    assert_close,
    fused,
    inputs_of,
    keras,
    keras_layer,
    layer_of,
    model_of,
    own,
    padded,
    tf,
    unrolled,
    weighted,
    zoned,
)
from rnnx_tensorflow import RNNLayer

pytestmark = THEIR_WARNINGS

L = keras.layers

#: Rows that have a step: of others Keras's own layers give something else, and its means over steps are not numbers.
FULL = np.flatnonzero(LENGTHS)

#: How Keras runs a model.
WAYS: dict[str, dict[str, Any]] = {
    "graph": {"jit_compile": False},
    "eager": {"run_eagerly": True},
    "xla": {"jit_compile": True},
}


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_fit_learns_what_keras_learns(way):
    cell = weighted(rnnx.GRUCell(HIDDEN))
    targets = np.random.default_rng(1).normal(size=(BATCH, HIDDEN))
    losses = []
    for layer in (keras_layer(cell), RNNLayer(cell)):
        model = model_of(L.Masking(dtype="float64"), layer)
        model.compile(keras.optimizers.SGD(0.5), "mse", **WAYS[way])
        history = model.fit(padded()[FULL], targets[FULL], epochs=4, batch_size=2, shuffle=False, verbose=0)
        losses.append(history.history["loss"])
    assert_close(losses[1], losses[0], 1e-5)
    assert losses[0][-1] < 0.9 * losses[0][0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["lstm", "gru", "zoned", "own"])
def test_fit_trains_every_tree_in_every_way(name, way):
    layers = [layer_of(TREES[name](), return_sequences=True, seed=2), L.GlobalAveragePooling1D(dtype="float64")]
    model = model_of(L.Masking(dtype="float64"), *layers)
    model.compile(keras.optimizers.SGD(0.1), "mse", **WAYS[way])
    data = padded()[FULL], np.ones((len(FULL), model.output_shape[-1]))
    before, loss = model.get_weights(), model.evaluate(*data, verbose=0)
    model.fit(*data, epochs=5, shuffle=False, verbose=0)
    assert model.evaluate(*data, verbose=0) < loss
    assert all(not np.array_equal(one, other) for one, other in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize("name", ["lstm", "zoned", "own"])
def test_every_way_has_the_same_gradients_with_the_same_draws(name):
    results = []
    for options in ({}, {"jit_compile": False}, {"jit_compile": True}):
        layer = layer_of(TREES[name](), return_sequences=True, seed=5)
        run = lambda inputs, layer=layer: gradients_in_graph(layer, inputs)  # noqa: E731
        results.append((tf.function(run, **options) if options else run)(tf.constant(inputs_of())))
    assert_close(results[1], results[0], 1e-11)
    assert_close(results[2], results[0], 1e-11)


def gradients_in_graph(layer: RNNLayer, inputs: Any) -> list[Any]:
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(layer(inputs, training=True)))
    return tape.gradient(loss, layer.trainable_variables)


def test_an_optimiser_under_mixed_precision_trains_the_weights():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        layer = layer_of(fused(), "float32", return_sequences=True)
        model = keras.Sequential([L.Input((None, WIDTH)), layer, L.Dense(1, dtype="float32")])
        model.compile("adam", "mse")
    finally:
        keras.config.set_dtype_policy("float32")
    before = layer.get_weights()[0]
    model.fit(inputs_of("float32"), np.ones((BATCH, STEPS, 1)), epochs=2, verbose=0)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert layer.get_weights()[0].dtype == np.float32
    assert not np.array_equal(before, layer.get_weights()[0])


def test_a_frozen_layer_stays_as_it_is():
    layer = layer_of(fused(), return_sequences=True)
    layer.trainable = False
    model = model_of(layer, L.Dense(1, dtype="float64"))
    model.compile("sgd", "mse")
    before = layer.get_weights()[0]
    model.fit(inputs_of(), np.ones((BATCH, STEPS, 1)), verbose=0)
    np.testing.assert_array_equal(before, layer.get_weights()[0])
    assert [weight.path for weight in model.trainable_weights] == [weight.path for weight in model.layers[-1].weights]


def test_stateless_calls_leave_the_weights_alone():
    layer = layer_of(zoned(), return_sequences=True, seed=1)
    layer.build((None, None, WIDTH))
    doubled = [2 * each.value for each in layer.trainable_variables]
    seeds = [each.value + 0 for each in layer.non_trainable_variables]
    first, after = layer.stateless_call(doubled, seeds, inputs_of(), training=True)
    again, _ = layer.stateless_call(doubled, seeds, inputs_of(), training=True)
    other, _ = layer.stateless_call(doubled, after, inputs_of(), training=True)
    assert_close(first, again, 0)
    assert not np.allclose(first, other)
    layer.set_weights(doubled)
    assert_close(layer(inputs_of(), training=True), first, 0)


# -- models -----------------------------------------------------------------------------------------------------------


class Tagger(keras.Model):
    """A subclassed model, whose layers are built when it is first called."""

    def __init__(self, cell: rnnx.BaseRNNCell) -> None:
        super().__init__(dtype="float64")
        self.recurrent = RNNLayer(cell, return_sequences=True, return_state=True, dtype="float64")
        self.readout = L.Dense(2, dtype="float64")

    def call(self, inputs, training=False):
        outputs, *states = self.recurrent(inputs, training=training)
        return self.readout(outputs), states


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("has", [True, False], ids=["kept", "drawn"])
def test_a_subclassed_model_is_built_in_its_first_call(has, graph):
    cell = weighted(fused()) if has else fused()
    model = Tagger(cell)
    run = tf.function(model) if graph else model
    outputs, states = run(tf.constant(inputs_of()))
    assert outputs.shape == (BATCH, STEPS, 2)
    expected, expected_states = unrolled(model.recurrent.cell, inputs_of())
    assert_close(outputs, expected @ model.readout.kernel.numpy() + model.readout.bias.numpy())
    assert_close(states, [np.swapaxes(each, 0, 1) for each in expected_states])
    assert cell.params["lstm_parameters"] is model.recurrent.weights[0].value


@pytest.mark.parametrize("xla", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("name", ["gru", "own"])
def test_one_graph_serves_every_batch_and_length(name, xla):
    traces, layer = [], layer_of(TREES[name](), return_sequences=True)
    model = model_of(layer)

    @tf.function(input_signature=[tf.TensorSpec((None, None, WIDTH), tf.float64)], jit_compile=xla)
    def run(inputs):
        traces.append(1)
        return model(inputs)

    for batch, steps in ((BATCH, STEPS), (1, 9), (3, 1)):
        inputs = inputs_of(steps=steps, batch=batch)
        assert_close(run(tf.constant(inputs)), unrolled(layer.cell, inputs)[0])
    assert len(traces) == 1


def test_predict_joins_the_batches_of_outputs_and_states():
    layer = layer_of(fused(), return_sequences=True, return_state=True)
    found = model_of(layer).predict(inputs_of(), batch_size=3, verbose=0)
    assert_close(found, layer(inputs_of("float32")), 1e-12)
    assert [each.shape[0] for each in found] == [BATCH] * 3


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_config_has_all_of_a_layer_but_its_weights(name):
    layer = layer_of(DESCRIBED[name](), return_sequences=True, return_state=True, seed=4, fuse=False, name="encoder")
    layer(inputs_of())
    config = json.loads(json.dumps(layer.get_config()))
    other = RNNLayer.from_config(config)
    assert other.get_config() == layer.get_config()
    assert other.cell.spec == layer.cell.spec
    assert (other.name, other.dtype_policy.name, other.seed, other.fuse) == ("encoder", "float64", 4, False)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    again.set_weights(layer.get_weights())
    assert_close(again(inputs_of()), layer(inputs_of()), 0)
    assert keras.saving.get_registered_name(RNNLayer) == "rnnx>RNNLayer"


@pytest.mark.parametrize("name", DESCRIBED)
def test_models_are_saved_and_loaded(name, tmp_path):
    model = model_of(L.Masking(dtype="float64"), layer_of(DESCRIBED[name](), return_sequences=True))
    model.compile("adam", "mse")
    model.fit(padded(), np.ones((BATCH, *model(padded()).shape[1:])), verbose=0)
    expected = model(padded())
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_close(loaded(padded()), expected, 0)
    assert [each.name for each in loaded.weights] == [each.name for each in model.weights]

    model.save_weights(tmp_path / "model.weights.h5")
    other = keras.models.clone_model(model)
    other.load_weights(tmp_path / "model.weights.h5")
    assert_close(other(padded()), expected, 0)
    tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))
    other.set_weights([0 * each for each in model.get_weights()])
    tf.train.Checkpoint(model=other).read(str(tmp_path / "checkpoint")).expect_partial()
    assert_close(other(padded()), expected, 0)


def test_a_tree_with_a_cell_of_ones_own_is_not_built_from_a_file(tmp_path):
    model = model_of(layer_of(own()))
    model.save(tmp_path / "model.keras")
    with pytest.raises(rnnx.UnsupportedError, match="holds 'networks:Accumulator', a cell class of the user's own"):
        keras.models.load_model(tmp_path / "model.keras")
    other = model_of(RNNLayer(own(), dtype="float64"))
    other.load_weights(tmp_path / "model.keras")
    assert_close(other(inputs_of()), model(inputs_of()), 0)
    squared = RNNLayer(rnnx.RNNCell(3, tf.square))
    assert squared(inputs_of("float32")).shape == (BATCH, 3)
    with pytest.raises(rnnx.UnsupportedError, match="is a function, which a description cannot hold"):
        squared.get_config()


@keras.saving.register_keras_serializable("tests")
class PeepholeLayer(RNNLayer):
    """How one's own cell is saved: by a layer of one's own."""

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(networks.PeepholeLSTM(units), **options)
        self.units = units

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["cell"]
        return {**config, "units": self.units}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def test_a_layer_of_ones_own_saves_a_cell_of_ones_own(tmp_path):
    model = model_of(PeepholeLayer(HIDDEN, dtype="float64"))
    model.save(tmp_path / "model.keras")
    assert_close(keras.models.load_model(tmp_path / "model.keras")(inputs_of()), model(inputs_of()), 0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"kind": "GRUCell"}, rnnx.WeightFormatError, "GRUCell has no field 'forget_bias'"),
        ({"kind": "os:system"}, rnnx.UnsupportedError, "a file never causes code to be imported"),
        ({"num_hidden": "4"}, rnnx.WeightFormatError, "'num_hidden' should be int, found '4'"),
    ],
)
def test_configs_that_do_not_describe_a_tree_are_refused(change, error, message):
    config = layer_of(rnnx.LSTMCell(HIDDEN)).get_config()
    config["cell"] |= change
    with pytest.raises(error, match=message):
        RNNLayer.from_config(config)

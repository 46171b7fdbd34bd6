"""The weights of `rnnx_tensorflow.RNNLayer`, their dtypes, the shapes of what it returns, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import networks
import rnnx
from kerased import (
    BATCH,
    HIDDEN,
    LENGTHS,
    MASK,
    STEPS,
    THEIR_WARNINGS,
    TREES,
    WIDTH,
    assert_close,
    batch_first,
    begin_of,
    copied,
    fused,
    gradients,
    inputs_of,
    keras,
    layer_of,
    tf,
    unrolled,
    weighted,
)
from networks import sequential
from rnnx_tensorflow import RNNLayer

pytestmark = THEIR_WARNINGS

L = keras.layers

# -- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TREES)
def test_weights_have_their_own_names_and_every_bit(name):
    cell = weighted(TREES[name]())
    before = cell.get_params()
    layer = RNNLayer(cell, name="encoder")
    layer.build((None, None, WIDTH))
    assert [weight.path for weight in layer.weights] == [f"encoder/{name}" for name in before]
    networks.same_bits(before, {weight.name: weight.numpy() for weight in layer.weights})
    assert layer.count_params() == sum(array.size for array in before.values())
    networks.same_bits(before, layer.cell.get_params())


def test_what_trains_the_layer_trains_the_cell(tmp_path):
    cell = weighted(fused())
    before, layer = cell.get_params(), RNNLayer(cell, return_sequences=True)
    model = keras.Sequential([L.Input((None, WIDTH), dtype="float64"), layer])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(inputs_of(), np.ones((BATCH, STEPS, 2 * HIDDEN)), epochs=2, verbose=0)
    assert not np.array_equal(before["lstm_parameters"], layer.get_weights()[0])
    networks.same_bits(cell.get_params(), {weight.name: weight.numpy() for weight in layer.weights})
    assert_close(cell.unroll(None, tf.constant(inputs_of()))[0], layer(inputs_of()))
    rnnx.save(tmp_path / "cell.rnnx", cell)
    again, _ = rnnx.load(tmp_path / "cell.rnnx", backend="tensorflow")
    assert_close(again.unroll(None, tf.constant(inputs_of()))[0], layer(inputs_of()), 0)

    cell.load_params({"lstm_parameters": np.ones_like(before["lstm_parameters"])})
    assert_close(layer.cell.get_params()["lstm_parameters"], layer.get_weights()[0], 0)


def test_weights_that_cells_share_are_one_variable():
    params = rnnx.LSTMCell(WIDTH, "a_").params
    layer = layer_of(sequential(*(rnnx.LSTMCell(WIDTH, "a_", params) for _ in range(2))), return_sequences=True)
    expected, _ = unrolled(layer.cell, inputs_of())
    assert_close(layer(inputs_of()), expected)
    assert len(layer.weights) == 4
    assert len(copied(layer).weights) == 4


def test_first_values_are_those_of_mxnet():
    layer = RNNLayer(sequential(rnnx.LSTMCell(HIDDEN, "a_"), rnnx.FusedRNNCell(2, 1, "gru")))
    layer.build((None, None, WIDTH))
    weights = layer.cell.get_params()
    assert weights["a_i2h_weight"].dtype == np.float32
    assert 0 < np.abs(weights["a_i2h_weight"]).max() <= 0.01
    np.testing.assert_array_equal(weights["a_i2h_bias"], np.repeat([0, 1, 0, 0], HIDDEN).astype(np.float32))
    assert not weights["a_h2h_bias"].any()
    assert not np.array_equal(weights["a_i2h_weight"][:, :3], weights["a_h2h_weight"][:, :3])


@pytest.mark.parametrize(
    ("has", "policy", "asked", "variables", "computes"),
    [
        (None, "float32", None, "float32", "float32"),
        ("float64", "float32", None, "float64", "float64"),
        ("float32", "mixed_bfloat16", None, "float32", "bfloat16"),
        ("float64", "float32", "float32", "float32", "float32"),
        ("bfloat16", "float32", None, "bfloat16", "bfloat16"),
        (None, "mixed_float16", None, "float32", "float16"),
    ],
)
def test_the_dtype_is_that_of_the_weights_or_what_is_asked_for(has, policy, asked, variables, computes):
    cell = rnnx.LSTMCell(HIDDEN)
    if has:
        cell.initialize(WIDTH, backend="tensorflow", dtype=has)
    keras.config.set_dtype_policy(policy)
    try:
        layer = RNNLayer(cell, dtype=asked)
        outputs = layer(inputs_of("float32"))
    finally:
        keras.config.set_dtype_policy("float32")
    assert {weight.dtype for weight in layer.weights} == {variables}
    assert outputs.dtype == computes == layer(L.Input((None, WIDTH))).dtype


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_computes_in_16_bits_and_trains_in_32(name, dtype):
    layer = layer_of(TREES[name](), "float32", dtype=f"mixed_{dtype}", return_sequences=True, return_state=True)
    begin = batch_first(layer.cell, begin_of(layer.cell))
    outputs, *states = layer(inputs_of("float32"), initial_state=begin, mask=MASK)
    assert {each.dtype.name for each in [outputs, *states]} == {dtype}
    expected, _ = unrolled(
        layer.cell,
        inputs_of("float32"),
        begin_state=[each.astype("float32") for each in begin_of(layer.cell)],
        valid_length=LENGTHS,
    )
    assert np.abs(np.asarray(outputs, np.float32) - expected).max() < (0.1 if dtype == "bfloat16" else 0.02)
    assert {each.dtype for each in gradients(layer, inputs_of("float32"))} == {np.dtype("float32")}
    assert layer.explain(inputs_of("float32")).call.dtype == dtype


def test_a_layer_that_is_not_trainable_has_no_trainable_weights():
    layer = layer_of(fused(), trainable=False)
    layer(inputs_of(), training=True)
    assert layer.trainable_variables == []
    assert len(layer.weights) == 1
    layer.trainable = True
    assert [weight.name for weight in layer.trainable_weights] == ["lstm_parameters"]


# -- shapes and configs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(None, None), (BATCH, STEPS), (None, STEPS)])
@pytest.mark.parametrize("name", TREES)
def test_symbolic_shapes_are_those_of_the_results(name, sizes):
    for whole in (True, False):
        layer = layer_of(TREES[name](), return_sequences=whole, return_state=True)
        symbolic = layer(L.Input(batch_shape=(*sizes, WIDTH), dtype="float64"))
        shapes = layer.compute_output_shape((*sizes, WIDTH))
        assert [each.shape for each in symbolic] == list(shapes)
        assert {each.dtype for each in symbolic} == {"float64"}
        for shape, result in zip(shapes, layer(inputs_of()), strict=True):
            assert len(shape) == len(result.shape)
            assert all(size in (None, found) for size, found in zip(shape, result.shape, strict=True))
        layer.return_state = False
        spec = layer.compute_output_spec(L.Input((None, WIDTH), dtype="float64"))
        assert spec.shape == (None, *([None] if whole else []), shapes[0][-1])


def test_printing_and_errors_name_the_layer():
    assert repr(layer_of(fused(), name="encoder")) == "<RNNLayer name=encoder, built=False>"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: RNNLayer(L.LSTMCell(3)), rnnx.UnsupportedError, r"a keras\..*LSTMCell, expected a cell tree of rnnx"),
        (lambda: RNNLayer(32), rnnx.UnsupportedError, r"a builtins\.int, expected a cell tree of rnnx"),
        (lambda: RNNLayer(rnnx.LSTMCell(3, "a/b_")), rnnx.UnsupportedError, "'a/b_i2h_weight' has a slash"),
        (
            lambda: layer_of(rnnx.LSTMCell(3)).build((None, None, 7)),
            rnnx.WeightFormatError,
            "for inputs of size 7",
        ),
        (
            lambda: layer_of(rnnx.LSTMCell(3))(L.Input((None, None))),
            rnnx.ShapeError,
            r"inputs have shape \(None, None, None\): the last size",
        ),
        (lambda: layer_of(rnnx.LSTMCell(3))(inputs_of()[0]), ValueError, "expected ndim=3, found ndim=2"),
        (
            lambda: RNNLayer(sequential(rnnx.LSTMCell(3), rnnx.LSTMCell(3))),
            rnnx.RNNXError,
            "two cells of the tree each have a weight",
        ),
        (
            lambda: layer_of(rnnx.LSTMCell(3), autocast=False)(inputs_of("float32")),
            rnnx.BackendMismatchError,
            "'lstm_i2h_weight' is float64 in this call and the inputs are float32",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_inputs_of_another_width_are_refused():
    layer = layer_of(rnnx.LSTMCell(3))
    layer(inputs_of())
    with pytest.raises(ValueError, match="expected axis -1 of input shape to have value 3"):
        layer(np.zeros((BATCH, STEPS, 7)))


def test_keras_on_another_framework_is_refused():
    code = """if True:
        import rnnx
        from rnnx_tensorflow import RNNLayer
        try:
            RNNLayer(rnnx.LSTMCell(3))
        except rnnx.UnsupportedError as error:
            assert "RNNLayer runs on TensorFlow, and Keras here runs on 'jax'" in str(error)
        else:
            raise AssertionError
    """
    pytest.importorskip("jax", reason="JAX is not installed")
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, env=os.environ | {"KERAS_BACKEND": "jax"})

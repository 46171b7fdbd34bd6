"""`rnnx_tensorflow.export` and `from_keras`: Keras's own layers judge what comes out and what goes in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import networks
import rnnx

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
keras = pytest.importorskip("keras", reason="Keras is not installed")
if keras.config.backend() != "tensorflow":
    pytest.skip("Keras runs on another backend", allow_module_level=True)

import rnnx_tensorflow  # noqa: E402 - it needs TensorFlow
from networks import sequential as stack  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(keras|tensorflow|google).*"),
    pytest.mark.filterwarnings("ignore:.*__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

#: Keras says so of every functional model that a mask is given to; the model does pass it on.
MASKED = pytest.mark.filterwarnings("ignore:Layer .* does not support masking:UserWarning")

L = keras.layers
BATCH, STEPS, WIDTH, HIDDEN = 4, 6, 3, 5
LENGTHS = np.array([3, 6, 1, 5])
MASK = np.arange(STEPS) < LENGTHS[:, None]

#: Largest difference of numbers of about 1 that are computed in a dtype.
CLOSE = {"float64": 1e-12, "float32": 1e-5, "float16": 5e-3, "bfloat16": 5e-2}


def inputs_of(dtype: str = "float64", width: int = WIDTH, batch: int = BATCH, steps: int = STEPS) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(batch, steps, width)).astype(dtype)


def weighted(cell: rnnx.BaseRNNCell, dtype: str = "float64", width: int = WIDTH) -> rnnx.BaseRNNCell:
    """The cell with every element of every weight different, and none zero."""
    return networks.randomized(cell, width, dtype, scale=0.7)


def unrolled(cell: rnnx.BaseRNNCell, inputs: np.ndarray | None = None, **options: Any) -> np.ndarray:
    """What a cell makes of inputs on NumPy, whatever backend it is on."""
    copy = rnnx.BaseRNNCell.from_spec(cell.spec)
    copy.load_params(cell.get_params())
    outputs, _ = copy.unroll(None, inputs_of() if inputs is None else inputs, merge_outputs=True, **options)
    return np.asarray(outputs)


def called(model: Any, inputs: np.ndarray | None = None, **options: Any) -> np.ndarray:
    return np.asarray(model(inputs_of() if inputs is None else inputs, **options))


def assert_close(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=0, atol=tolerance)


def classes(model: Any) -> list[str]:
    return [type(layer).__name__ for layer in model.layers if not isinstance(layer, L.InputLayer)]


def pair(make: Callable[..., Any], name: str = "", other: int = HIDDEN) -> rnnx.BaseRNNCell:
    return rnnx.BidirectionalCell(make(HIDDEN, prefix=f"{name}f_"), make(other, prefix=f"{name}b_"))


def deep(*sizes: int, name: str = "") -> rnnx.BaseRNNCell:
    return stack(*(rnnx.LSTMCell(size, f"{name}{number}_") for number, size in enumerate(sizes)))


#: Trees, and the classes of the layers that they become.
TREES: dict[str, tuple[Callable[[], rnnx.BaseRNNCell], list[str]]] = {
    "lstm": (lambda: rnnx.LSTMCell(5), ["LSTM"]),
    "gru": (lambda: rnnx.GRUCell(5), ["GRU"]),
    "gru reset before": (lambda: rnnx.GRUCell(5, reset_after=False), ["GRU"]),
    **{
        name: (lambda name=name: rnnx.RNNCell(5, name), ["SimpleRNN"])
        for name in ("tanh", "relu", "sigmoid", "softrelu", "softsign")
    },
    "fused": (lambda: rnnx.FusedRNNCell(5, 3, "lstm", True, 0.0, True), ["Bidirectional"] * 3),
    "fused dropout": (lambda: rnnx.FusedRNNCell(5, 2, "gru", dropout=0.3), ["GRU", "Dropout", "GRU"]),
    "fused relu": (lambda: rnnx.FusedRNNCell(5, 1, "rnn_relu", True), ["Bidirectional"]),
    "stack": (
        lambda: stack(rnnx.GRUCell(5, "a_"), rnnx.DropoutCell(0.2), rnnx.LSTMCell(4, "b_"), rnnx.DropoutCell(0.4)),
        ["GRU", "Dropout", "LSTM", "Dropout"],
    ),
    "pairs": (lambda: stack(pair(rnnx.LSTMCell, "0"), pair(rnnx.GRUCell, "1")), ["Bidirectional"] * 2),
    "pair of two kinds": (
        lambda: rnnx.BidirectionalCell(rnnx.LSTMCell(5, "f_"), rnnx.RNNCell(5, "relu", "b_")),
        ["Bidirectional"],
    ),
    "pair of stacks": (
        lambda: stack(
            rnnx.BidirectionalCell(deep(4, 5, name="f"), stack(rnnx.GRUCell(2, "b0_"), rnnx.GRUCell(5, "b1_"))),
            rnnx.RNNCell(4, prefix="top_"),
        ),
        ["Bidirectional", "SimpleRNN"],
    ),
    "residual pair": (
        lambda: stack(rnnx.GRUCell(10, "a_"), rnnx.ResidualCell(pair(rnnx.LSTMCell))),
        ["GRU", "Bidirectional", "Add"],
    ),
    "residual": (
        lambda: stack(
            rnnx.LSTMCell(WIDTH, "a_"),
            rnnx.ResidualCell(stack(rnnx.GRUCell(4, "b_"), rnnx.ResidualCell(rnnx.RNNCell(4, prefix="c_")), deep(3))),
        ),
        ["LSTM", "GRU", "SimpleRNN", "Add", "LSTM", "Add"],
    ),
}


#: Trees of whose final states Keras has no list.
UNLIKE = {"pair of two kinds", "pair of stacks"}


@pytest.mark.parametrize("name", TREES)
def test_a_tree_becomes_a_model_of_keras_own_layers(name):
    make, kinds = TREES[name]
    cell = weighted(make())
    model = rnnx_tensorflow.export(cell)
    assert classes(model) == kinds
    assert all(type(layer).__module__.startswith("keras.") for layer in model.layers)
    assert model.input_shape == (None, None, WIDTH)
    for batch, steps in ((BATCH, STEPS), (1, 2)):
        inputs = inputs_of(batch=batch, steps=steps)
        assert_close(called(model, inputs), unrolled(cell, inputs))
    traced = tf.function(model, input_signature=[tf.TensorSpec([None, None, WIDTH], tf.float64)])
    assert_close(traced(tf.constant(inputs_of())), unrolled(cell))


@pytest.mark.parametrize("backend", ["numpy", "tensorflow"])
def test_weights_may_be_on_any_backend_and_are_copied(backend):
    cell = weighted(TREES["stack"][0]()).to(backend)
    before = cell.get_params()
    model = rnnx_tensorflow.export(cell)
    expected = unrolled(cell)
    assert_close(called(model), expected)
    model.set_weights([0 * weight for weight in model.get_weights()])
    networks.same_bits(before, cell.get_params())


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("name", ["fused", "pair of stacks", "residual", "gru"])
def test_every_dtype(name, dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 on NumPy comes from ml_dtypes")
    cell = weighted(TREES[name][0](), "float32")
    expected = unrolled(cell, inputs_of("float32"))
    cell.to("numpy", dtype=dtype)
    model = rnnx_tensorflow.export(cell)
    assert {weight.dtype for weight in model.weights} == {dtype}
    outputs = model(inputs_of("float32"))
    assert outputs.dtype == dtype
    assert_close(tf.cast(outputs, tf.float64), expected, CLOSE[dtype] if dtype != "float64" else 1e-5)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_weights_are_the_cells_bit_for_bit_but_for_biases_that_are_added(dtype):
    cell = weighted(stack(rnnx.LSTMCell(5, "a_"), rnnx.GRUCell(4, "b_")), dtype)
    weights = cell.unpack_weights(cell.get_params())
    kernel, recurrent, bias, *gru = rnnx_tensorflow.export(cell).get_weights()

    def gates(prefix: str, kind: str, order: str) -> np.ndarray:
        return np.concatenate([weights[f"{prefix}{kind.replace('G', gate)}"] for gate in order])

    np.testing.assert_array_equal(kernel, gates("a_", "i2h_G_weight", "ifco").T)
    np.testing.assert_array_equal(recurrent, gates("a_", "h2h_G_weight", "ifco").T)
    two = [gates("a_", f"{role}_G_bias", "ifco").astype(np.float64) for role in ("i2h", "h2h")]
    np.testing.assert_array_equal(bias, (two[0] + two[1]).astype(dtype))
    np.testing.assert_array_equal(gru[0], gates("b_", "i2h_G_weight", "zro").T)
    np.testing.assert_array_equal(gru[2], [gates("b_", "i2h_G_bias", "zro"), gates("b_", "h2h_G_bias", "zro")])


def test_layers_are_called_as_the_cells():
    cell = weighted(
        stack(
            rnnx.LSTMCell(5, "encoder/lstm_"),
            *(rnnx.DropoutCell(0.1), rnnx.DropoutCell(0.2)),
            rnnx.FusedRNNCell(2, 1, bidirectional=True, prefix="_x_"),
            rnnx.GRUCell(4, "inputs_"),
        )
    )
    model = rnnx_tensorflow.export(cell)
    assert [layer.name for layer in model.layers] == [
        *("inputs", "encoder.lstm", "dropout", "dropout_1", "bidirectional_x_bi_l0", "inputs_1")
    ]
    assert rnnx_tensorflow.export(weighted(rnnx.LSTMCell(5, "top_"))).name == "top"


# -- states, masks, training ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in TREES if name not in UNLIKE])
def test_final_states_come_in_the_cells_order(name):
    cell = weighted(TREES[name][0]())
    cell = weighted(rnnx.BaseRNNCell.from_spec(rnnx.fusion.all_unfused(cell.spec)))
    outputs, states = cell.unroll(None, inputs_of(), merge_outputs=True)
    found, *finals = rnnx_tensorflow.export(cell, return_state=True)(inputs_of())
    assert_close(found, outputs)
    expected = networks.leaves(states)
    assert len(finals) == len(expected) == len(cell.state_info)
    for final, state in zip(finals, expected, strict=True):
        assert_close(final, state)


@pytest.mark.parametrize("name", TREES)
def test_a_mask_goes_through_to_the_outputs(name):
    """Valid steps and states are rnnx's for the same lengths; what stands at padded steps is Keras's own affair."""
    cell = weighted(TREES[name][0]())
    cell = weighted(rnnx.BaseRNNCell.from_spec(rnnx.fusion.all_unfused(cell.spec)))
    model = rnnx_tensorflow.export(cell, return_state=name not in UNLIKE)
    outputs, states = cell.unroll(None, inputs_of(), merge_outputs=True, valid_length=LENGTHS)
    found, *finals = keras.tree.flatten(model(tf.constant(inputs_of()), mask=tf.constant(MASK)))
    assert_close(np.asarray(found)[MASK], outputs[MASK])
    for final, state in zip(finals, networks.leaves(states), strict=name not in UNLIKE):
        assert_close(final, state)
    np.testing.assert_array_equal(found._keras_mask, MASK)

    padded = np.where(MASK[..., None], inputs_of(), 0.0)
    outer = keras.Sequential([keras.Input((None, WIDTH), dtype="float64"), L.Masking(dtype="float64"), model])
    found, *_ = keras.tree.flatten(outer(padded))
    assert_close(np.asarray(found)[MASK], outputs[MASK])
    np.testing.assert_array_equal(found._keras_mask, MASK)


@pytest.mark.parametrize("name", sorted(UNLIKE))
def test_states_that_keras_takes_to_be_others_are_refused(name):
    with pytest.raises(rnnx.UnsupportedError, match=r"BidirectionalCell of 'f.*' has states of other.*return_state"):
        rnnx_tensorflow.export(weighted(TREES[name][0]()), return_state=True)


@pytest.mark.parametrize("make", [rnnx.LSTMCell, rnnx.GRUCell, lambda size, prefix: deep(4, size, name=prefix)])
def test_padded_outputs_are_those_of_keras(make):
    outputs = called(rnnx_tensorflow.export(weighted(make(HIDDEN, prefix="f_"))), mask=MASK)
    assert_close(outputs[0, 3:], np.repeat(outputs[0, 2:3], 3, axis=0))
    assert np.all(outputs[0, 2] != 0)
    both = called(rnnx_tensorflow.export(weighted(pair(make))), mask=MASK)
    assert not np.any(both[0, 3:])


@pytest.mark.parametrize("name", ["fused dropout", "stack"])
def test_dropout_acts_in_training(name):
    cell = weighted(TREES[name][0]())
    model = rnnx_tensorflow.export(cell)
    rates = [layer.rate for layer in model.layers if isinstance(layer, L.Dropout)]
    assert rates == ([0.3] if name == "fused dropout" else [0.2, 0.4])
    assert np.any(called(model, training=True) != called(model))
    bare = rnnx_tensorflow.export(cell, inference=True)
    assert "Dropout" not in classes(bare)
    assert_close(called(bare, training=True), unrolled(cell))


def test_zoneout_is_left_out_for_inference():
    cell = weighted(rnnx.ZoneoutCell(rnnx.LSTMCell(5), 0.1, 0.2))
    assert_close(called(rnnx_tensorflow.export(cell, inference=True)), unrolled(cell))
    still = weighted(rnnx.ZoneoutCell(rnnx.LSTMCell(5)))
    assert_close(called(rnnx_tensorflow.export(still)), unrolled(still))


def test_a_model_is_trained_and_has_the_cells_gradients():
    cell = weighted(TREES["residual"][0]())
    model = rnnx_tensorflow.export(cell)
    cotangent = np.random.default_rng(9).normal(size=(BATCH, STEPS, 3))
    with tf.GradientTape() as tape:
        inputs = tf.constant(inputs_of())
        tape.watch(inputs)
        loss = tf.reduce_sum(model(inputs, training=True) * cotangent)
    found, kernel = tape.gradient(loss, [inputs, model.layers[1].cell.kernel.value])
    *_, pullback = cell.vjp(None, inputs_of(), merge_outputs=True)
    slopes = pullback(cotangent)
    assert_close(found, slopes.inputs, 1e-11)
    assert_close(kernel, slopes.weights["a_i2h_weight"].T, 1e-11)

    model.compile("sgd", "mse")
    before = model.get_weights()
    model.fit(inputs_of(), np.zeros((BATCH, STEPS, 3)), verbose=0)
    assert all(np.any(one != other) for one, other in zip(before, model.get_weights(), strict=True))


# -- files, sharing, refusals -----------------------------------------------------------------------------------------


@MASKED
@pytest.mark.parametrize("name", TREES)
def test_the_model_is_loaded_again(name, tmp_path):
    cell = weighted(TREES[name][0]())
    model = rnnx_tensorflow.export(cell, return_state=name not in UNLIKE)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for one, other in zip(
        keras.tree.flatten(model(inputs_of(), mask=MASK)),
        keras.tree.flatten(again(inputs_of(), mask=MASK)),
        strict=True,
    ):
        assert_close(one, other, 0)


def test_the_models_are_loaded_where_there_is_no_rnnx(tmp_path):
    for name in ("lstm", "fused", "pair of stacks", "residual", "gru reset before"):
        cell = weighted(TREES[name][0]())
        rnnx_tensorflow.export(cell).save(tmp_path / f"{name}.keras")
        np.save(tmp_path / f"{name}.npy", unrolled(cell))
    np.save(tmp_path / "inputs", inputs_of())
    code = """if True:
        import sys, pathlib
        sys.modules.update({"rnnx": None, "rnnx_tensorflow": None})
        import keras, numpy as np
        inputs, known = np.load("inputs.npy"), sorted(pathlib.Path().glob("*.keras"))
        for path in known:
            outputs = np.asarray(keras.models.load_model(path)(inputs))
            np.testing.assert_allclose(outputs, np.load(path.with_suffix(".npy")), rtol=0, atol=1e-12)
        print(len(known))
    """
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "5"


def test_cells_that_share_all_weights_are_one_layer(tmp_path):
    params = rnnx.RNNParams("a_")
    cell = weighted(
        stack(rnnx.LSTMCell(WIDTH, "low_", params), rnnx.GRUCell(WIDTH, "b_"), rnnx.LSTMCell(WIDTH, "a_", params))
    )
    model = rnnx_tensorflow.export(cell, return_state=True)
    assert classes(model) == ["LSTM", "GRU"]
    assert len(model.weights) == 6
    outputs, states = cell.unroll(None, inputs_of(), merge_outputs=True)
    found = model(inputs_of())
    for one, other in zip(found, [outputs, *states], strict=True):
        assert_close(one, other)
    model.save(tmp_path / "shared.keras")
    assert_close(keras.models.load_model(tmp_path / "shared.keras")(inputs_of())[0], outputs)


def shared(*makes: Callable[..., Any]) -> list[rnnx.BaseRNNCell]:
    params = rnnx.RNNParams("s_")
    return [make(5, prefix="s_", params=params) for make in makes]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rnnx.LSTMPCell(5, 2, "p_"), r"LSTMPCell 'p_' has no layer in Keras"),
        (
            lambda: stack(rnnx.LSTMCell(5, "a_"), networks.PeepholeLSTM(5, "p_")),
            r"networks:PeepholeLSTM.* has no layer in Keras",
        ),
        (
            lambda: rnnx.ZoneoutCell(rnnx.LSTMCell(5, "z_"), 0.1),
            r"ZoneoutCell around 'z.* no layer of Keras does: inference=True .*rnnx_tensorflow.RNNLayer",
        ),
        (lambda: rnnx.RNNCell(5, np.sin), r"activation=.* is a function"),
        (lambda: pair(rnnx.LSTMCell, other=2), r"BidirectionalCell of 'f_', 'b_' has directions 5 and 2 wide"),
        (
            lambda: rnnx.BidirectionalCell(rnnx.GRUCell(5, "f_"), stack(rnnx.DropoutCell(0.1), rnnx.GRUCell(5, "b_"))),
            r"BidirectionalCell of 'f_', 'b_' has a Dropout in a direction.*inference=True",
        ),
        (
            lambda: rnnx.BidirectionalCell(rnnx.ResidualCell(rnnx.GRUCell(3, "f_")), rnnx.GRUCell(3, "b_")),
            r"BidirectionalCell of 'f_', 'b_' has a Residual in a direction.*RNNLayer runs it",
        ),
        (
            lambda: rnnx.BidirectionalCell(rnnx.GRUCell(3, "f_"), stack()),
            r"BidirectionalCell of 'f_' has a direction without cells",
        ),
        (
            lambda: rnnx.BidirectionalCell(rnnx.LSTMPCell(5, 3, "f_"), rnnx.GRUCell(3, "b_")),
            r"LSTMPCell 'f_' has no layer in Keras",
        ),
    ],
)
def test_what_keras_has_nothing_for_is_refused_by_name(make, message):
    with pytest.raises(rnnx.UnsupportedError, match=message):
        rnnx_tensorflow.export(make())


def test_dropout_in_a_direction_is_left_out_for_inference():
    backward = stack(rnnx.LSTMCell(5, "b0_"), rnnx.DropoutCell(0.1), rnnx.LSTMCell(5, "b1_"))
    cell = weighted(rnnx.BidirectionalCell(rnnx.GRUCell(5, "f_"), backward))
    assert_close(called(rnnx_tensorflow.export(cell, inference=True)), unrolled(cell))


def test_fused_cells_that_share_a_vector_are_one_layer_if_they_are_called_alike():
    params = rnnx.RNNParams("s_")
    make = lambda prefix: rnnx.FusedRNNCell(5, 1, prefix=prefix, params=params)  # noqa: E731
    cell = weighted(stack(make("s_"), rnnx.GRUCell(5, "g_"), make("s_")), width=5)
    model = rnnx_tensorflow.export(cell)
    assert classes(model) == ["LSTM", "GRU"]
    assert_close(called(model, inputs_of(width=5)), unrolled(cell, inputs_of(width=5)))
    with pytest.raises(rnnx.UnsupportedError, match=r"FusedRNNCell 'b_' shares its vector of weights, 's_', .*'a_'"):
        rnnx_tensorflow.export(stack(make("a_"), make("b_")))


@pytest.mark.parametrize(
    "make",
    [
        lambda: rnnx.BidirectionalCell(*shared(rnnx.LSTMCell, rnnx.LSTMCell)),
        lambda: stack(
            rnnx.GRUCell(5, "below_"),
            *shared(
                rnnx.RNNCell,
                lambda size, prefix, params: rnnx.RNNCell(size, "relu", prefix, params),
            ),
        ),
    ],
)
def test_weights_that_layers_cannot_share_are_refused(make):
    with pytest.raises(rnnx.UnsupportedError, match=r"Cell 's_' shares its weights, 's_', with a cell that is another"):
        rnnx_tensorflow.export(weighted(make(), width=5))


def test_a_cell_without_weights_is_refused():
    with pytest.raises(rnnx.RNNXError, match="no weights yet"):
        rnnx_tensorflow.export(rnnx.LSTMCell(5))


# -- from_keras -------------------------------------------------------------------------------------------------------


def filled(layer: Any, width: int = WIDTH) -> Any:
    """The layer with every weight random, and none zero."""
    if not layer.built:
        layer.build((None, None, width))
    rng = np.random.default_rng(7)
    layer.set_weights([rng.uniform(0.1, 0.7, w.shape) * rng.choice([-1, 1], w.shape) for w in layer.get_weights()])
    return layer


def model_of(*layers: Any, name: str = "net") -> Any:
    return filled(keras.Sequential([keras.Input((None, WIDTH), dtype="float64"), *layers], name=name))


ALL = {"return_sequences": True, "dtype": "float64"}


def cells(*kinds: Any) -> list[Any]:
    return [kind(4 + number, dtype="float64") for number, kind in enumerate(kinds)]


def rnn(*kinds: Any, **options: Any) -> Any:
    return L.RNN(L.StackedRNNCells(cells(*kinds), dtype="float64"), **ALL, **options)


#: Layers, with what the spec of the cell says first.
LAYERS: dict[str, tuple[Callable[[], Any], str]] = {
    "lstm": (lambda: L.LSTM(5, **ALL), "LSTMCell"),
    "lstm without bias": (lambda: L.LSTM(5, use_bias=False, **ALL), "LSTMCell"),
    "gru": (lambda: L.GRU(5, **ALL), "GRUCell"),
    "gru without bias": (lambda: L.GRU(5, use_bias=False, **ALL), "GRUCell"),
    "gru reset before": (lambda: L.GRU(5, reset_after=False, **ALL), "GRUCell"),
    **{
        name: (lambda name=name: L.SimpleRNN(5, activation=name, **ALL), "RNNCell")
        for name in ("tanh", "relu", "sigmoid", "softplus", "softsign")
    },
    "bidirectional": (lambda: L.Bidirectional(L.GRU(5, **ALL), dtype="float64"), "BidirectionalCell"),
    "two kinds": (
        lambda: L.Bidirectional(
            L.LSTM(5, **ALL), backward_layer=L.SimpleRNN(5, go_backwards=True, use_bias=False, **ALL), dtype="float64"
        ),
        "BidirectionalCell",
    ),
    "cell": (lambda: L.RNN(*cells(L.GRUCell), **ALL), "GRUCell"),
    "cell without bias": (lambda: L.RNN(L.LSTMCell(5, use_bias=False, dtype="float64"), **ALL), "LSTMCell"),
    "stacked cells": (lambda: rnn(L.LSTMCell, L.GRUCell, L.LSTMCell), "SequentialRNNCell"),
    "two stacks": (
        lambda: L.Bidirectional(
            rnn(L.LSTMCell, L.GRUCell), backward_layer=rnn(L.GRUCell, L.LSTMCell, go_backwards=True), dtype="float64"
        ),
        "BidirectionalCell",
    ),
    "irrelevant": (lambda: L.LSTM(5, implementation=1, zero_output_for_mask=True, **ALL), "LSTMCell"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_becomes_a_cell(name):
    make, kind = LAYERS[name]
    layer = filled(make())
    cell = rnnx_tensorflow.from_keras(layer)
    assert cell.spec.kind == kind
    assert all(key.startswith(f"{layer.name}_") for key in cell.get_params())
    inputs = tf.constant(inputs_of())
    outputs, _ = cell.unroll(None, inputs, merge_outputs=True)
    assert isinstance(outputs, tf.Tensor)  # the weights are on the TensorFlow backend
    assert_close(outputs, layer(inputs))
    assert_close(unrolled(cell, valid_length=LENGTHS)[MASK], np.asarray(layer(inputs, mask=MASK))[MASK])


@pytest.mark.parametrize("kind", [L.LSTMCell, L.GRUCell, L.SimpleRNNCell])
def test_a_cell_for_one_step_becomes_a_cell(kind):
    (single,) = cells(kind)
    single.build((None, WIDTH))
    filled(single)
    cell = rnnx_tensorflow.from_keras(single, prefix="decoder.")
    assert all(name.startswith("decoder.") for name in cell.get_params())
    states = [tf.constant(np.random.default_rng(number).normal(size=(BATCH, 4))) for number in range(2)]
    states = states[: len(cell.state_info)]
    outputs, finals = cell(tf.constant(inputs_of()[:, 0]), states)
    expected, expected_finals = single(inputs_of()[:, 0], states)
    assert_close(outputs, expected)
    for one, other in zip(finals, expected_finals, strict=True):
        assert_close(one, other)


def test_stacked_cells_by_themselves():
    stacked = L.StackedRNNCells(cells(L.LSTMCell, L.GRUCell), dtype="float64")
    layer = filled(L.RNN(stacked, **ALL))
    cell = rnnx_tensorflow.from_keras(stacked, prefix="s_")
    assert [child.fields["prefix"] for child in cell.spec.children] == ["s_l0_", "s_l1_"]
    assert_close(unrolled(cell), layer(inputs_of()))


def functional() -> Any:
    inputs = keras.Input((None, WIDTH), dtype="float64")
    value = L.Dropout(0.2, dtype="float64")(L.GRU(4, name="low", **ALL)(L.Masking(dtype="float64")(inputs)))
    within = keras.Sequential([keras.Input((None, 4), dtype="float64"), L.LSTM(4, name="low", **ALL)], name="inner")
    outputs, *states = L.LSTM(5, name="high", return_state=True, **ALL)(within(value))
    return filled(keras.Model(inputs, [outputs, *states], name="net"))


MODELS: dict[str, tuple[Callable[[], Any], list[str], list[str]]] = {
    "sequential": (
        lambda: model_of(
            L.Masking(dtype="float64"),
            L.Bidirectional(L.LSTM(4, **ALL), dtype="float64", name="b"),
            L.Dropout(0.3, name="d", dtype="float64"),
            rnn(L.GRUCell, L.LSTMCell, name="r"),
            L.SimpleRNN(3, activation="relu", name="top", **ALL),
        ),
        ["BidirectionalCell", "DropoutCell", "GRUCell", "LSTMCell", "RNNCell"],
        ["b_l0_", "b_r0_", "r_l0_", "r_l1_", "top_"],
    ),
    "functional": (
        functional,
        ["GRUCell", "DropoutCell", "LSTMCell", "LSTMCell"],
        ["low_", "inner/low_", "high_"],
    ),
    "one layer": (lambda: model_of(L.LSTM(5, name="one", **ALL)), [], ["one_"]),
}


@MASKED
@pytest.mark.parametrize("prefix", [None, "encoder."])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_becomes_a_stack(name, prefix):
    make, kinds, prefixes = MODELS[name]
    model = make()
    cell = rnnx_tensorflow.from_keras(model, prefix)
    assert [child.kind for child in cell.spec.children] == kinds
    assert rnnx.found.leaf_prefixes(cell.spec) == [(prefix or "") + each for each in prefixes]
    expected = keras.tree.flatten(model(inputs_of()))
    assert_close(unrolled(cell), expected[0])
    bare = rnnx_tensorflow.from_keras(model, inference=True)
    assert "DropoutCell" not in [child.kind for child in bare.spec.children]
    assert_close(unrolled(bare), expected[0])


def test_a_model_that_gives_its_last_output():
    model = model_of(L.LSTM(4, **ALL), L.GRU(5, dtype="float64"))
    cell = rnnx_tensorflow.from_keras(model)
    assert_close(unrolled(cell)[:, -1], model(inputs_of()))


def test_the_cell_is_that_of_the_saved_model(tmp_path):
    model = MODELS["sequential"][0]()
    model.save(tmp_path / "net.keras")
    read, _ = rnnx.load(tmp_path / "net.keras")
    cell = rnnx_tensorflow.from_keras(model)
    assert cell.spec == read.spec
    networks.same_bits(read.get_params(), cell.get_params())
    rnnx.save(tmp_path / "net.rnnx", cell)
    networks.same_bits(rnnx.load(tmp_path / "net.rnnx")[0].get_params(), cell.get_params())


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_there_and_back_is_the_same_bit_for_bit(dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 on NumPy comes from ml_dtypes")
    own = {"return_sequences": True, "dtype": dtype, "recurrent_initializer": "glorot_uniform"}
    model = keras.Sequential(
        [
            keras.Input((None, WIDTH), dtype=dtype),
            L.Bidirectional(L.LSTM(5, **own), dtype=dtype),
            L.GRU(4, **own),
            L.GRU(4, reset_after=False, **own),
        ]
    )
    filled(model)
    back = rnnx_tensorflow.export(rnnx_tensorflow.from_keras(model))
    assert [layer.name for layer in back.layers[1:]] == [layer.name for layer in model.layers]
    for one, other in zip(model.get_weights(), back.get_weights(), strict=True):
        assert one.dtype == other.dtype == dtype
        assert one.tobytes() == other.tobytes()


def test_a_cell_that_was_exported_comes_back():
    cell = weighted(stack(rnnx.GRUCell(5, "a_"), rnnx.DropoutCell(0.2), rnnx.GRUCell(4, "b_")))
    for return_state in (False, True):
        back = rnnx_tensorflow.from_keras(rnnx_tensorflow.export(cell, return_state=return_state))
        assert back.spec == cell.spec
        networks.same_bits(back.get_params(), cell.get_params())


def test_weights_are_copies():
    layer = filled(L.GRU(5, **ALL))
    cell = rnnx_tensorflow.from_keras(layer)
    before = cell.get_params()
    layer.set_weights([0 * weight for weight in layer.get_weights()])
    networks.same_bits(before, cell.get_params())


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_layers_on_another_backend_of_keras(backend, tmp_path):
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    code = f"""if True:
        import os
        os.environ["KERAS_BACKEND"] = {backend!r}
        import keras, numpy as np, rnnx_tensorflow
        layer = keras.layers.GRU(5, return_sequences=True)
        layer.build((None, None, {WIDTH}))
        rng = np.random.default_rng(0)
        layer.set_weights([rng.normal(size=weight.shape) for weight in layer.get_weights()])
        inputs = rng.normal(size=(2, 4, {WIDTH})).astype("float32")
        cell = rnnx_tensorflow.from_keras(layer)
        outputs, _ = cell.unroll(None, inputs, merge_outputs=True)
        expected = keras.ops.convert_to_numpy(layer(inputs))
        np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-5)
        again = keras.ops.convert_to_numpy(rnnx_tensorflow.export(cell)(inputs))
        np.testing.assert_allclose(again, expected, rtol=0, atol=1e-5)
    """
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


# -- what from_keras refuses ------------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable()
class Doubled(keras.layers.LSTM):
    def call(self, sequences, **options):
        return 2 * super().call(sequences, **options)


class OwnCell(keras.layers.Layer):
    state_size = 4

    def call(self, inputs, states):
        return states[0], states


def tanh(x):
    return x / 2


def branched(case: str) -> Any:
    """A functional model that is no row of layers."""
    inputs = keras.Input((None, 5), name="given")
    first = L.LSTM(5, return_sequences=True, return_state=True, name="first")
    outputs, hidden, _ = first(inputs)
    if case == "add":
        return keras.Model(inputs, L.Add(name="sum")([outputs, inputs]), name="net")
    if case == "state read":
        return keras.Model(inputs, L.Dropout(0.1, name="read")(hidden), name="net")
    if case == "initial state":
        return keras.Model(inputs, L.GRU(5, name="second")(outputs, initial_state=hidden), name="net")
    if case == "twice":
        return keras.Model(inputs, first(outputs)[0], name="net")
    if case == "two outputs":
        return keras.Model(inputs, [outputs, L.GRU(5, name="second")(outputs)], name="net")
    if case == "states only":
        return keras.Model(inputs, hidden, name="net")
    if case == "op":
        return keras.Model(inputs, keras.ops.tanh(outputs), name="net")
    if case == "beside":
        last = L.LSTM(5, return_sequences=True, return_state=True, name="second")(inputs)[1]
        return keras.Model(inputs, [outputs, last], name="net")
    return keras.Model(inputs, L.Dropout(0.1, name="always")(outputs, training=True), name="net")


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("add", r"layer 'sum' \(Add\) of model 'net' reads 2 tensors, of '(first', 'given|given', 'first)'"),
        ("state read", r"layer 'read' \(Dropout\) of model 'net' reads a state of 'first'"),
        ("initial state", r"layer 'second' \(GRU\) of model 'net' reads 2 tensors, of 'first', 'first'"),
        ("twice", r"layer 'first' \(LSTM\) of model 'net' reads 2 tensors"),
        ("two outputs", r"model 'net' gives out the outputs of 2 layers, .*'first'"),
        ("states only", r"model 'net' gives out the outputs of 0 layers, none"),
        ("op", r"layer 'tanh.*' is a Tanh, and none of LSTM, GRU.*give from_keras each of the layers 'first' \(LSTM\)"),
        ("beside", r"layer 'second' \(LSTM\) of model 'net' stands beside"),
        ("training", r"layer 'always' of model 'net' is called with training=True"),
    ],
)
def test_a_model_that_is_no_row_of_layers_is_refused(case, message):
    with pytest.raises(rnnx.UnsupportedError, match=message):
        rnnx_tensorflow.from_keras(branched(case))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: L.Bidirectional(L.LSTM(5), merge_mode="sum", name="b"), r"layer 'b' has merge_mode 'sum'.*'concat'"),
        (lambda: L.LSTM(5, go_backwards=True, name="l"), r"layer 'l' has go_backwards True: it gives its outputs last"),
        (lambda: L.LSTM(5, activation="relu", name="l"), r"layer 'l' has activation 'relu'; rnnx's cell has 'tanh'"),
        (
            lambda: L.GRU(5, recurrent_activation="hard_sigmoid", name="g"),
            r"'g' has recurrent_activation 'hard_sigmoid",
        ),
        (lambda: L.SimpleRNN(5, activation=None, name="s"), r"layer 's' has activation 'linear'; rnnx has tanh, relu"),
        (
            lambda: L.SimpleRNN(5, activation=tanh, name="s"),
            r"SimpleRNN 's' has activation <function tanh.*Keras's own",
        ),
        (lambda: L.LSTM(5, recurrent_activation=lambda x: x), r"has recurrent_activation <function .*Keras's own"),
        (lambda: L.RNN(L.SimpleRNNCell(5, activation=L.LeakyReLU())), r"has activation <LeakyReLU"),
        (lambda: Doubled(5, name="d"), r"the Doubled 'd' is of no class of Keras's own.*rnnx.BaseRNNCell"),
        (lambda: L.Bidirectional(Doubled(5, name="d")), r"the Doubled 'forward_d' is of no class of Keras's own"),
        (lambda: L.RNN([L.LSTMCell(5), OwnCell()]), r"the OwnCell 'own_cell.*' is of no class of Keras's own"),
        (lambda: L.ConvLSTM1D(5, 3, name="c"), r"layer 'c' is a ConvLSTM1D, and none of LSTM"),
        (lambda: L.Dense(5, name="d"), r"layer 'd' is a Dense, and none of LSTM, .*rnnx.BaseRNNCell"),
        (
            lambda: L.LSTM(5, name="l", dropout=0.1),
            r"layer 'l' has dropout=0.1, .*of its inputs at every .*inference=T",
        ),
        (lambda: L.GRU(5, name="l", recurrent_dropout=0.2), r"layer 'l' has recurrent_dropout=0.2, .*of its state at"),
        (
            lambda: keras.Sequential([L.GRU(5, return_sequences=True), L.Dropout(0.1, (None, 1, 5), name="d")]),
            r"layer 'd' has noise_shape \[None, 1, 5\]",
        ),
        (
            lambda: keras.Sequential([L.LSTM(5, name="l"), L.Dense(2, name="out")], name="m"),
            r"layer 'out' is a Dense, and none of",
        ),
        (
            lambda: keras.Sequential([L.TimeDistributed(L.Dense(5), name="t"), L.LSTM(5)]),
            r"layer 't' is a TimeDistributed",
        ),
    ],
)
def test_what_rnnx_has_no_cell_for_is_refused_by_name(make, message):
    layer = make()
    layer.build((None, 8, WIDTH))
    with pytest.raises(rnnx.UnsupportedError, match=message):
        rnnx_tensorflow.from_keras(layer)


def test_dropout_within_a_layer_is_left_out_for_inference():
    layer = filled(L.Bidirectional(L.LSTM(5, dropout=0.1, recurrent_dropout=0.2, **ALL), dtype="float64"))
    assert_close(unrolled(rnnx_tensorflow.from_keras(layer, inference=True)), layer(inputs_of()))


def test_a_model_of_ones_own_is_refused_with_its_layers():
    class Encoder(keras.Model):
        def __init__(self):
            super().__init__(name="encoder")
            self.low = L.LSTM(5, name="low")
            self.high = L.Dense(5)

    with pytest.raises(rnnx.UnsupportedError, match=r"Encoder 'encoder' is of no class .*each of the layers 'low' \(L"):
        rnnx_tensorflow.from_keras(Encoder())


def test_what_is_no_layer_is_refused():
    with pytest.raises(rnnx.UnsupportedError, match=r"the LSTMCell '.*' is of no class of Keras's own"):
        rnnx_tensorflow.from_keras(rnnx.LSTMCell(5))
    with pytest.raises(rnnx.UnsupportedError, match="the Sequential 'drop' has no recurrent layer"):
        rnnx_tensorflow.from_keras(keras.Sequential([L.Dropout(0.1)], name="drop"))


@pytest.mark.parametrize("make", [lambda: L.LSTM(5), lambda: keras.Sequential([L.GRU(5)]), lambda: L.GRUCell(5)])
def test_layers_without_weights_are_refused(make):
    with pytest.raises(rnnx.RNNXError, match="has no weights yet: call it once"):
        rnnx_tensorflow.from_keras(make())

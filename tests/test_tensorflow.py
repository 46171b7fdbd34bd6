"""The TensorFlow backend against NumPy's: outputs, states, gradients, graphs, and which kernel ran."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import rnnx

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

MODES = ["lstm", "gru", "rnn_tanh", "rnn_relu"]
BATCH, STEPS, WIDTH, HIDDEN = 4, 7, 3, 5
TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 0.1, "float16": 2e-2}
LENGTHS = [None, [STEPS, 0, 4, 5]]


def pair(cell: rnnx.BaseRNNCell, dtype: str = "float64") -> tuple[rnnx.BaseRNNCell, rnnx.BaseRNNCell]:
    """Return the cell with distinct random weights on NumPy, and an equal one on TensorFlow."""
    rng = np.random.default_rng(7)
    cell.initialize(WIDTH, dtype="float64", seed=0)
    cell.load_params({name: rng.normal(0, 0.5, value.shape) for name, value in cell.get_params().items()})
    other = rnnx.BaseRNNCell.from_spec(cell.spec)
    other.load_params(cell.get_params())
    return cell, other.to("tensorflow", dtype=dtype)


def fused(mode: str, layers: int = 2, bidirectional: bool = True, dropout: float = 0.3) -> rnnx.BaseRNNCell:
    return rnnx.FusedRNNCell(HIDDEN, layers, mode, bidirectional, dropout, get_next_state=True)


def zoned() -> rnnx.BaseRNNCell:
    stack = rnnx.SequentialRNNCell()
    stack.add(rnnx.ZoneoutCell(rnnx.LSTMCell(HIDDEN, "a_"), 0.2, 0.3))
    stack.add(rnnx.ResidualCell(rnnx.GRUCell(HIDDEN, "b_", reset_after=False)))
    stack.add(rnnx.BidirectionalCell(rnnx.RNNCell(2, "softsign", "l_"), rnnx.RNNCell(3, "softrelu", "r_")))
    return stack


def inputs_of(dtype: str = "float64", batch: int = BATCH, steps: int = STEPS) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(batch, steps, WIDTH)).astype(dtype)


def flat(states: list) -> list:
    return [array for state in states for array in (flat(state) if isinstance(state, list) else [state])]


def operations(graph) -> set[str]:
    """Return the kinds of all operations of a concrete function, those of functions it calls included."""
    definition = graph.graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    return {node.op for node in nodes}


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("make", [*(lambda mode=mode: fused(mode) for mode in MODES), zoned], ids=[*MODES, "zoned"])
def test_outputs_states_and_gradients_are_numpys(make, fuse, lengths):
    cell, other = pair(make())
    inputs = inputs_of()
    expected, expected_states, expected_pull = cell.vjp(None, inputs, valid_length=lengths, merge_outputs=True)
    outputs, states, pull = other.vjp(None, tf.constant(inputs), valid_length=lengths, merge_outputs=True, fuse=fuse)

    rng = np.random.default_rng(1)
    slope = rng.normal(size=expected.shape)
    slopes = [rng.normal(size=state.shape) for state in flat(expected_states)]
    judge = expected_pull(slope, slopes)
    found = pull(tf.constant(slope), [tf.constant(each) for each in slopes])

    pairs = [(outputs, expected), *zip(flat(states), flat(expected_states), strict=True), (found.inputs, judge.inputs)]
    pairs += zip(found.begin_state, judge.begin_state, strict=True)
    pairs += [(found.weights[name], gradient) for name, gradient in judge.weights.items()]
    for mine, theirs in pairs:
        np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("mode", MODES)
def test_dropout_with_a_seed_is_the_same_fused_and_stepped(mode):
    _, cell = pair(fused(mode))
    inputs = tf.constant(inputs_of())
    one, _ = cell.unroll(None, inputs, training=True, seed=5)
    other, _ = cell.unfuse().unroll(None, inputs, training=True, seed=5, merge_outputs=True, fuse=False)
    np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=0, atol=1e-12)
    assert not np.allclose(one.numpy(), cell.unroll(None, inputs, training=True, seed=6)[0].numpy())
    assert not np.allclose(one.numpy(), cell.unroll(None, inputs)[0].numpy())


@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("mode", MODES)
def test_every_dtype_is_close_to_float64(mode, dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    cell, other = pair(fused(mode), dtype)
    expected, _ = cell.unroll(None, inputs_of())
    outputs, _ = other.unroll(None, tf.cast(tf.constant(inputs_of()), dtype))
    assert outputs.dtype.name == dtype
    scale = max(1.0, np.abs(expected).max())
    assert np.abs(outputs.numpy().astype(np.float64) - expected).max() <= TOLERANCES[dtype] * scale


@pytest.mark.parametrize("mode", MODES)
def test_the_kernels_are_named(mode):
    _, cell = pair(fused(mode), "float32")
    inputs = tf.constant(inputs_of("float32"))
    device = cell.explain(inputs).kernels
    assert device == (("tensorflow.cudnn",) if tf.config.list_physical_devices("GPU") else ("tensorflow.compiled",))
    assert set(cell.explain(inputs, fuse=False).kernels) == {"tensorflow.loop"}


@pytest.mark.parametrize("steps", [1, 3, 50])
@pytest.mark.parametrize("fuse", [True, False], ids=["fused", "stepped"])
def test_a_graph_has_a_loop_and_is_as_large_for_any_number_of_steps(fuse, steps):
    _, cell = pair(fused("lstm"))
    graph = tf.function(lambda x: cell.unroll(None, x, fuse=fuse)[0], autograph=False)
    signature = tf.TensorSpec([None, None, WIDTH], tf.float64)
    concrete = graph.get_concrete_function(signature)
    assert {"While", "StatelessWhile"} & operations(concrete)
    inputs = inputs_of(steps=steps)
    expected, _ = cell.unroll(None, tf.constant(inputs), fuse=fuse)
    np.testing.assert_allclose(concrete(tf.constant(inputs)).numpy(), expected.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("mode", ["lstm", "gru"])
def test_gradients_inside_a_graph(mode, jit_compile):
    cell, other = pair(fused(mode, 1))
    inputs = inputs_of()
    expected, _, pull = cell.vjp(None, inputs)
    weights = tf.Variable(other.params[f"{mode}_parameters"])

    @tf.function(jit_compile=jit_compile, autograph=False)
    def loss(x, vector):
        with tf.GradientTape() as tape:
            tape.watch([x, vector])
            other.load_params({f"{mode}_parameters": vector})
            total = tf.reduce_sum(other.unroll(None, x)[0])
        return total, tape.gradient(total, [x, vector])

    total, (of_inputs, of_weights) = loss(tf.constant(inputs), tf.convert_to_tensor(weights))
    judge = pull(np.ones_like(expected))
    np.testing.assert_allclose(total.numpy(), expected.sum(), rtol=1e-12)
    np.testing.assert_allclose(of_inputs.numpy(), judge.inputs, rtol=0, atol=1e-11)
    np.testing.assert_allclose(of_weights.numpy(), judge.weights[f"{mode}_parameters"], rtol=0, atol=1e-11)


def test_other_sizes_are_not_traced_without_end():
    from rnnx_tensorflow import compiled

    _, cell = pair(fused("gru"), "float32")
    before = compiled.forward_graph.cache_info().misses
    for batch, steps in [(2, 3), (1, 2), (5, 9), (3, 30), (8, 4), (7, 11), (9, 12), (6, 17), (4, 40), (11, 6)]:
        cell.unroll(None, tf.constant(inputs_of("float32", batch, steps)))
    assert compiled.forward_graph.cache_info().misses - before <= 4  # a few kinds of size have graphs of their own


@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_weights_come_back_bit_for_bit(dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    _, cell = pair(fused("gru"), dtype)
    before = cell.get_params()
    after = cell.to("numpy").get_params()
    assert before["gru_parameters"].dtype.name == dtype
    assert before["gru_parameters"].tobytes() == after["gru_parameters"].tobytes()


def test_frameworks_dtypes_and_ranks_do_not_mix():
    cell, other = pair(fused("lstm"))
    with pytest.raises(rnnx.BackendMismatchError, match=r"'tensorflow'.*'numpy'"):
        cell.unroll(None, tf.constant(inputs_of()))
    with pytest.raises(rnnx.BackendMismatchError, match=r"'numpy'.*'tensorflow'"):
        other.unroll(None, inputs_of())
    with pytest.raises(rnnx.BackendMismatchError, match="dtype float64 and the inputs have float32"):
        other.unroll(None, tf.constant(inputs_of("float32")))
    with pytest.raises(rnnx.BackendMismatchError, match=r"begin_state\[0\] has dtype float32"):
        other.unroll(None, tf.constant(inputs_of()), begin_state=[tf.zeros([4, BATCH, HIDDEN])] * 2)
    with pytest.raises(rnnx.ShapeError, match="3 axes"):
        other.unroll(None, tf.constant(inputs_of()[0]))
    with pytest.raises(rnnx.RNNXError, match="no_such_device"):
        other.to("tensorflow", device="no_such_device:0")


@pytest.mark.parametrize("shape", [None, [None, None, None]], ids=["rank", "width"])
def test_what_a_graph_has_to_know(shape):
    _, cell = pair(fused("lstm"))
    graph = tf.function(lambda x: cell.unroll(None, x)[0], autograph=False)
    with pytest.raises(rnnx.ShapeError, match=r"no known number of axes|has to be known in a graph"):
        graph.get_concrete_function(tf.TensorSpec(shape, tf.float64))


def test_the_plugin_module_does_not_import_tensorflow():
    code = (
        "import sys, rnnx_tensorflow.plugin as plugin; plugin.rnnx_backends(); assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""What rnnx's suite does not ask of a backend: the transformations of JAX, its devices and its 64 bits."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import rnnx
from rnnx_jax.backend import JaxBackend

jax.config.update("jax_enable_x64", True)

MODES = ["lstm", "gru", "rnn_tanh", "rnn_relu"]
BATCH, STEPS, WIDTH, HIDDEN = 4, 5, 3, 6
LENGTHS = (3, 0, 5, 1)
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


def inputs_of(dtype="float64"):
    return np.random.default_rng(0).normal(size=(BATCH, STEPS, WIDTH)).astype(dtype)


def drawn(cell, dtype="float64"):
    """The cell, with every element of its weights different, and none zero."""
    cell.initialize(WIDTH, backend="numpy", dtype=dtype)
    rng = np.random.default_rng(1)
    cell.load_params({name: rng.uniform(-1, 1, w.shape).astype(dtype) for name, w in cell.get_params().items()})
    return cell


def fused(mode="lstm", **options):
    return rnnx.FusedRNNCell(HIDDEN, 2, mode, bidirectional=True, dropout=0.4, get_next_state=True, **options)


def stepped():
    """A tree that no kernel runs in training, with randomness in every step."""
    return rnnx.ZoneoutCell(rnnx.LSTMCell(HIDDEN), 0.3, 0.2)


def on_jax(cell, dtype="float64"):
    return drawn(cell, dtype).to("jax")


def arrays(cell):
    return {name: jnp.asarray(weight) for name, weight in cell.get_params().items()}


def close(found, expected, tolerance=1e-12):
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=0, atol=tolerance), found, expected)


# -- kernels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("mode", MODES)
def test_a_kernel_does_what_numpys_does(mode, dtype, lengths):
    cell, inputs = drawn(fused(mode), dtype), inputs_of(dtype)
    expected = cell.unroll(None, inputs, valid_length=lengths)
    cell.to("jax")
    assert cell.explain(jnp.asarray(inputs), valid_length=lengths).kernels == (f"jax.{mode}",)
    found = cell.unroll(None, jnp.asarray(inputs), valid_length=lengths)
    assert found[0].dtype == dtype
    close(list(found), list(expected), TOLERANCE[dtype])


@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("mode", MODES)
def test_dropout_is_the_same_fused_and_stepped_eagerly_and_in_a_graph(mode, lengths):
    cell, inputs = on_jax(fused(mode)), jnp.asarray(inputs_of())

    def run(inputs, lengths, fuse):
        return cell.unroll(None, inputs, valid_length=lengths, training=True, seed=5, fuse=fuse)

    expected = run(inputs, lengths, True)
    close(run(inputs, lengths, False), expected)
    traced = None if lengths is None else jnp.asarray(lengths)
    for fuse in (True, False):
        close(jax.jit(run, static_argnums=2)(inputs, traced, fuse), expected)
    assert not np.allclose(expected[0], cell.unroll(None, inputs, valid_length=lengths, training=True, seed=6)[0])


class Counting(JaxBackend):
    """Counts the products: one that is compiled is counted when it is traced, and not when it runs."""

    def __init__(self):
        self.products = 0

    def affine(self, *arguments):
        self.products += 1
        return super().affine(*arguments)


def test_a_kernel_is_traced_once_for_each_shape():
    from rnnx.backend import Call, KernelWeights, Recurrence
    from rnnx.weights.layout import split_flat

    ops, recurrence = Counting(), Recurrence("gru", WIDTH, HIDDEN, 2, dropout=0.5)
    vector = drawn(rnnx.FusedRNNCell(HIDDEN, 2, "gru")).to("jax").params["gru_parameters"]
    weights, states = split_flat(ops, vector, recurrence), [jnp.zeros((2, BATCH, HIDDEN))]
    kernel = ops.plan(recurrence, Call("float64"))

    def traced(inputs, lengths, seeds):
        before = ops.products
        ops.run(kernel, KernelWeights(weights.layers), inputs, states, lengths, seeds)
        return ops.products > before

    inputs = jnp.asarray(inputs_of().swapaxes(0, 1))
    assert traced(inputs, jnp.asarray(LENGTHS), [7])
    assert not traced(inputs * 2, jnp.asarray(LENGTHS[::-1]), [8])
    assert traced(inputs, None, [7])
    assert traced(inputs[1:], None, [7])
    assert not traced(inputs[:-1], None, [2**63 - 1])


# -- graphs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_a_loop_is_one_scan_in_a_graph_and_none_outside(lengths, monkeypatch):
    cell, traced = on_jax(stepped()), None if lengths is None else jnp.asarray(lengths)
    inputs = jnp.asarray(inputs_of())

    def run(inputs, lengths):
        return cell.unroll(None, inputs, merge_outputs=True, valid_length=lengths, training=True, seed=3)

    assert cell.explain(inputs, training=True).kernels == ("jax.loop",)
    graph = jax.make_jaxpr(run)(inputs, traced)
    assert [equation.params["length"] for equation in graph.eqns if equation.primitive.name == "scan"] == [STEPS]
    expected = jax.jit(run)(inputs, traced)
    monkeypatch.delattr(jax.lax, "scan")
    close(run(inputs, lengths), expected)


def test_weights_made_in_a_graph_outlive_it():
    cell, inputs = rnnx.LSTMCell(HIDDEN), jnp.asarray(inputs_of("float32"))
    with jax.checking_leaks():
        outputs = jax.jit(lambda inputs: cell.unroll(None, inputs, merge_outputs=True)[0])(inputs)
    assert cell.get_params()["lstm_i2h_weight"].shape == (4 * HIDDEN, WIDTH)
    close(outputs, cell.unroll(None, inputs, merge_outputs=True)[0], 1e-6)


def test_a_seed_may_be_traced_and_draws_anew():
    cell, inputs, traces = on_jax(stepped()), jnp.asarray(inputs_of()), []

    @jax.jit
    def run(inputs, seed):
        traces.append(seed.dtype)
        return cell.unroll(None, inputs, merge_outputs=True, training=True, seed=seed)[0]

    with jax.checking_leaks():
        one, other = run(inputs, jax.random.key(1)), run(inputs, jax.random.key(2))
    assert len(traces) == 1  # compiled once
    assert not np.allclose(one, other)
    eager = cell.unroll(None, inputs, merge_outputs=True, training=True, seed=jax.random.key(1))[0]
    close(one, eager)
    close(run(inputs, jax.random.PRNGKey(1)), one)
    close(run(inputs, 1), one)


def test_a_step_may_stand_in_a_scan_of_ones_own():
    cell, inputs = on_jax(rnnx.GRUCell(HIDDEN)), jnp.asarray(inputs_of())

    @jax.jit
    def run(inputs):
        def step(states, current):
            output, states = cell(current, states)
            return states, output

        return jax.lax.scan(step, [jnp.zeros((BATCH, HIDDEN))], inputs.swapaxes(0, 1))[1].swapaxes(0, 1)

    with jax.checking_leaks():
        outputs = run(inputs)
    close(outputs, cell.unroll(None, inputs, merge_outputs=True)[0])


@pytest.mark.parametrize("fuse", [True, False])
def test_a_graph_may_be_exported_without_batch_size_and_length(fuse):
    cell, inputs, lengths = on_jax(rnnx.GRUCell(HIDDEN)), jnp.asarray(inputs_of()), jnp.asarray(LENGTHS)

    def run(inputs, lengths):
        return cell.unroll(None, inputs, merge_outputs=True, valid_length=lengths, fuse=fuse)[0]

    batch, steps = export.symbolic_shape("batch, steps")
    shapes = jax.ShapeDtypeStruct((batch, steps, WIDTH), inputs.dtype), jax.ShapeDtypeStruct((batch,), lengths.dtype)
    close(export.export(jax.jit(run))(*shapes).call(inputs, lengths), run(inputs, lengths))


def test_what_is_traced_has_no_values_yet():
    with pytest.raises(rnnx.UnsupportedError, match="is traced and has no values yet"):
        jax.jit(lambda array: rnnx.get_backend("jax").to_numpy(array))(jnp.ones(2))


# -- gradients and batches --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [fused, stepped])
def test_grad_of_a_function_of_the_weights(make):
    cell, inputs, seed = on_jax(make()), jnp.asarray(inputs_of()), jax.random.key(7)

    def loss(weights, inputs):
        cell = make()
        cell.load_params(weights)
        outputs, _ = cell.unroll(None, inputs, merge_outputs=True, training=True, seed=seed)
        return jnp.sum(outputs**2)

    outputs, _, pullback = cell.vjp(None, inputs, merge_outputs=True, training=True, seed=seed)
    expected = pullback(2 * outputs)
    for gradient in (jax.grad(loss, (0, 1)), jax.jit(jax.grad(loss, (0, 1)))):
        close(gradient(arrays(cell), inputs), (expected.weights, expected.inputs))
    unpacked = jax.grad(loss)(cell.unpack_weights(arrays(cell)), inputs)
    close(cell.pack_weights(unpacked), expected.weights)


def test_vjp_is_numpys():
    cell, inputs = drawn(fused("gru")), inputs_of()
    outputs, _, pullback = cell.vjp(None, inputs, valid_length=LENGTHS)
    expected = pullback(np.cos(outputs))
    cell.to("jax")
    for run in (cell.vjp, jax.tree_util.Partial(cell.vjp, fuse=False)):
        outputs, _, pullback = run(None, jnp.asarray(inputs), valid_length=LENGTHS)
        found = pullback(jnp.cos(outputs))
        close((found.inputs, found.begin_state), (expected.inputs, expected.begin_state), 1e-11)
        close(found.weights, expected.weights, 1e-11)


@pytest.mark.parametrize("fuse", [True, False])
def test_vmap_over_weights_and_over_inputs(fuse):
    cell, inputs = on_jax(rnnx.LSTMCell(HIDDEN)), jnp.asarray(inputs_of())

    def run(weights, inputs):
        cell = rnnx.LSTMCell(HIDDEN)
        cell.load_params(weights)
        return cell.unroll(None, inputs, merge_outputs=True, fuse=fuse)[0]

    both = {name: jnp.stack([weight, -weight]) for name, weight in arrays(cell).items()}
    found = jax.vmap(run, (0, None))(both, inputs)
    close(list(found), [run({name: weight[index] for name, weight in both.items()}, inputs) for index in (0, 1)])
    close(
        list(jax.vmap(run, (None, 0))(arrays(cell), jnp.stack([inputs, 2 * inputs]))[1]),
        list(run(arrays(cell), 2 * inputs)),
    )


# -- arrays -----------------------------------------------------------------------------------------------------------


def test_arrays_do_not_share_memory_with_numpys():
    ops, array = rnnx.get_backend("jax"), np.ones(64)
    held = ops.from_numpy(array)
    array[:] = 2
    assert (ops.to_numpy(held) == 1).all()


def test_a_device_that_there_is_not():
    with pytest.raises(rnnx.UnsupportedError, match=r"no device 'tpu:7', only 'cpu:0'"):
        rnnx.LSTMCell(2).initialize(3, backend="jax", device="tpu:7")


def run_alone(code, **environment):
    """Run code in a process of its own, with warnings as errors."""

    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env={**os.environ, **environment})


def test_the_plugin_module_does_not_import_jax():
    run_alone("import sys, rnnx_jax.plugin as plugin; plugin.rnnx_backends(); assert 'jax' not in sys.modules")


def test_without_64_bits_float64_is_refused_and_all_else_is_the_same():
    cell, inputs = on_jax(stepped(), "float32"), jnp.asarray(inputs_of("float32"))
    outputs, _ = cell.unroll(None, inputs, merge_outputs=True, valid_length=LENGTHS, training=True, seed=2**62 + 1)
    code = f"""
import sys; sys.path.insert(0, {__file__.rpartition("/")[0]!r})
import numpy as np, pytest, test_backend as t, jax, jax.numpy as jnp, rnnx
jax.config.update("jax_enable_x64", False)
cell = t.on_jax(t.stepped(), "float32")
outputs, _ = cell.unroll(None, jnp.asarray(t.inputs_of("float32")), merge_outputs=True, valid_length=t.LENGTHS,
                         training=True, seed=2**62 + 1)
np.testing.assert_allclose(np.asarray(outputs).ravel(), {np.asarray(outputs).ravel().tolist()}, rtol=0, atol=1e-6)
with pytest.raises(rnnx.UnsupportedError, match="float32 of float64: switch its 64 bits on, by JAX_ENABLE_X64=1"):
    cell.to("jax", dtype="float64")
with pytest.raises(rnnx.UnsupportedError, match="int32 of int64"):
    rnnx.get_backend("jax").from_numpy(np.array([2**40]))
"""
    run_alone(code)


def test_cells_run_on_every_device_and_spread_over_all():
    code = """
import jax, jax.numpy as jnp, numpy as np, rnnx
assert rnnx.get_backend("jax").devices() == ("cpu:0", "cpu:1")
there = jax.devices()[1]
cell = rnnx.SequentialRNNCell()
for part in (rnnx.LSTMCell(6), rnnx.DropoutCell(0.5), rnnx.ZoneoutCell(rnnx.GRUCell(6), 0.5)):
    cell.add(part)
inputs = jax.device_put(jnp.ones((4, 5, 3)), there)
for lengths in (None, [3, 0, 5, 1]):
    outputs, states = cell.unroll(None, inputs, merge_outputs=True, valid_length=lengths, training=True, seed=1)
    assert all(array.devices() == {there} for array in [outputs, *states])
ops = rnnx.get_backend("jax")
assert ops.zeros((2,), outputs).devices() == ops.bernoulli(1, 0.5, (2,), outputs).devices() == {there}
assert cell.params["lstm_i2h_weight"].devices() == {there}
try:
    cell.unroll(None, jnp.ones((4, 5, 3)))
except rnnx.BackendMismatchError as error:
    assert "device cpu:1 and the inputs have cpu:0" in str(error)
else:
    raise AssertionError

cell.to("jax")
whole = cell.unroll(None, jnp.ones((4, 5, 3)), merge_outputs=True)[0]
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("rows",))
rows = jax.device_put(jnp.ones((4, 5, 3)), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows")))
for run in (cell.unroll, jax.jit(cell.unroll, static_argnums=(0,), static_argnames=("merge_outputs",))):
    outputs, _ = run(None, rows, merge_outputs=True)
    assert len(outputs.devices()) == 2
    np.testing.assert_allclose(outputs, whole, rtol=0, atol=1e-6)
"""
    run_alone(code, XLA_FLAGS="--xla_force_host_platform_device_count=2")


def test_the_readme_is_true(tmp_path):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    code, shown = ("".join(re.findall(rf"(?s)```{kind}\n(.*?)```", readme)) for kind in ("python", "text"))
    command = [sys.executable, "-W", "error", "-c", code]
    assert subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout == shown

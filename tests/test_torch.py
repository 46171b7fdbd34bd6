"""The PyTorch backend against NumPy's, torch.nn, and torch's own account of which kernel ran."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import rnnx

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

MODES = ["lstm", "gru", "rnn_tanh", "rnn_relu"]
BATCH, STEPS, WIDTH, HIDDEN = 4, 7, 3, 5
TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 0.1, "float16": 2e-2}


def pair(cell: rnnx.BaseRNNCell, dtype: str = "float64") -> tuple[rnnx.BaseRNNCell, rnnx.BaseRNNCell]:
    """Return the cell with distinct random weights on NumPy, and an equal one on torch."""
    rng = np.random.default_rng(7)
    cell.initialize(WIDTH, dtype="float64", seed=0)
    cell.load_params({name: rng.normal(0, 0.5, value.shape) for name, value in cell.get_params().items()})
    other = rnnx.BaseRNNCell.from_spec(cell.spec)
    other.load_params(cell.get_params())
    return cell, other.to("torch", dtype=dtype)


def fused(mode: str, layers: int = 3, bidirectional: bool = True, dropout: float = 0.3) -> rnnx.BaseRNNCell:
    return rnnx.FusedRNNCell(HIDDEN, layers, mode, bidirectional, dropout, get_next_state=True)


def zoned() -> rnnx.BaseRNNCell:
    stack = rnnx.SequentialRNNCell()
    stack.add(rnnx.ZoneoutCell(rnnx.LSTMCell(HIDDEN, "a_"), 0.2, 0.3))
    stack.add(rnnx.ResidualCell(rnnx.GRUCell(HIDDEN, "b_", reset_after=False)))
    stack.add(rnnx.BidirectionalCell(rnnx.RNNCell(2, "softsign", "l_"), rnnx.RNNCell(3, "softrelu", "r_")))
    return stack


def inputs_of(dtype: str = "float64") -> np.ndarray:
    return np.random.default_rng(3).normal(size=(BATCH, STEPS, WIDTH)).astype(dtype)


def flat(states: list) -> list:
    return [array for state in states for array in (flat(state) if isinstance(state, list) else [state])]


@pytest.mark.parametrize("lengths", [None, [STEPS, 0, 4, 5], [0, 0, 0, 0], [1, 2, 3, STEPS]])
@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("make", [*(lambda mode=mode: fused(mode) for mode in MODES), zoned], ids=[*MODES, "zoned"])
def test_outputs_states_and_gradients_are_numpys(make, fuse, lengths):
    cell, other = pair(make())
    inputs = inputs_of()
    expected, expected_states, expected_pull = cell.vjp(None, inputs, valid_length=lengths, merge_outputs=True)
    outputs, states, pull = other.vjp(
        None, torch.from_numpy(inputs), valid_length=lengths, merge_outputs=True, fuse=fuse
    )

    rng = np.random.default_rng(1)
    slope = rng.normal(size=expected.shape)
    slopes = [rng.normal(size=state.shape) for state in flat(expected_states)]
    judge = expected_pull(slope, slopes)
    found = pull(torch.from_numpy(slope), [torch.from_numpy(each) for each in slopes])

    pairs = [(outputs, expected), *zip(flat(states), flat(expected_states), strict=True), (found.inputs, judge.inputs)]
    pairs += zip(found.begin_state, judge.begin_state, strict=True)
    pairs += [(found.weights[name], gradient) for name, gradient in judge.weights.items()]
    for mine, theirs in pairs:
        np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("mode", MODES)
def test_dropout_with_a_seed_is_the_same_fused_and_stepped(mode):
    _, cell = pair(fused(mode))
    inputs = torch.from_numpy(inputs_of())
    before = torch.get_rng_state()
    one, _ = cell.unroll(None, inputs, training=True, seed=5)
    other, _ = cell.unfuse().unroll(None, inputs, training=True, seed=5, merge_outputs=True, fuse=False)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert not torch.allclose(one, cell.unroll(None, inputs, training=True, seed=6)[0])
    assert not torch.allclose(one, cell.unroll(None, inputs)[0])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("mode", MODES)
def test_every_dtype_is_close_to_float64(mode, dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    cell, other = pair(fused(mode, layers=2), dtype)
    expected, _ = cell.unroll(None, inputs_of())
    inputs = torch.from_numpy(inputs_of()).to(getattr(torch, dtype))
    outputs, _ = other.unroll(None, inputs)
    assert outputs.dtype == inputs.dtype
    scale = max(1.0, np.abs(expected).max())
    assert np.abs(outputs.double().numpy() - expected).max() <= TOLERANCES[dtype] * scale


@pytest.mark.parametrize(
    ("mode", "dtype", "lengths", "kernel"),
    [
        ("lstm", "float32", None, "torch.mkldnn"),
        ("lstm", "float32", [STEPS, 0, 4, 5], "torch.native"),
        ("lstm", "float64", None, "torch.native"),
        ("gru", "float32", None, "torch.native"),
        ("rnn_relu", "float32", None, "torch.native"),
    ],
)
def test_the_kernel_that_ran_is_the_one_named(mode, dtype, lengths, kernel):
    _, cell = pair(fused(mode), dtype)
    inputs = torch.from_numpy(inputs_of(dtype))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        cell.unroll(None, inputs, valid_length=lengths)
    ran = {event.name for event in profile.events()}
    assert cell.explain(inputs, valid_length=lengths).kernels == (kernel,)
    assert ("aten::mkldnn_rnn_layer" in ran) == (kernel == "torch.mkldnn")
    assert f"aten::{mode}" in ran


@pytest.mark.parametrize("mode", ["lstm", "gru", "rnn_tanh"])
def test_outputs_are_those_of_torch_nn(mode):
    module = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn_tanh": torch.nn.RNN}[mode](
        WIDTH, HIDDEN, 2, bidirectional=True, batch_first=True
    )
    cell = rnnx.FusedRNNCell(HIDDEN, 2, mode, bidirectional=True, prefix="")
    renamed = {}
    for name, weight in module.state_dict().items():
        kind, side, place = name.replace("_reverse", "").split("_")
        letter = "r" if name.endswith("_reverse") else "l"
        renamed[f"{letter}{place[1:]}_{side.replace('ih', 'i2h').replace('hh', 'h2h')}_{kind}"] = weight
    cell.load_params(renamed)
    inputs = torch.from_numpy(inputs_of("float32"))
    torch.testing.assert_close(cell.unroll(None, inputs)[0], module(inputs)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("fuse", [True, False])
def test_autograd_reaches_the_weights(fuse):
    _, cell = pair(fused("lstm"))
    inputs = torch.from_numpy(inputs_of())
    outputs, _, pull = cell.vjp(None, inputs)
    expected = pull(torch.ones_like(outputs)).weights["lstm_parameters"]
    cell.params["lstm_parameters"].requires_grad_()
    cell.unroll(None, inputs, fuse=fuse)[0].sum().backward()
    torch.testing.assert_close(cell.params["lstm_parameters"].grad, expected, rtol=0, atol=1e-11)
    assert (expected != 0).all()


def test_a_fused_cells_layers_are_views_of_its_one_vector():
    from rnnx.backend import Recurrence
    from rnnx.weights.layout import split_flat

    _, cell = pair(fused("lstm"))
    vector = cell.params["lstm_parameters"]
    layers = split_flat(rnnx.get_backend("torch"), vector, Recurrence("lstm", WIDTH, HIDDEN, 3, True)).layers
    storage = vector.untyped_storage().data_ptr()
    assert all(weight.untyped_storage().data_ptr() == storage for layer in layers for weight in layer)


@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_weights_come_back_from_torch_bit_for_bit(dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    _, cell = pair(fused("gru"), dtype)
    before = cell.get_params()
    after = cell.to("numpy").get_params()
    assert before["gru_parameters"].dtype.name == dtype
    assert before["gru_parameters"].tobytes() == after["gru_parameters"].tobytes()


def test_frameworks_devices_and_dtypes_do_not_mix():
    cell, other = pair(fused("lstm"))
    with pytest.raises(rnnx.BackendMismatchError, match=r"'torch'.*'numpy'"):
        cell.unroll(None, torch.from_numpy(inputs_of()))
    with pytest.raises(rnnx.BackendMismatchError, match=r"'numpy'.*'torch'"):
        other.unroll(None, inputs_of())
    with pytest.raises(rnnx.BackendMismatchError, match="device cpu and the inputs have meta"):
        other.unroll(None, torch.empty(BATCH, STEPS, WIDTH, dtype=torch.float64, device="meta"))
    with pytest.raises(rnnx.BackendMismatchError, match="dtype float64 and the inputs have float32"):
        other.unroll(None, torch.from_numpy(inputs_of("float32")))
    with pytest.raises(rnnx.BackendMismatchError, match=r"begin_state\[0\] has dtype float32"):
        other.unroll(None, torch.from_numpy(inputs_of()), begin_state=[torch.zeros(6, BATCH, HIDDEN)] * 2)


def test_the_plugin_module_does_not_import_torch():
    code = "import sys, rnnx_torch.plugin as plugin; plugin.rnnx_backends(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

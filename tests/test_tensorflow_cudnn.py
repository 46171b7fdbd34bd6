"""What reaches cuDNN's operation on a GPU, judged by a stand-in for it where there is none."""

from __future__ import annotations

import os

import numpy as np
import pytest

import rnnx

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

from cudnn_standin import StandIn  # noqa: E402 - after TensorFlow is known to be there

MODES = ["lstm", "gru", "rnn_tanh", "rnn_relu"]
BATCH, STEPS, WIDTH, HIDDEN = 4, 6, 3, 5
LENGTHS = {"none": None, "ragged": [STEPS, 0, 2, 5], "empty": [0, 0, 0, 0], "full": [STEPS] * BATCH}

on_a_gpu = bool(tf.config.list_physical_devices("GPU"))


@pytest.fixture
def operation(monkeypatch: pytest.MonkeyPatch) -> StandIn | None:
    """The stand-in, and a TensorFlow that takes its processor for a GPU; None where there is a real one."""
    if on_a_gpu:
        return None
    from rnnx_tensorflow import cudnn, kernels

    standin = StandIn(tf)
    monkeypatch.setattr(cudnn, "_operation", standin)
    monkeypatch.setattr(kernels, "_has_cudnn", lambda device: True)
    return standin


def filled(cell: rnnx.BaseRNNCell, dtype: str = "float64") -> rnnx.BaseRNNCell:
    """The cell on NumPy with distinct random weights."""
    cell.initialize(WIDTH, dtype="float64", seed=0)
    rng = np.random.default_rng(5)
    cell.load_params({name: rng.normal(0, 0.5, value.shape) for name, value in cell.get_params().items()})
    return cell


def on_tensorflow(cell: rnnx.BaseRNNCell) -> rnnx.BaseRNNCell:
    moved = rnnx.BaseRNNCell.from_spec(cell.spec)
    moved.load_params(cell.get_params())
    return moved.to("tensorflow")


def inputs_of() -> np.ndarray:
    return np.random.default_rng(2).normal(size=(BATCH, STEPS, WIDTH))


def begin_of(cell: rnnx.BaseRNNCell) -> list[np.ndarray]:
    rng = np.random.default_rng(9)
    return [rng.normal(size=[size or BATCH for size in shape]) for shape in cell.state_shape]


def stack(mode: str) -> rnnx.BaseRNNCell:
    make = {"lstm": rnnx.LSTMCell, "gru": rnnx.GRUCell, "rnn_tanh": rnnx.RNNCell}[mode]
    cells = rnnx.SequentialRNNCell()
    for prefix in "ab":
        cells.add(rnnx.BidirectionalCell(make(HIDDEN, prefix=f"{prefix}l_"), make(HIDDEN, prefix=f"{prefix}r_")))
    return cells


def flat(states: list) -> list:
    return [array for state in states for array in (flat(state) if isinstance(state, list) else [state])]


def assert_agree(cell: rnnx.BaseRNNCell, lengths: list[int] | None, **options: object) -> None:
    """Run a tree on NumPy and on cuDNN's kernel, or the stand-in, and compare outputs and states."""
    inputs, begin, other = inputs_of(), begin_of(cell), on_tensorflow(cell)
    expected, states = cell.unroll(None, inputs, begin, merge_outputs=True, valid_length=lengths, **options)
    tensors = tf.constant(inputs), [tf.constant(state) for state in begin]
    found, finals = other.unroll(None, *tensors, merge_outputs=True, valid_length=lengths, **options)
    assert other.explain(tensors[0], valid_length=lengths).kernels == ("tensorflow.cudnn",)
    for mine, theirs in [(found, expected), *zip(flat(finals), flat(states), strict=True)]:
        np.testing.assert_allclose(mine.numpy(), theirs, rtol=0, atol=1e-12)
    for row, length in enumerate(lengths or ()):
        assert not found.numpy()[row, length:].any()


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "both"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_a_fused_cell_hands_over_its_vector_as_it_is(operation, mode, layers, bidirectional, lengths):
    cell = filled(rnnx.FusedRNNCell(HIDDEN, layers, mode, bidirectional, get_next_state=True))
    assert_agree(cell, lengths)
    if operation is not None:
        [call] = operation.calls
        assert call["params"].shape == cell.get_params()[f"{mode}_parameters"].shape
        assert call["rnn_mode"] == mode
        assert call["direction"] == ("bidirectional" if bidirectional else "unidirectional")
        expected = [STEPS] * BATCH if lengths is None else [max(1, length) for length in lengths]
        assert call["sequence_lengths"].numpy().tolist() == expected


def test_the_vector_is_not_copied(operation):
    if operation is None:
        pytest.skip("what reaches the real operation is not seen")
    cell = on_tensorflow(filled(rnnx.FusedRNNCell(HIDDEN, 2, "lstm", True)))
    cell.unroll(None, tf.constant(inputs_of()))
    assert operation.calls[0]["params"] is cell.params["lstm_parameters"]


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("mode", ["lstm", "gru", "rnn_tanh"])
def test_cells_of_a_stack_are_joined_in_cudnns_order(operation, mode, lengths):
    assert_agree(filled(stack(mode)), lengths)


@pytest.mark.parametrize("mode", MODES)
def test_dropout_is_the_stepped_ones(operation, mode):
    cell = on_tensorflow(filled(rnnx.FusedRNNCell(HIDDEN, 3, mode, True, 0.4, get_next_state=True)))
    inputs = tf.constant(inputs_of())
    plan = cell.explain(inputs, training=True)
    assert plan.kernels == ("tensorflow.cudnn",)
    dropped, _ = cell.unroll(None, inputs, training=True, seed=3)
    stepped, _ = cell.unroll(None, inputs, training=True, seed=3, fuse=False)
    np.testing.assert_allclose(dropped.numpy(), stepped.numpy(), rtol=0, atol=1e-12)
    assert not np.allclose(dropped.numpy(), cell.unroll(None, inputs)[0].numpy())
    if operation is not None:
        assert [call["dropout"] for call in operation.calls] == [0.0] * 4


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_cudnn_does_not_take_runs_elsewhere(operation, dtype):
    from rnnx.backend import Call, Recurrence

    recurrence = Recurrence("lstm", WIDTH, HIDDEN)
    kernel = rnnx.get_backend("tensorflow").plan(recurrence, Call(dtype, None))
    assert kernel.name == ("tensorflow.cudnn" if dtype == "float16" else "tensorflow.compiled")

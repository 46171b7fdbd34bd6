"""`initialize` against ``Module.init_params`` with MXNet's default initializers."""

from __future__ import annotations

import numpy as np
import pytest

import rnnx

from .bridge import mx, stacked
from .trees import TREES

#: Without those that have no weights, and those whose weights MXNet cannot unpack.
INITIALIZED = {
    name: build
    for name, build in TREES.items()
    if not name.endswith((": dropout", "around dropout", "shared weights", "set of weights", "another prefix"))
}

BIASED = {
    f"{kind} with forget bias {bias}": lambda rnn, make=make, bias=bias: make(rnn, bias)
    for kind, make in {
        "lstm": lambda rnn, bias: rnn.LSTMCell(4, forget_bias=bias),
        "fused": lambda rnn, bias: rnn.FusedRNNCell(4, 2, bidirectional=True, forget_bias=bias),
        "fused gru": lambda rnn, bias: rnn.FusedRNNCell(4, 2, mode="gru", forget_bias=bias),
        "unfused": lambda rnn, bias: rnn.FusedRNNCell(4, 2, bidirectional=True, forget_bias=bias).unfuse(),
    }.items()
    for bias in (0.0, 1.0, 2.5, -1.0)
}


def initialized_by_mxnet(build, size: int) -> dict[str, np.ndarray]:
    """Return the weights, one a gate, that a module gets when its user says nothing."""
    cell = build(mx.rnn)
    outputs, _ = cell.unroll(2, mx.sym.Variable("data"), merge_outputs=True)
    module = mx.mod.Module(outputs, label_names=None)
    module.bind([("data", (2, 2, size))])
    module.init_params()
    weights, _ = module.get_params()
    return {name: array.asnumpy() for name, array in cell.unpack_weights(weights).items()}


def initialized_by_rnnx(build, size: int, seed: int = 0) -> dict[str, np.ndarray]:
    cell = build(rnnx)
    cell.initialize(size, seed=seed)
    return cell.unpack_weights(cell.get_params())


def biases(weights: dict[str, np.ndarray]) -> dict[str, list[float]]:
    return {name: array.tolist() for name, array in weights.items() if name.endswith("bias")}


def matrices(weights: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel() for name, array in weights.items() if name.endswith("weight")])


@pytest.mark.parametrize("name", INITIALIZED)
def test_names_shapes_biases_and_range(name):
    assert_initialized_alike(INITIALIZED[name])


@pytest.mark.parametrize("name", BIASED)
def test_forget_biases(name):
    assert_initialized_alike(BIASED[name])


def assert_initialized_alike(build) -> None:
    theirs, ours = initialized_by_mxnet(build, 3), initialized_by_rnnx(build, 3)
    assert {key: (array.shape, array.dtype) for key, array in ours.items()} == {
        key: (array.shape, array.dtype) for key, array in theirs.items()
    }
    assert biases(ours) == biases(theirs)
    for drawn in (matrices(ours), matrices(theirs)):
        assert np.all(np.abs(drawn) <= np.float32(0.01))
        assert np.unique(drawn).size > 0.99 * drawn.size


def test_both_biases_of_a_fused_cell_and_one_of_an_unfused():
    fused = initialized_by_rnnx(lambda rnn: rnn.FusedRNNCell(4, forget_bias=2.5), 3)
    unfused = initialized_by_rnnx(lambda rnn: rnn.FusedRNNCell(4, forget_bias=2.5).unfuse(), 3)
    assert biases(fused)["lstm_l0_i2h_f_bias"] == biases(fused)["lstm_l0_h2h_f_bias"] == [2.5] * 4
    assert biases(unfused)["lstm_l0_i2h_f_bias"] == [1.0] * 4
    assert biases(unfused)["lstm_l0_h2h_f_bias"] == [0.0] * 4


def distance(sample: np.ndarray) -> float:
    """Return the largest distance of the sample's distribution function from that of U(-0.01, 0.01)."""
    ordered = np.sort(sample.astype(np.float64))
    ranks = np.arange(len(ordered) + 1) / len(ordered)
    expected = (ordered + 0.01) / 0.02
    return max(np.max(ranks[1:] - expected), np.max(expected - ranks[:-1]))


@pytest.mark.parametrize("kind", ["plain", "fused"])
def test_weights_are_uniform(kind):
    def build(rnn):
        if kind == "fused":
            return rnn.FusedRNNCell(24, 2, bidirectional=True)
        return stacked(rnn, rnn.LSTMCell(24), rnn.GRUCell(32), rnn.RNNCell(24))

    mx.random.seed(5)
    for drawn in (matrices(initialized_by_mxnet(build, 20)), matrices(initialized_by_rnnx(build, 20))):
        # Kolmogorov's distribution: a uniform sample is further off once in a thousand times.
        assert distance(drawn) < 1.95 / np.sqrt(drawn.size)


def test_weights_differ_from_gate_to_gate_and_follow_the_seed():
    one, again, other = (
        initialized_by_rnnx(lambda rnn: rnn.FusedRNNCell(4, 2, bidirectional=True), 3, seed) for seed in (1, 1, 2)
    )
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not np.array_equal(matrices(one), matrices(other))
    assert np.unique(matrices(one)).size == matrices(one).size

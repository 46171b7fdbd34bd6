"""Gradients of every cell and modifier against central differences, and how they are asked for and held."""

from __future__ import annotations

import numpy as np
import pytest

import networks
import rnnx
from networks import PLAIN_MODES, RAGGED, Accumulator, PeepholeLSTM, leaves, plain, sequential
from slopes import BATCH, STEPS, WIDTH, Problem

HIDDEN = 4

fused_or_not = pytest.mark.parametrize("fuse", [True, False])


def fused(mode, layers=1, bidirectional=False, dropout=0.0, prefix="f_"):
    return rnnx.FusedRNNCell(HIDDEN, layers, mode, bidirectional, dropout, get_next_state=True, prefix=prefix)


def deep():
    return sequential(
        rnnx.ResidualCell(rnnx.ZoneoutCell(plain("gru", WIDTH, "a_"), 0.3, 0.2)),
        rnnx.DropoutCell(0.3),
        rnnx.BidirectionalCell(plain("lstm", 2, "b_"), PeepholeLSTM(3, "c_")),
        fused("gru", 2, True, 0.4, "d_"),
        Accumulator(2, "e_"),
        rnnx.ZoneoutCell(sequential(plain("rnn_softrelu", 3, "g_"), rnnx.DropoutCell(0.2)), 0.0, 0.5),
    )


def shared_directions():
    forward = plain("lstm", HIDDEN, "a_")
    return rnnx.BidirectionalCell(forward, rnnx.LSTMCell(HIDDEN, "b_", params=forward.params))


def shared_layers():
    first = plain("gru", WIDTH, "a_")
    return sequential(first, rnnx.DropoutCell(0.3), rnnx.GRUCell(WIDTH, "b_", params=first.params))


#: Every cell and modifier, and the kernels of a call in training.
NETWORKS = {
    **{
        mode: (lambda mode=mode: plain(mode, HIDDEN), (f"numpy.{mode}",) if mode in networks.FUSED_MODES else None)
        for mode in PLAIN_MODES
    },
    "peephole": (lambda: PeepholeLSTM(HIDDEN), None),
    "accumulator": (lambda: Accumulator(HIDDEN), None),
    **{
        f"fused_{mode}_{layers}_{directions}": (
            lambda mode=mode, layers=layers, directions=directions: fused(mode, layers, directions == 2, 0.4),
            (f"numpy.{mode}",),
        )
        for mode in networks.FUSED_MODES
        for layers, directions in ((1, 2), (3, 1), (2, 2))
    },
    "stack": (lambda: sequential(*(plain("lstm", HIDDEN, f"{place}_") for place in "abc")), ("numpy.lstm",)),
    "mixed_stack": (
        lambda: sequential(plain("lstm", 3, "a_"), plain("gru", 2, "b_"), plain("rnn_relu", 5, "c_")),
        ("numpy.lstm", "numpy.gru", "numpy.rnn_relu"),
    ),
    "bidirectional": (
        lambda: rnnx.BidirectionalCell(plain("gru", HIDDEN, "l_"), plain("gru", HIDDEN, "r_")),
        ("numpy.gru",),
    ),
    "different_directions": (
        lambda: rnnx.BidirectionalCell(plain("gru_reset_before", HIDDEN, "l_"), plain("lstm", 2, "r_")),
        ("numpy.loop", "numpy.lstm"),
    ),
    "shared_directions": (shared_directions, ("numpy.lstm",)),
    "shared_layers": (shared_layers, ("numpy.gru",)),
    "residual": (lambda: rnnx.ResidualCell(plain("lstm", WIDTH)), ("numpy.lstm",)),
    "zoneout": (lambda: rnnx.ZoneoutCell(plain("lstm", HIDDEN), 0.3, 0.4), None),
    "dropout": (
        lambda: sequential(rnnx.DropoutCell(0.4), plain("gru", HIDDEN), rnnx.DropoutCell(0.4)),
        ("numpy.dropout", "numpy.gru", "numpy.dropout"),
    ),
    "everything_dropped": (
        lambda: sequential(plain("gru", HIDDEN), rnnx.DropoutCell(1.0)),
        ("numpy.gru", "numpy.dropout"),
    ),
    "deep": (
        deep,
        ("numpy.loop", "numpy.dropout", "numpy.lstm", "numpy.loop", "numpy.gru", "numpy.loop", "numpy.loop"),
    ),
}


@fused_or_not
@pytest.mark.parametrize("lengths", [None, RAGGED], ids=["unmasked", "ragged"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_slopes(name, training, lengths, fuse):
    make, kernels = NETWORKS[name]
    problem = Problem(make(), training=training, seed=5 if training else None, valid_length=lengths, fuse=fuse)
    for gradient in problem.assert_gradients().values():
        assert gradient.any(axis=tuple(range(1, gradient.ndim))).mean() > 0.5
    if training and fuse:
        assert problem.cell.explain(problem.point["inputs"], training=True).kernels == (kernels or ("numpy.loop",))


@fused_or_not
@pytest.mark.parametrize("mode", [*PLAIN_MODES, "peephole"])
def test_every_gate_of_every_weight_has_its_gradient(mode, fuse):
    problem = Problem(plain(mode, HIDDEN), merge_outputs=True, fuse=fuse)
    gradients = problem.gradients()
    for name in problem.cell.get_params():
        assert gradients[name].all()
        for start in range(0, len(gradients[name]), HIDDEN):
            direction = np.zeros_like(gradients[name])
            direction[start : start + HIDDEN] = problem.rng.normal(size=direction[start : start + HIDDEN].shape)
            problem.assert_slope(gradients, {name: direction})


def test_every_element_of_a_fused_vector():
    cell = rnnx.FusedRNNCell(1, 2, "gru", True, get_next_state=True, prefix="f_")
    problem = Problem(cell, valid_length=RAGGED)
    gradients = problem.gradients()
    for place in range(gradients["f_parameters"].size):
        problem.assert_slope(gradients, {"f_parameters": np.eye(1, gradients["f_parameters"].size, place)[0]})


@pytest.mark.parametrize("name", NETWORKS)
def test_fused_and_stepped_gradients_agree(name):
    make, _ = NETWORKS[name]
    problems = [Problem(make(), training=True, seed=5, valid_length=RAGGED, fuse=fuse) for fuse in (True, False)]
    one, other = (problem.gradients() for problem in problems)
    for array in one:
        np.testing.assert_allclose(other[array], one[array], rtol=1e-11, atol=1e-11)


@fused_or_not
def test_float32_gradients(fuse):
    exact, single = (networks.randomized(fused("lstm", 2, True), WIDTH, dtype) for dtype in ("float64", "float32"))
    single.load_params({name: array.astype("float32") for name, array in exact.get_params().items()})
    inputs = np.random.default_rng(1).normal(size=(BATCH, STEPS, WIDTH))
    results = []
    for cell, dtype in ((exact, "float64"), (single, "float32")):
        outputs, _, pullback = cell.vjp(None, inputs.astype(dtype), fuse=fuse)
        found = pullback(np.ones_like(outputs))
        results.append([found.inputs, *found.begin_state, *found.weights.values()])
    for one, other in zip(*results, strict=True):
        assert other.dtype == np.float32
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_results_are_those_of_unroll(name):
    cell = networks.randomized(NETWORKS[name][0](), WIDTH)
    inputs = np.random.default_rng(1).normal(size=(BATCH, STEPS, WIDTH))
    call = {"merge_outputs": True, "valid_length": RAGGED, "training": True, "seed": 3}
    outputs, states = cell.unroll(None, inputs, **call)
    again, same, _ = cell.vjp(None, inputs, **call)
    np.testing.assert_array_equal(again, outputs)
    assert [type(state) for state in same] == [type(state) for state in states]
    for one, other in zip(leaves(states), leaves(same), strict=True):
        np.testing.assert_array_equal(one, other)


# -- what the pullback takes and gives -------------------------------------------------------------------------------


@fused_or_not
def test_the_pullback_may_be_called_again(fuse):
    problem = Problem(deep(), merge_outputs=True, training=True, seed=2, fuse=fuse)
    one, other = problem.gradients(), problem.gradients()
    for name, gradient in one.items():
        np.testing.assert_array_equal(other[name], gradient)
    half = problem.pullback(0.5 * problem.of_outputs, [0.5 * state for state in leaves(problem.of_states)])
    np.testing.assert_allclose(half.inputs, 0.5 * one["inputs"], atol=1e-14)


@fused_or_not
def test_gradients_left_out_are_zero(fuse):
    cell = networks.randomized(fused("lstm", 2), WIDTH)
    outputs, states, pullback = cell.vjp(None, np.ones((BATCH, STEPS, WIDTH)), fuse=fuse)
    of_outputs, (of_h, of_c) = np.ones_like(outputs), [np.ones_like(state) for state in states]
    zeros, none = np.zeros_like(of_h), np.zeros_like(outputs)
    pairs = [
        ((of_outputs,), (of_outputs, [zeros, zeros])),
        ((None, [of_h, of_c]), (none, [of_h, of_c])),
        ((None, [None, of_c]), (none, [zeros, of_c])),
        ((of_outputs, [of_h, None]), (of_outputs, [of_h, zeros])),
    ]
    for short, full in pairs:
        one, other = pullback(*short), pullback(*full)
        assert one.inputs.any()
        np.testing.assert_array_equal(one.inputs, other.inputs)
        np.testing.assert_array_equal(one.begin_state, other.begin_state)
        np.testing.assert_array_equal(one.weights["f_parameters"], other.weights["f_parameters"])
    assert not pullback(None).inputs.any()


@pytest.mark.parametrize("merge", [True, False, None])
@pytest.mark.parametrize(("form", "layout"), [("NTC", "NTC"), ("TNC", "TNC"), ("list", "NTC"), ("list", "TNC")])
@pytest.mark.parametrize("kind", ["plain", "fused"])
def test_gradients_are_held_as_the_caller_holds_things(kind, form, layout, merge):
    cell = networks.randomized(plain("lstm", HIDDEN) if kind == "plain" else fused("lstm"), WIDTH)
    rng = np.random.default_rng(1)
    array, of_array = rng.normal(size=(BATCH, STEPS, WIDTH)), rng.normal(size=(BATCH, STEPS, HIDDEN))

    def held(sequence, form):
        return {"NTC": sequence, "TNC": sequence.swapaxes(0, 1), "list": list(sequence.swapaxes(0, 1))}[form]

    expected = cell.vjp(None, array, merge_outputs=True)[2](of_array)
    outputs, _, pullback = cell.vjp(None, held(array, form), layout=layout, merge_outputs=merge)
    found = pullback(held(of_array, "list" if isinstance(outputs, list) else layout))
    assert isinstance(found.inputs, list if form == "list" else np.ndarray)
    np.testing.assert_allclose(found.inputs, held(expected.inputs, form), atol=1e-14)
    for name, gradient in expected.weights.items():
        np.testing.assert_allclose(found.weights[name], gradient, atol=1e-14)


def test_gradients_of_begin_states_are_flat():
    cell = sequential(rnnx.BidirectionalCell(plain("lstm", 2, "l_"), plain("gru", 3, "r_")), plain("gru", 5, "t_"))
    problem = Problem(cell, merge_outputs=True)
    found = problem.pullback(None, problem.of_states)
    assert [gradient.shape for gradient in found.begin_state] == [(BATCH, size) for size in (2, 2, 3, 5)]
    assert all(gradient.any() for gradient in found.begin_state)


def test_gradients_of_begin_states_that_were_not_given():
    cell = networks.randomized(fused("lstm", 2), WIDTH)
    outputs, _, pullback = cell.vjp(None, np.ones((BATCH, STEPS, WIDTH)))
    assert [state.shape for state in pullback(outputs).begin_state] == [(2, BATCH, HIDDEN)] * 2


def test_states_that_are_not_returned_take_no_gradient():
    cell = networks.randomized(rnnx.FusedRNNCell(HIDDEN, 2), WIDTH)
    outputs, states, pullback = cell.vjp(None, np.ones((BATCH, STEPS, WIDTH)))
    assert states == []
    assert len(pullback(np.ones_like(outputs), []).begin_state) == 2
    with pytest.raises(rnnx.ShapeError, match="2 gradients of states were given, expected 0"):
        pullback(np.ones_like(outputs), [outputs, outputs])


def test_a_gradient_of_another_shape_is_refused():
    cell = networks.randomized(fused("lstm"), WIDTH)
    outputs, _, pullback = cell.vjp(None, np.ones((BATCH, STEPS, WIDTH)))
    with pytest.raises(rnnx.ShapeError, match=r"gradient has shape \(5, 4, 3\).*\(5, 4, 4\)"):
        pullback(outputs[..., :3])


@pytest.mark.parametrize("steps", [STEPS, BATCH])
def test_an_array_is_no_gradient_of_a_list(steps):
    cell = networks.randomized(plain("lstm", HIDDEN), WIDTH)
    outputs, _, pullback = cell.vjp(None, np.ones((BATCH, steps, WIDTH)), merge_outputs=False)
    with pytest.raises(rnnx.RNNXError, match="gradient"):
        pullback(np.stack(outputs, 1))


def test_a_gradient_of_another_dtype_is_refused():
    cell = networks.randomized(fused("lstm"), WIDTH, "float32")
    outputs, _, pullback = cell.vjp(None, np.ones((BATCH, STEPS, WIDTH), "float32"))
    with pytest.raises(rnnx.BackendMismatchError, match=r"gradient.*float64.*float32"):
        pullback(outputs.astype("float64"))


def test_an_activation_of_ones_own_has_gradients():
    Problem(rnnx.RNNCell(HIDDEN, lambda a: (2.0 - a) / (1.0 + a * a)), merge_outputs=True).assert_gradients()


def test_every_operation_has_its_gradient():
    class Everything(rnnx.BaseRNNCell):
        """A cell that uses each operation at least once."""

        state_info = ({"shape": (0, HIDDEN)},)

        def __init__(self):
            super().__init__("all_")
            self.params.get("weight", shape=(2 * HIDDEN, 0))
            self.params.get("scale", shape=(1, HIDDEN))

        def step(self, ops, weights, inputs, states):
            one, two = ops.split(ops.affine(inputs, weights["weight"], None), (HIDDEN, HIDDEN))
            pair = ops.reverse(ops.stack([one * weights["scale"], -two / 3.0]), None)
            first, second = ops.unstack(pair)
            turned = ops.swapaxes(ops.swapaxes(pair, 0, 1), 1, 0)[1]
            mixed = ops.where(ops.keep(0.5, first), ops.relu(first), ops.softplus(second)) + turned
            mixed = ops.reshape(ops.concat([mixed, 1.0 / (2.0 + ops.sigmoid(two))]), (-1, 2, HIDDEN))
            hidden = ops.tanh(mixed[:, 0] - states[0] + (1.0 - mixed[:, 1]))
            return hidden, [hidden + ops.zeros((1, HIDDEN), hidden)]

    Problem(Everything(), merge_outputs=True, seed=3, valid_length=RAGGED).assert_gradients()


def test_a_function_of_numpys_has_no_gradient_and_says_so():
    cell = networks.randomized(rnnx.RNNCell(HIDDEN, np.arctan), WIDTH)
    with pytest.raises(rnnx.UnsupportedError, match=r"numpy\.arctan has no gradient here: .*activations"):
        cell.vjp(None, np.ones((BATCH, STEPS, WIDTH)))


def test_an_array_on_the_left_of_every_operator():
    weights = np.linspace(0.5, 1.5, HIDDEN)
    Problem(
        rnnx.RNNCell(HIDDEN, lambda a: weights / (weights + (weights - a) * (weights * a) * (weights * a) + 4.0)),
        merge_outputs=True,
    ).assert_gradients()

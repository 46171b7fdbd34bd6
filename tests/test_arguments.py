"""Every wrong argument: the class of the error, and that its message names the thing and both sides."""

from __future__ import annotations

import numpy as np
import pytest

import networks
import rnnx
from networks import plain, sequential

BATCH, STEPS, WIDTH, HIDDEN = 4, 5, 3, 6
INPUTS = np.random.default_rng(2).normal(size=(BATCH, STEPS, WIDTH))
LIST = [INPUTS[:, time] for time in range(STEPS)]


@pytest.fixture
def cell() -> rnnx.BaseRNNCell:
    return networks.randomized(plain("lstm", HIDDEN), WIDTH)


def state(*shape: int, dtype: str = "float64") -> np.ndarray:
    return np.zeros(shape or (BATCH, HIDDEN), dtype)


# -- inputs ----------------------------------------------------------------------------------------------------------


UNROLLED = {
    "no inputs": ({"inputs": None}, rnnx.ShapeError, "inputs is None: pass an array"),
    "rank 2": ({"inputs": INPUTS[0]}, rnnx.ShapeError, r"inputs have shape \(5, 3\), expected 3 axes: N, T, C"),
    "rank 4": ({"inputs": INPUTS[None], "layout": "TNC"}, rnnx.ShapeError, r"\(1, 4, 5, 3\), expected 3 axes: T, N, C"),
    "rank 0": ({"inputs": np.array(1.0)}, rnnx.ShapeError, r"inputs have shape \(\), expected 3 axes"),
    "steps of rank 3": ({"inputs": [INPUTS]}, rnnx.ShapeError, r"inputs have shape \(4, 5, 3\), expected 2 axes: N, C"),
    "steps of rank 1": ({"inputs": [INPUTS[0, 0]]}, rnnx.ShapeError, r"inputs have shape \(3,\), expected 2 axes"),
    "steps that differ": (
        {"inputs": [*LIST[:4], INPUTS[:3, 0]]},
        rnnx.ShapeError,
        r"inputs differ from step to step: \(4, 3\) and \(3, 3\)",
    ),
    "no steps": ({"inputs": []}, rnnx.ShapeError, "inputs have 0 steps, expected at least 1"),
    "no time": ({"inputs": INPUTS[:, :0]}, rnnx.ShapeError, "inputs have 0 steps, expected at least 1"),
    "no time wanted": ({"inputs": INPUTS[:, :0], "length": 0}, rnnx.ShapeError, "inputs have 0 steps"),
    "layout": ({"layout": "NCT"}, rnnx.ShapeError, "layout is 'NCT', expected one of 'NTC', 'TNC'"),
    "no layout": ({"layout": None}, rnnx.ShapeError, "layout is None, expected one of"),
    "length": ({"length": 6}, rnnx.ShapeError, "inputs have 5 steps, expected length=6"),
    "length of a list": ({"inputs": LIST, "length": 4}, rnnx.ShapeError, "inputs have 5 steps, expected length=4"),
    "length by layout": ({"length": 5, "layout": "TNC"}, rnnx.ShapeError, "inputs have 4 steps, expected length=5"),
    "integers": (
        {"inputs": INPUTS.astype("int64")},
        rnnx.BackendMismatchError,
        "inputs have dtype int64, expected one of float32, float64, float16, bfloat16",
    ),
    "complex": ({"inputs": INPUTS.astype("complex128")}, rnnx.BackendMismatchError, "inputs have dtype complex128"),
    "objects": ({"inputs": INPUTS.astype(object)}, rnnx.BackendMismatchError, "inputs have dtype object"),
    "steps of two dtypes": (
        {"inputs": [*LIST[:4], LIST[4].astype("float32")]},
        rnnx.BackendMismatchError,
        "inputs.*float64.*float32",
    ),
    "dtype": (
        {"inputs": INPUTS.astype("float32")},
        rnnx.BackendMismatchError,
        r"weight 'cell_i2h_weight' has dtype float64 and the inputs have float32: use cell\.to\(",
    ),
    "width": (
        {"inputs": INPUTS[..., :2]},
        rnnx.WeightFormatError,
        r"'cell_i2h_weight' has shape \(24, 3\), expected \(24, 2\) for inputs of size 2",
    ),
    "no width": ({"inputs": INPUTS[..., :0]}, rnnx.RNNXError, r"\b0\b"),
    "nested lists": ({"inputs": INPUTS.tolist()}, rnnx.BackendMismatchError, r"object of type builtins\.list"),
}

STATES = {
    "too few": ([state()], rnnx.ShapeError, r"begin_state holds 1 arrays, expected 2 of shapes \[\(0, 6\), \(0, 6\)\]"),
    "too many": ([state()] * 3, rnnx.ShapeError, "begin_state holds 3 arrays, expected 2"),
    "none": ([], rnnx.ShapeError, "begin_state holds 0 arrays, expected 2"),
    "not a list": (state(), rnnx.ShapeError, "begin_state holds 1 arrays, expected 2"),
    "batch": ([state(), state(3, HIDDEN)], rnnx.ShapeError, r"begin_state\[1\] has shape \(3, 6\), expected \(4, 6\)"),
    "width": ([state(BATCH, 5), state()], rnnx.ShapeError, r"begin_state\[0\] has shape \(4, 5\), expected \(4, 6\)"),
    "rank": ([state(1, BATCH, HIDDEN), state()], rnnx.ShapeError, r"begin_state\[0\] has shape \(1, 4, 6\), expected"),
    "placeholder": ([state(0, 5), state()], rnnx.ShapeError, r"begin_state\[0\] has shape \(0, 5\), expected \(4, 6\)"),
    "dtype": (
        [state(), state(dtype="float32")],
        rnnx.BackendMismatchError,
        r"begin_state\[1\] has dtype float32, and the inputs have float64",
    ),
    "integers": ([state(dtype="int64"), state()], rnnx.BackendMismatchError, r"begin_state\[0\] has dtype int64"),
    "numbers": ([0.0, 0.0], rnnx.BackendMismatchError, r"no backend takes an object of type builtins\.float"),
}

LENGTHS = {
    "shape": ([5, 5], r"valid_length has shape \(2,\), expected \(4,\): one length a row of the batch"),
    "rank": ([[5], [5], [5], [5]], r"valid_length has shape \(4, 1\), expected \(4,\)"),
    "scalar": (5, r"valid_length has shape \(\), expected \(4,\)"),
    "negative": ([5, -1, 2, 3], r"valid_length holds \[5, -1, 2, 3\], expected whole numbers from 0 to 5"),
    "too long": ([5, 6, 2, 3], r"valid_length holds \[5, 6, 2, 3\], expected whole numbers from 0 to 5"),
    "fractional": ([5, 1.5, 2, 3], r"valid_length holds \[5.0, 1.5, 2.0, 3.0\], expected whole numbers"),
    "nan": ([5, float("nan"), 2, 3], r"valid_length holds .*nan.*, expected whole numbers from 0 to 5"),
    "infinite": ([5, float("inf"), 2, 3], r"valid_length holds .*inf.*, expected whole numbers from 0 to 5"),
    "huge": ([5, 1e300, 2, 3], r"valid_length holds .*1e\+300.*, expected whole numbers from 0 to 5"),
    "text": (["5", "x", "2", "3"], "valid_length holds .*'x'.*, expected whole numbers from 0 to 5"),
    "none": ([5, None, 2, 3], "valid_length holds .*None.*, expected whole numbers from 0 to 5"),
    "complex": ([5, 1j, 2, 3], "valid_length holds .*1j.*, expected whole numbers from 0 to 5"),
    "empty": ([], r"valid_length has shape \(0,\), expected \(4,\)"),
}

calls = pytest.mark.parametrize("method", ["unroll", "vjp"])


@calls
@pytest.mark.parametrize(("given", "error", "message"), UNROLLED.values(), ids=UNROLLED.keys())
def test_inputs(cell, method, given, error, message):
    with pytest.raises(error, match=message):
        getattr(cell, method)(**{"length": None, "inputs": INPUTS, **given})


@calls
@pytest.mark.parametrize(("given", "error", "message"), STATES.values(), ids=STATES.keys())
def test_begin_states(cell, method, given, error, message):
    with pytest.raises(error, match=message):
        getattr(cell, method)(None, INPUTS, given)


@calls
@pytest.mark.parametrize("kind", [list, np.array])
@pytest.mark.parametrize(("given", "message"), LENGTHS.values(), ids=LENGTHS.keys())
def test_valid_lengths(cell, method, kind, given, message):
    with pytest.raises(rnnx.ShapeError, match=message):
        getattr(cell, method)(None, INPUTS, valid_length=np.array(given) if kind is np.array else given)


def test_states_of_a_fused_cell():
    cell = networks.randomized(rnnx.FusedRNNCell(HIDDEN, 2), WIDTH)
    with pytest.raises(rnnx.ShapeError, match=r"begin_state\[0\] has shape \(4, 6\), expected \(2, 4, 6\)"):
        cell.unroll(None, INPUTS, [state(), state()])


def test_a_fused_cell_of_another_width():
    cell = networks.randomized(rnnx.FusedRNNCell(HIDDEN, 2), WIDTH)
    with pytest.raises(rnnx.WeightFormatError, match=r"'lstm_parameters' has shape \(\d+,\), expected \(\d+,\) for"):
        cell.unroll(None, INPUTS[..., :2])


def test_the_cell_that_does_not_fit_is_named():
    cell = networks.randomized(sequential(plain("lstm", HIDDEN, "a_"), plain("gru", 2, "b_")), WIDTH)
    weights = cell.get_params() | {"b_i2h_weight": np.ones((6, 5))}
    with pytest.raises(rnnx.WeightFormatError, match=r"'b_i2h_weight' has shape \(6, 5\), expected \(6, 6\)"):
        cell.load_params(weights)


def test_a_failed_call_leaves_the_cell_as_it_was(cell):
    expected, _ = cell.unroll(None, INPUTS)
    for given, error, _ in UNROLLED.values():
        with pytest.raises(error):
            cell.unroll(**{"length": None, "inputs": INPUTS, **given})
    np.testing.assert_array_equal(cell.unroll(None, INPUTS)[0], expected)


def test_a_failed_first_call_makes_no_weights():
    cell = plain("lstm", HIDDEN)
    for given in ({"inputs": INPUTS.astype("int64")}, {"layout": "NCT"}, {"valid_length": [9] * 4}):
        with pytest.raises(rnnx.RNNXError):
            cell.unroll(**{"length": None, "inputs": INPUTS, **given})
    with pytest.raises(rnnx.ShapeError):
        cell.unroll(None, INPUTS, [state()])
    assert cell.get_params() == {}


# -- steps -----------------------------------------------------------------------------------------------------------


STEPS_TAKEN = {
    "rank 3": (INPUTS, [state(), state()], rnnx.ShapeError, r"inputs have shape \(4, 5, 3\), expected 2 axes: N, C"),
    "rank 1": (INPUTS[0, 0], [state(), state()], rnnx.ShapeError, r"inputs have shape \(3,\), expected 2 axes"),
    "list": (LIST, [state(), state()], rnnx.BackendMismatchError, r"object of type builtins\.list"),
    "integers": (
        np.ones((4, 3), "int64"),
        [state(), state()],
        rnnx.BackendMismatchError,
        "inputs have dtype int64, expected one of",
    ),
    "states": (LIST[0], [state()], rnnx.ShapeError, "states holds 1 arrays, expected 2"),
    "state": (LIST[0], [state(), state(4, 5)], rnnx.ShapeError, r"states\[1\] has shape \(4, 5\), expected \(4, 6\)"),
    "dtype": (LIST[0], [state(), state(dtype="float32")], rnnx.BackendMismatchError, r"states\[1\] has dtype float32"),
}


@pytest.mark.parametrize("ready", [True, False], ids=["with weights", "without"])
@pytest.mark.parametrize(("inputs", "states", "error", "message"), STEPS_TAKEN.values(), ids=STEPS_TAKEN.keys())
def test_steps(cell, inputs, states, error, message, ready):
    cell = cell if ready else plain("lstm", HIDDEN)
    with pytest.raises(error, match=message):
        cell(inputs, states)
    assert ready or cell.get_params() == {}


def test_a_step_of_another_width(cell):
    with pytest.raises(rnnx.WeightFormatError, match=r"has shape \(24, 3\), expected \(24, 2\) for inputs of size 2"):
        cell(LIST[0][:, :2], cell.begin_state())


def test_no_states_are_zeros(cell):
    expected, _ = cell(LIST[0], [state(), state()])
    np.testing.assert_array_equal(cell(LIST[0], None)[0], expected)


def test_what_cannot_be_stepped():
    both = rnnx.BidirectionalCell(plain("lstm", 2, "l_"), plain("lstm", 2, "r_"))
    fused = rnnx.FusedRNNCell(2)
    with pytest.raises(rnnx.UnsupportedError, match=r"BidirectionalCell cannot be stepped: use unroll\(\)"):
        both(LIST[0], both.begin_state())
    with pytest.raises(rnnx.UnsupportedError, match=r"FusedRNNCell cannot be stepped: use unroll\(\), or .* unfuse"):
        fused(LIST[0], fused.begin_state())
    stack = sequential(plain("lstm", 3, "a_"), rnnx.FusedRNNCell(2, prefix="f_"))
    with pytest.raises(rnnx.UnsupportedError, match=r"FusedRNNCell cannot be stepped: use unfuse\(\) first"):
        stack(LIST[0], stack.begin_state())
    stack = rnnx.ResidualCell(rnnx.BidirectionalCell(plain("lstm", 2, "l_"), plain("lstm", 1, "r_")))
    with pytest.raises(rnnx.UnsupportedError, match="BidirectionalCell cannot be stepped"):
        stack(LIST[0], stack.begin_state())


def test_a_residual_of_another_width():
    for fuse in (True, False):
        with pytest.raises(rnnx.ShapeError, match="adds its inputs, 3 wide, to its base cell's outputs, 6 wide"):
            rnnx.ResidualCell(plain("lstm", HIDDEN)).unroll(None, INPUTS, fuse=fuse)
    narrow = rnnx.ResidualCell(plain("lstm", 1))
    with pytest.raises(rnnx.ShapeError, match="3 wide, to its base cell's outputs, 1 wide"):
        narrow.unroll(None, INPUTS)
    with pytest.raises(rnnx.ShapeError, match="3 wide, to its base cell's outputs, 1 wide"):
        narrow.explain(INPUTS)


# -- constructors ----------------------------------------------------------------------------------------------------


def one() -> rnnx.BaseRNNCell:
    return rnnx.LSTMCell(2)


CONSTRUCTED = {
    "no units": (lambda: rnnx.LSTMCell(0), rnnx.ShapeError, "num_hidden is 0, expected at least 1"),
    "fewer units": (lambda: rnnx.GRUCell(-2), rnnx.ShapeError, "num_hidden is -2, expected at least 1"),
    "no fused units": (lambda: rnnx.FusedRNNCell(0), rnnx.ShapeError, "num_hidden is 0, expected at least 1"),
    "half a unit": (lambda: rnnx.RNNCell(2.5), rnnx.ShapeError, "num_hidden is 2.5, expected a whole number"),
    "units as text": (lambda: rnnx.LSTMCell("3"), rnnx.ShapeError, "num_hidden is '3', expected a whole number"),
    "no layers": (lambda: rnnx.FusedRNNCell(2, 0), rnnx.ShapeError, "num_layers is 0, expected at least 1"),
    "half a layer": (lambda: rnnx.FusedRNNCell(2, 1.5), rnnx.ShapeError, "num_layers is 1.5, expected a whole number"),
    "mode": (
        lambda: rnnx.FusedRNNCell(2, mode="ltsm"),
        rnnx.UnsupportedError,
        r"no mode is called 'ltsm' \(nearest: 'lstm'\); there are rnn_relu, rnn_tanh, lstm, gru",
    ),
    "activation": (
        lambda: rnnx.RNNCell(2, "tahn"),
        rnnx.UnsupportedError,
        r"no activation is called 'tahn' \(nearest: 'tanh'\); there are relu, sigmoid, tanh",
    ),
    "no forget bias": (lambda: rnnx.LSTMCell(2, forget_bias=float("inf")), rnnx.ShapeError, "forget_bias is inf"),
    "no fused forget bias": (lambda: rnnx.FusedRNNCell(2, forget_bias="1"), rnnx.ShapeError, "forget_bias is '1'"),
    "no activation": (lambda: rnnx.RNNCell(2, None), rnnx.RNNXError, "activation.*None"),
    "dropout above": (
        lambda: rnnx.DropoutCell(1.1),
        rnnx.ShapeError,
        "dropout is 1.1, expected a fraction from 0 to 1",
    ),
    "dropout below": (lambda: rnnx.DropoutCell(-0.1), rnnx.ShapeError, "dropout is -0.1, expected a fraction"),
    "dropout as text": (lambda: rnnx.DropoutCell("0.5"), rnnx.ShapeError, "dropout is '0.5', expected a number"),
    "dropout nan": (lambda: rnnx.DropoutCell(float("nan")), rnnx.ShapeError, "dropout is nan, expected a fraction"),
    "fused dropout": (lambda: rnnx.FusedRNNCell(2, dropout=2), rnnx.ShapeError, "dropout is 2, expected a fraction"),
    "fused dropout as text": (lambda: rnnx.FusedRNNCell(2, dropout="a"), rnnx.ShapeError, "dropout is 'a', expected"),
    "zoneout": (lambda: rnnx.ZoneoutCell(one(), 1.5), rnnx.ShapeError, "zoneout_outputs is 1.5, expected a fraction"),
    "zoneout of states": (lambda: rnnx.ZoneoutCell(one(), 0, -1), rnnx.ShapeError, "zoneout_states is -1, expected"),
    "begin state": (lambda: one().begin_state(np.ones), rnnx.ShapeError, r"begin_state\(func\) needs batch_size="),
    "negative batch": (lambda: one().begin_state(batch_size=-2), rnnx.ShapeError, "batch_size is -2, expected"),
    "dtype": (
        lambda: one().begin_state(batch_size=2, dtype="float31"),
        rnnx.ShapeError,
        "no dtype is called 'float31'",
    ),
    "states elsewhere": (
        lambda: one().begin_state(batch_size=2, backend="nope"),
        rnnx.BackendNotFoundError,
        "no backend is called 'nope'",
    ),
    "input size": (lambda: one().initialize(0), rnnx.ShapeError, "input_size is 0, expected at least 1"),
    "half an input": (lambda: one().initialize(2.5), rnnx.ShapeError, "input_size is 2.5, expected a whole number"),
    "zoneout of another size": (
        lambda: networks.randomized(rnnx.ResidualCell(rnnx.LSTMCell(2)), 3),
        rnnx.ShapeError,
        "3 wide.*2 wide",
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), CONSTRUCTED.values(), ids=CONSTRUCTED.keys())
def test_constructors_and_makers(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_errors_are_also_what_python_has_for_them():
    pairs = [
        (rnnx.BackendNotFoundError, ImportError),
        (rnnx.BackendMismatchError, TypeError),
        (rnnx.UnsupportedError, NotImplementedError),
        (rnnx.ShapeError, ValueError),
        (rnnx.WeightFormatError, ValueError),
        (rnnx.ModifiedCellError, Exception),
    ]
    for error, builtin in pairs:
        assert issubclass(error, rnnx.RNNXError)
        assert issubclass(error, builtin)

"""Every cell against the reference, however its inputs, states and outputs are held."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import networks
import rnnx
from networks import FUSED_MODES, PLAIN_MODES, RAGGED, assert_all_close, batch_major, leaves
from rnnx.conformance import reference

BATCH, STEPS, WIDTH, HIDDEN = 4, 5, 3, 6
LENGTHS = {"unmasked": None, "ragged": RAGGED, "full": (STEPS,) * BATCH, "empty": (0,) * BATCH}


def inputs_of(dtype: str = "float64", width: int = WIDTH, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(BATCH, STEPS, width)).astype(dtype)


def random_states(cell: rnnx.BaseRNNCell, dtype: str = "float64", seed: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, [size or BATCH for size in shape]).astype(dtype) for shape in cell.state_shape]


# -- the equations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("given", [True, False], ids=["begin", "zeros"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
@pytest.mark.parametrize("mode", PLAIN_MODES)
def test_a_plain_cell_is_its_equation(mode, lengths, given, fuse):
    cell = networks.randomized(networks.plain(mode, HIDDEN), WIDTH)
    inputs, begin = inputs_of(), random_states(cell) if given else None
    outputs, states = cell.unroll(None, inputs, begin, merge_outputs=True, valid_length=lengths, fuse=fuse)
    expected, finals = reference.run(networks.reference_of(mode, cell), inputs, begin, lengths)
    assert_all_close([outputs, *states], [expected, *finals], 1e-12)
    kernel = f"numpy.{mode}" if fuse and mode in FUSED_MODES else "numpy.loop"
    assert cell.explain(inputs, valid_length=lengths, fuse=fuse).kernels == (kernel,)


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("given", [True, False], ids=["begin", "zeros"])
@pytest.mark.parametrize("lengths", [None, RAGGED], ids=["unmasked", "ragged"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("mode", FUSED_MODES)
def test_a_fused_cell_is_its_layers(mode, layers, directions, lengths, given, fuse):
    cell = rnnx.FusedRNNCell(HIDDEN, layers, mode, directions == 2, get_next_state=True, prefix="f_")
    networks.randomized(cell, WIDTH, scale=0.6)
    inputs, begin = inputs_of(), random_states(cell) if given else None
    outputs, states = cell.unroll(None, inputs, begin, valid_length=lengths, fuse=fuse)
    judge = networks.reference_of_fused(cell, mode, WIDTH, HIDDEN, layers, directions, "f_")
    expected, finals = reference.run(judge, inputs, begin and networks.interleaved(begin), lengths)
    assert_all_close([outputs, *networks.interleaved(states)], [expected, *finals], 1e-12)
    kernels = (f"numpy.{mode}",) if fuse else ("numpy.loop",) * (layers * directions)
    assert cell.explain(inputs, valid_length=lengths, fuse=fuse).kernels == kernels


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("mode", PLAIN_MODES)
def test_float32_is_computed_in_float32(mode, fuse):
    cell = networks.randomized(networks.plain(mode, HIDDEN), WIDTH, "float32")
    inputs, begin = inputs_of("float32"), random_states(cell, "float32")
    outputs, states = cell.unroll(None, inputs, begin, merge_outputs=True, valid_length=RAGGED, fuse=fuse)
    expected, finals = reference.run(networks.reference_of(mode, cell), inputs, begin, RAGGED)
    assert_all_close([outputs, *states], [expected, *finals], 1e-5)
    assert {array.dtype for array in [outputs, *states]} == {np.dtype("float32")}


@pytest.mark.parametrize("mode", ["lstm", "gru", "rnn_tanh", "rnn_relu"])
def test_a_fused_cell_in_float32(mode):
    cell = rnnx.FusedRNNCell(HIDDEN, 2, mode, bidirectional=True, get_next_state=True, prefix="f_")
    networks.randomized(cell, WIDTH, "float32", scale=0.6)
    outputs, states = cell.unroll(None, inputs_of("float32"), valid_length=RAGGED)
    judge = networks.reference_of_fused(cell, mode, WIDTH, HIDDEN, 2, 2, "f_")
    expected, finals = reference.run(judge, inputs_of("float32"), None, RAGGED)
    assert_all_close([outputs, *networks.interleaved(states)], [expected, *finals], 1e-5)
    assert {array.dtype for array in [outputs, *states]} == {np.dtype("float32")}


@pytest.mark.parametrize("mode", ["lstm", "gru", "rnn_tanh"])
def test_float16_is_stepped(mode):
    cell = networks.randomized(networks.plain(mode, HIDDEN), WIDTH, "float16", scale=0.5)
    inputs = inputs_of("float16")
    outputs, _ = cell.unroll(None, inputs, merge_outputs=True)
    expected, _ = reference.run(networks.reference_of(mode, cell), inputs)
    assert outputs.dtype == np.float16
    np.testing.assert_allclose(outputs, expected, atol=5e-3)
    assert cell.explain(inputs).kernels == ("numpy.loop",)


def test_bfloat16_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(rnnx.UnsupportedError, match=r"no bfloat16 of its own: pip install 'rnnx\[bfloat16\]'"):
        networks.plain("lstm", HIDDEN).initialize(WIDTH, dtype="bfloat16")


def test_gru_variants_differ():
    inputs = inputs_of()
    after, before = (networks.randomized(networks.plain(mode, HIDDEN), WIDTH) for mode in ("gru", "gru_reset_before"))
    one, other = (cell.unroll(None, inputs, merge_outputs=True)[0] for cell in (after, before))
    assert np.abs(one - other).max() > 0.01


def test_an_activation_may_be_a_function():
    cell = networks.randomized(rnnx.RNNCell(HIDDEN, lambda a: a / (1.0 + a * a), "cell_"), WIDTH)
    weights = cell.get_params()
    hidden, inputs = np.zeros((BATCH, HIDDEN)), inputs_of()
    outputs, _ = cell.unroll(None, inputs)
    for time in range(STEPS):
        a = inputs[:, time] @ weights["cell_i2h_weight"].T + weights["cell_i2h_bias"]
        a = a + hidden @ weights["cell_h2h_weight"].T + weights["cell_h2h_bias"]
        hidden = a / (1 + a * a)
        np.testing.assert_allclose(outputs[time], hidden, rtol=0, atol=1e-13)
    assert cell.explain(inputs).kernels == ("numpy.loop",)


# -- how sequences are held ------------------------------------------------------------------------------------------


def held(inputs: np.ndarray, form: str) -> object:
    if form == "list":
        return [inputs[:, time] for time in range(inputs.shape[1])]
    return inputs if form == "NTC" else inputs.transpose(1, 0, 2)


def assert_held(outputs: object, merged: bool, layout: str, expected: np.ndarray) -> None:
    assert isinstance(outputs, np.ndarray if merged else list)
    found = outputs if merged else np.stack(outputs)
    np.testing.assert_allclose(
        found, expected if merged and layout == "NTC" else expected.transpose(1, 0, 2), atol=1e-12
    )


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("merge", [True, False, None])
@pytest.mark.parametrize(("form", "layout"), [("NTC", "NTC"), ("TNC", "TNC"), ("list", "NTC"), ("list", "TNC")])
@pytest.mark.parametrize("kind", ["plain", "fused"])
def test_layouts_and_merging(kind, form, layout, merge, fuse):
    make = {"plain": networks.plain("lstm", HIDDEN), "fused": rnnx.FusedRNNCell(HIDDEN, prefix="cell_")}
    cell = networks.randomized(make[kind], WIDTH)
    judge = (
        networks.reference_of("lstm", cell)
        if kind == "plain"
        else networks.reference_of_fused(cell, "lstm", WIDTH, HIDDEN, 1, 1, "cell_")
    )
    expected, _ = reference.run(judge, inputs_of(), None, RAGGED)
    outputs, _ = cell.unroll(
        STEPS, held(inputs_of(), form), layout=layout, merge_outputs=merge, valid_length=RAGGED, fuse=fuse
    )
    assert_held(outputs, (kind == "fused") if merge is None else merge, layout, expected)


@pytest.mark.parametrize("length", [None, STEPS])
def test_a_tuple_of_steps_is_a_list_of_steps(length):
    cell = networks.randomized(networks.plain("gru", HIDDEN), WIDTH)
    steps = held(inputs_of(), "list")
    one, other = (cell.unroll(length, form)[0] for form in (steps, tuple(steps)))
    np.testing.assert_array_equal(one, other)


def test_what_is_merged_by_default():
    plain, fused = networks.plain("lstm", 3, "a_"), rnnx.FusedRNNCell(3, prefix="b_")
    dropout = rnnx.DropoutCell(0.5)
    array, steps = inputs_of(), held(inputs_of(), "list")
    cases = [
        (plain, array, False),
        (fused, array, True),
        (fused, steps, True),
        (dropout, array, True),
        (dropout, steps, False),
        (networks.sequential(plain, rnnx.DropoutCell(0.5)), array, False),
        (networks.sequential(networks.plain("lstm", 3, "c_"), rnnx.FusedRNNCell(3, prefix="d_")), steps, True),
        (rnnx.BidirectionalCell(networks.plain("gru", 3, "e_"), networks.plain("gru", 3, "f_")), array, False),
        (rnnx.BidirectionalCell(rnnx.FusedRNNCell(3, prefix="g_"), rnnx.FusedRNNCell(3, prefix="h_")), array, True),
        (rnnx.ResidualCell(rnnx.FusedRNNCell(3, prefix="i_")), array, True),
        (rnnx.ResidualCell(networks.plain("rnn_tanh", 3, "j_")), array, False),
    ]
    for cell, inputs, merged in cases:
        assert isinstance(networks.randomized(cell, WIDTH).unroll(None, inputs)[0], np.ndarray if merged else list)


# -- one step at a time ----------------------------------------------------------------------------------------------


def stepped(cell, inputs, states):
    cell.reset()
    outputs = []
    for time in range(inputs.shape[1]):
        output, states = cell(inputs[:, time], states)
        outputs.append(output)
    return np.stack(outputs, 1), states


@pytest.mark.parametrize("mode", [*PLAIN_MODES, "peephole"])
def test_steps_are_the_unrolled_sequence(mode):
    cell = networks.randomized(networks.plain(mode, HIDDEN), WIDTH)
    inputs, begin = inputs_of(), random_states(cell)
    outputs, states = stepped(cell, inputs, begin)
    expected, finals = reference.run(networks.reference_of(mode, cell), inputs, begin)
    assert_all_close([outputs, *states], [expected, *finals], 1e-12)


def test_steps_through_a_tree():
    inner = networks.sequential(networks.plain("gru", WIDTH, "a_"), rnnx.DropoutCell(0.4))
    cell = networks.sequential(
        rnnx.ResidualCell(inner), rnnx.ZoneoutCell(networks.plain("lstm", HIDDEN, "b_"), 0.3, 0.3)
    )
    networks.randomized(cell, WIDTH)
    inputs, begin = inputs_of(), random_states(cell)
    outputs, states = stepped(cell, inputs, begin)
    judge = reference.sequential(
        reference.residual(networks.reference_of("gru", cell, "a_")), networks.reference_of("lstm", cell, "b_")
    )
    expected, finals = reference.run(judge, inputs, begin)
    assert_all_close([outputs, *states], [expected, *finals], 1e-12)


def test_steps_may_start_from_begin_state_without_a_batch_size():
    cell = networks.randomized(networks.plain("lstm", HIDDEN), WIDTH)
    one, _ = cell(inputs_of()[:, 0], cell.begin_state())
    other, _ = cell(inputs_of()[:, 0], cell.begin_state(batch_size=BATCH))
    np.testing.assert_array_equal(one, other)


# -- states ----------------------------------------------------------------------------------------------------------


def test_state_info_and_shapes_are_those_of_mxnet():
    assert rnnx.LSTMCell(7).state_info == [{"shape": (0, 7), "__layout__": "NC"}] * 2
    assert rnnx.GRUCell(7).state_info == [{"shape": (0, 7), "__layout__": "NC"}]
    assert rnnx.RNNCell(7).state_shape == [(0, 7)]
    assert rnnx.FusedRNNCell(7, 2, bidirectional=True).state_info == [{"shape": (4, 0, 7), "__layout__": "LNC"}] * 2
    assert rnnx.FusedRNNCell(7, 3, "gru").state_shape == [(3, 0, 7)]
    assert rnnx.DropoutCell(0.5).state_shape == []
    stack = networks.sequential(rnnx.LSTMCell(7), rnnx.DropoutCell(0.1), rnnx.GRUCell(5))
    assert stack.state_shape == [(0, 7), (0, 7), (0, 5)]
    assert rnnx.ZoneoutCell(stack).state_shape == stack.state_shape
    assert rnnx.BidirectionalCell(rnnx.GRUCell(2), rnnx.RNNCell(3)).state_shape == [(0, 2), (0, 3)]


def test_begin_state_is_zeros_like_the_weights():
    cell = networks.randomized(networks.plain("lstm", HIDDEN), WIDTH)
    states = cell.begin_state(batch_size=BATCH)
    assert [(state.shape, state.dtype, state.any()) for state in states] == [((BATCH, HIDDEN), np.float64, False)] * 2
    assert cell.begin_state(batch_size=2, dtype="float32")[0].dtype == np.float32
    assert rnnx.LSTMCell(3).begin_state(batch_size=2)[0].dtype == np.float32


class Unsigned:
    """Makes ones, and like a function written in C does not say what it takes."""

    __signature__ = "unknown"

    def __call__(self, shape):
        return np.ones(shape)


@pytest.mark.parametrize("func", [np.ones, lambda shape: np.ones(shape), lambda s: np.ones(s), Unsigned()])
def test_begin_state_takes_a_function_of_the_shape(func):
    states = rnnx.LSTMCell(HIDDEN).begin_state(func, BATCH)
    assert [state.shape for state in states] == [(BATCH, HIDDEN)] * 2
    assert all((state == 1).all() for state in states)


def test_begin_state_passes_keywords_on():
    (state,) = rnnx.GRUCell(HIDDEN).begin_state(np.full, BATCH, fill_value=2.5, dtype="float32")
    assert state.dtype == np.float32
    assert (state == 2.5).all()


def test_begin_state_calls_a_function_as_mxnet_does():
    calls = []

    def variable(name, shape, **kwargs):
        calls.append((name, shape, kwargs))
        return np.zeros(shape)

    stack = networks.sequential(rnnx.LSTMCell(3, "a_"), rnnx.GRUCell(2, "b_"))
    stack.begin_state(variable, 4, lr_mult=2.0)
    extra = {"__layout__": "NC", "lr_mult": 2.0}
    assert calls == [
        ("a_begin_state_0", (4, 3), extra),
        ("a_begin_state_1", (4, 3), extra),
        ("b_begin_state_0", (4, 2), extra),
    ]
    stack.begin_state(variable, 4)
    assert calls[3][0] == "a_begin_state_2"
    stack.reset()
    stack.begin_state(variable, 4)
    assert calls[6][0] == "a_begin_state_0"


@pytest.mark.parametrize("fuse", [True, False])
def test_begin_states_are_used(fuse):
    cell = networks.randomized(networks.plain("lstm", HIDDEN), WIDTH)
    states = cell.begin_state(np.ones, BATCH)
    outputs, _ = cell.unroll(None, inputs_of(), states, merge_outputs=True, fuse=fuse)
    expected, _ = reference.run(networks.reference_of("lstm", cell), inputs_of(), [np.ones((BATCH, HIDDEN))] * 2)
    np.testing.assert_allclose(outputs, expected, atol=1e-12)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_begin_state_without_a_batch_size_is_zeros(bidirectional):
    cell = networks.randomized(rnnx.FusedRNNCell(HIDDEN, 2, bidirectional=bidirectional), WIDTH)
    begin = cell.begin_state()
    assert [state.shape for state in begin] == [(2 + 2 * bidirectional, 0, HIDDEN)] * 2
    one, other = (cell.unroll(None, inputs_of(), states)[0] for states in (begin, None))
    np.testing.assert_array_equal(one, other)


def test_a_sequence_may_be_continued():
    cell = rnnx.FusedRNNCell(HIDDEN, 2, "gru", get_next_state=True)
    networks.randomized(cell, WIDTH)
    inputs = inputs_of()
    whole, finals = cell.unroll(None, inputs)
    first, states = cell.unroll(None, inputs[:, :2])
    second, states = cell.unroll(None, inputs[:, 2:], states)
    np.testing.assert_allclose(np.concatenate([first, second], 1), whole, atol=1e-12)
    np.testing.assert_allclose(states, finals, atol=1e-12)


def test_a_fused_cell_returns_states_only_if_asked():
    silent, telling = (rnnx.FusedRNNCell(HIDDEN, get_next_state=wanted) for wanted in (False, True))
    assert networks.randomized(silent, WIDTH).unroll(None, inputs_of())[1] == []
    assert len(networks.randomized(telling, WIDTH).unroll(None, inputs_of())[1]) == 2


@pytest.mark.parametrize("fuse", [True, False])
def test_a_row_without_steps_keeps_its_begin_state(fuse):
    cell = networks.randomized(networks.plain("lstm", HIDDEN), WIDTH)
    begin = random_states(cell)
    _, states = cell.unroll(None, inputs_of(), begin, valid_length=RAGGED, fuse=fuse)
    for before, after in zip(begin, states, strict=True):
        np.testing.assert_array_equal(after[1], before[1])
        assert not np.array_equal(after[3], before[3])


@pytest.mark.parametrize("kind", [list, tuple, np.int64, np.uint8, np.int32, np.float64])
def test_valid_length_may_be_any_whole_numbers(kind):
    cell = networks.randomized(networks.plain("gru", HIDDEN), WIDTH)
    given = kind(RAGGED) if kind in (list, tuple) else np.array(RAGGED, kind)
    outputs, _ = cell.unroll(None, inputs_of(), valid_length=given)
    expected, _ = reference.run(networks.reference_of("gru", cell), inputs_of(), None, RAGGED)
    np.testing.assert_allclose(batch_major(outputs), expected, atol=1e-12)


def test_reset_is_needed_by_zoneout_alone():
    cell = networks.randomized(rnnx.ZoneoutCell(networks.plain("lstm", HIDDEN), zoneout_outputs=1.0), WIDTH)
    first = cell(inputs_of()[:, 0], cell.begin_state(), training=True, seed=1)[0]
    assert not first.any()
    kept, _ = cell(inputs_of()[:, 0], cell.begin_state(), training=False)
    after, _ = cell(inputs_of()[:, 1], cell.begin_state(), training=True, seed=1)
    np.testing.assert_array_equal(after, kept)
    assert kept.any()
    cell.reset()
    assert not cell(inputs_of()[:, 1], cell.begin_state(), training=True, seed=1)[0].any()


def test_states_of_a_tree_are_flat_but_for_bidirectional_cells():
    cell = networks.sequential(
        networks.plain("lstm", 2, "a_"),
        rnnx.BidirectionalCell(networks.plain("lstm", 2, "b_"), networks.plain("gru", 3, "c_")),
        networks.plain("gru", 4, "d_"),
    )
    networks.randomized(cell, WIDTH)
    _, states = cell.unroll(None, inputs_of())
    assert [type(state) for state in states] == [np.ndarray, np.ndarray, list, list, np.ndarray]
    assert [array.shape[1] for array in leaves(states)] == [2, 2, 2, 2, 3, 4]
    nested, _ = cell.unroll(None, inputs_of(), states)
    flat, _ = cell.unroll(None, inputs_of(), leaves(states))
    np.testing.assert_array_equal(nested, flat)

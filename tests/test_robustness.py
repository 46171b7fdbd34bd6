"""What must hold for any numbers, sizes and memory layouts, and from several threads at once."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import networks
import rnnx
from networks import FUSED_MODES, PLAIN_MODES, RAGGED, assert_all_close, leaves, plain
from rnnx.conformance import reference

BATCH, STEPS, WIDTH, HIDDEN = 4, 5, 3, 6

fused_or_not = pytest.mark.parametrize("fuse", [True, False])


def inputs_of(dtype: str = "float64") -> np.ndarray:
    return np.random.default_rng(2).normal(size=(BATCH, STEPS, WIDTH)).astype(dtype)


def deep(mode: str = "lstm", dropout: float = 0.0) -> rnnx.BaseRNNCell:
    cell = rnnx.FusedRNNCell(HIDDEN, 2, mode, True, dropout, get_next_state=True)
    return networks.randomized(cell, WIDTH, scale=0.6)


def several() -> list[rnnx.BaseRNNCell]:
    cells = [networks.randomized(plain(mode, HIDDEN), WIDTH) for mode in (*PLAIN_MODES, "peephole")]
    zoned = rnnx.ZoneoutCell(plain("gru", HIDDEN), 0.3, 0.3)
    both = rnnx.BidirectionalCell(plain("lstm", HIDDEN, "l_"), plain("gru", HIDDEN, "r_"))
    residual = rnnx.ResidualCell(plain("lstm", WIDTH, "x_"))
    return [*cells, *(networks.randomized(cell, WIDTH) for cell in (zoned, both, residual)), deep(), deep("gru", 0.4)]


# -- numbers ---------------------------------------------------------------------------------------------------------


@fused_or_not
@pytest.mark.parametrize("mode", [*PLAIN_MODES, "peephole"])
def test_nan_stays_in_its_row_and_after_its_step(mode, fuse):
    cell = networks.randomized(plain(mode, HIDDEN), WIDTH)
    clean, inputs = inputs_of(), inputs_of()
    inputs[1, 2, 0] = np.nan
    outputs, states = cell.unroll(None, inputs, merge_outputs=True, fuse=fuse)
    expected, _ = cell.unroll(None, clean, merge_outputs=True, fuse=fuse)
    touched = np.zeros((BATCH, STEPS), bool)
    touched[1, 2:] = True
    assert np.isnan(outputs[touched]).all()
    np.testing.assert_allclose(outputs[~touched], expected[~touched], atol=1e-14)
    assert np.isnan(states[0][1]).all()
    assert np.isfinite(states[0][[0, 2, 3]]).all()


@fused_or_not
@pytest.mark.parametrize("mode", FUSED_MODES)
def test_nan_in_one_direction_goes_its_way(mode, fuse):
    cell = networks.randomized(rnnx.BidirectionalCell(plain(mode, HIDDEN, "l_"), plain(mode, HIDDEN, "r_")), WIDTH)
    inputs = inputs_of()
    inputs[0, 2, 1] = np.nan
    outputs, _ = cell.unroll(None, inputs, merge_outputs=True, fuse=fuse)
    ahead, back = np.isnan(outputs[0, :, :HIDDEN]), np.isnan(outputs[0, :, HIDDEN:])
    assert ahead[2:].all()
    assert not ahead[:2].any()
    assert back[:3].all()
    assert not back[3:].any()


@fused_or_not
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("mode", [*PLAIN_MODES, "peephole", "deep"])
def test_padding_is_never_looked_at(mode, garbage, fuse):
    cell = deep() if mode == "deep" else networks.randomized(plain(mode, HIDDEN), WIDTH)
    clean, dirty = inputs_of(), inputs_of()
    for row, length in enumerate(RAGGED):
        dirty[row, length:] = garbage
    results = []
    for inputs in (clean, dirty):
        outputs, states, pullback = cell.vjp(None, inputs, merge_outputs=True, valid_length=RAGGED, fuse=fuse)
        gradients = pullback(np.ones_like(outputs), [np.ones_like(state) for state in states])
        results.append([outputs, *states, gradients.inputs, *gradients.begin_state, *gradients.weights.values()])
    for one, other in zip(*results, strict=True):
        assert np.isfinite(other).all()
        np.testing.assert_array_equal(one, other)
    for row, length in enumerate(RAGGED):
        assert not results[1][0][row, length:].any()
        assert not gradients.inputs[row, length:].any()


@fused_or_not
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mode", ["lstm", "gru", "gru_reset_before", "rnn_tanh", "rnn_sigmoid", "rnn_softsign"])
def test_saturated_gates_do_not_overflow(mode, dtype, fuse):
    cell = networks.randomized(plain(mode, HIDDEN), WIDTH, dtype, scale=1e3)
    inputs = (inputs_of(dtype) * np.float64(1e6)).astype(dtype)
    outputs, states, pullback = cell.vjp(None, inputs, merge_outputs=True, fuse=fuse)
    expected, finals = reference.run(networks.reference_of(mode, cell), inputs)
    assert_all_close([outputs, *states], [expected, *finals], 1e-12 if dtype == "float64" else 1e-5)
    gradients = pullback(np.ones_like(outputs))
    assert all(np.isfinite(array).all() for array in [gradients.inputs, *gradients.weights.values()])


@fused_or_not
@pytest.mark.parametrize("mode", ["lstm", "gru", "gru_reset_before", *(m for m in PLAIN_MODES if m[:3] == "rnn")])
@pytest.mark.parametrize(("dtype", "huge"), [("float32", 1e30), ("float64", 1e290)])
def test_huge_inputs_do_not_overflow(mode, dtype, huge, fuse):
    cell = networks.randomized(plain(mode, HIDDEN), WIDTH, dtype, scale=0.3)
    inputs = (inputs_of(dtype) * np.asarray(huge, dtype)).astype(dtype)
    outputs, _ = cell.unroll(None, inputs, merge_outputs=True, fuse=fuse)
    expected, _ = reference.run(networks.reference_of(mode, cell), inputs)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4 if dtype == "float32" else 1e-10, atol=1e-6)


@fused_or_not
def test_infinite_inputs_saturate(fuse):
    cell = networks.randomized(rnnx.RNNCell(1, prefix="cell_"), 1)
    outputs, _ = cell.unroll(None, np.full((1, 3, 1), np.inf), merge_outputs=True, fuse=fuse)
    np.testing.assert_array_equal(np.abs(outputs), 1)


def test_denormal_numbers_pass():
    cell = networks.randomized(plain("rnn_relu", HIDDEN), WIDTH)
    cell.load_params({name: np.abs(array) * 1e-160 for name, array in cell.get_params().items()})
    outputs, _ = cell.unroll(None, inputs_of() * 1e-160, merge_outputs=True)
    assert np.isfinite(outputs).all()


# -- sizes -----------------------------------------------------------------------------------------------------------


@fused_or_not
@pytest.mark.parametrize(
    ("batch", "steps", "width", "hidden"),
    [(1, 1, 1, 1), (1, 3, 1, 2), (3, 1, 2, 1), (1, 4, 5, 1), (2, 2, 1, 1), (7, 11, 13, 17)],
)
@pytest.mark.parametrize("mode", [*PLAIN_MODES, "peephole"])
def test_tiny_and_odd_sizes(mode, batch, steps, width, hidden, fuse):
    cell = networks.randomized(plain(mode, hidden), width)
    inputs = np.random.default_rng(5).normal(size=(batch, steps, width))
    lengths = np.random.default_rng(6).integers(0, steps + 1, batch)
    for given in (None, lengths):
        outputs, states = cell.unroll(None, inputs, merge_outputs=True, valid_length=given, fuse=fuse)
        expected, finals = reference.run(networks.reference_of(mode, cell), inputs, None, given)
        assert_all_close([outputs, *states], [expected, *finals], 1e-12)


@pytest.mark.parametrize("mode", FUSED_MODES)
def test_tiny_fused_cells(mode):
    cell = rnnx.FusedRNNCell(1, 3, mode, True, get_next_state=True, prefix="f_")
    networks.randomized(cell, 1)
    inputs = np.random.default_rng(5).normal(size=(1, 1, 1))
    outputs, states = cell.unroll(None, inputs)
    expected, finals = reference.run(networks.reference_of_fused(cell, mode, 1, 1, 3, 2, "f_"), inputs)
    assert_all_close([outputs, *networks.interleaved(states)], [expected, *finals], 1e-12)


@fused_or_not
def test_a_batch_without_rows(fuse):
    for cell in several():
        outputs, _ = cell.unroll(None, inputs_of()[:0], merge_outputs=True, fuse=fuse)
        assert outputs.shape == (0, STEPS, cell.output_size(WIDTH))


# -- memory ----------------------------------------------------------------------------------------------------------


def strided(array: np.ndarray) -> np.ndarray:
    """The same values, every other element of a larger array."""
    wide = np.full([2 * size for size in array.shape], np.nan, array.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def backward(array: np.ndarray) -> np.ndarray:
    return array[::-1].copy()[::-1]


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


@fused_or_not
@pytest.mark.parametrize("held", [np.asfortranarray, strided, backward, read_only])
def test_any_memory_layout(held, fuse):
    for mode in (*FUSED_MODES, "gru_reset_before", "peephole"):
        cell = networks.randomized(plain(mode, HIDDEN), WIDTH)
        begin = [np.full((BATCH, HIDDEN), 0.1 * (1 + kind)) for kind in range(len(cell.state_shape))]
        expected = cell.vjp(None, inputs_of(), begin, merge_outputs=True, valid_length=RAGGED, fuse=fuse)
        twin = plain(mode, HIDDEN)
        twin.load_params({name: held(array) for name, array in cell.get_params().items()})
        found = twin.vjp(
            None, held(inputs_of()), [held(s) for s in begin], merge_outputs=True, valid_length=RAGGED, fuse=fuse
        )
        assert_all_close([found[0], *found[1]], [expected[0], *expected[1]], 1e-14)
        one, other = (result[2](held(np.ones_like(result[0]))) for result in (found, expected))
        assert_all_close([one.inputs, *one.weights.values()], [other.inputs, *other.weights.values()], 1e-13)


def test_a_flat_vector_in_any_memory_layout():
    cell = deep()
    expected, _ = cell.unroll(None, inputs_of())
    for held in (strided, backward, read_only):
        twin = rnnx.FusedRNNCell(HIDDEN, 2, "lstm", True)
        twin.load_params({name: held(array) for name, array in cell.get_params().items()})
        np.testing.assert_array_equal(twin.unroll(None, held(inputs_of()))[0], expected)


@fused_or_not
@pytest.mark.parametrize("training", [True, False])
def test_nothing_given_is_changed(training, fuse):
    for cell in several():
        inputs, weights = inputs_of(), cell.get_params()
        begin = [np.full([size or BATCH for size in shape], 0.2) for shape in cell.state_shape]
        lengths = np.array(RAGGED)
        outputs, states, pullback = cell.vjp(
            None, inputs, begin, merge_outputs=True, valid_length=lengths, training=training, seed=1, fuse=fuse
        )
        of_outputs, of_states = np.ones_like(outputs), [np.ones_like(state) for state in leaves(states)]
        pullback(of_outputs, of_states)
        np.testing.assert_array_equal(inputs, inputs_of())
        np.testing.assert_array_equal(lengths, RAGGED)
        assert all((state == 0.2).all() for state in begin)
        assert all((array == 1).all() for array in [of_outputs, *of_states])
        for name, array in cell.get_params().items():
            np.testing.assert_array_equal(array, weights[name])


@fused_or_not
@pytest.mark.parametrize("lengths", [None, RAGGED])
def test_two_calls_share_no_memory(lengths, fuse):
    for cell in several():
        inputs = inputs_of()
        begin = [np.full([size or BATCH for size in shape], 0.2) for shape in cell.state_shape]
        given = [inputs, *begin, *(cell.params[name] for name in cell.params)]
        calls = []
        for _ in range(2):
            outputs, states = cell.unroll(None, inputs, begin, merge_outputs=True, valid_length=lengths, fuse=fuse)
            calls.append([outputs, *leaves(states)])
        kept = [array.copy() for array in calls[0]]
        for one in calls[0]:
            assert not any(np.shares_memory(one, other) for other in [*calls[1], *given])
        for array in calls[1]:
            array[...] = np.nan
        for array, before in zip(calls[0], kept, strict=True):
            np.testing.assert_array_equal(array, before)


def test_gradients_share_no_memory_with_the_weights():
    cell = deep()
    outputs, _, pullback = cell.vjp(None, inputs_of())
    one, other = pullback(np.ones_like(outputs)), pullback(np.ones_like(outputs))
    assert not np.shares_memory(one.weights["lstm_parameters"], cell.params["lstm_parameters"])
    one.weights["lstm_parameters"][...] = np.nan
    one.inputs[...] = np.nan
    assert np.isfinite(other.inputs).all()
    assert np.isfinite(other.weights["lstm_parameters"]).all()


# -- repetition and threads ------------------------------------------------------------------------------------------


@fused_or_not
def test_the_same_call_gives_the_same_bits(fuse):
    for cell in several():
        one, other = (
            cell.unroll(None, inputs_of(), merge_outputs=True, training=True, seed=5, fuse=fuse) for _ in range(2)
        )
        for first, second in zip([one[0], *leaves(one[1])], [other[0], *leaves(other[1])], strict=True):
            np.testing.assert_array_equal(first, second)


def test_without_a_seed_training_differs_from_call_to_call():
    cell = deep(dropout=0.5)
    one, other = (cell.unroll(None, inputs_of(), training=True)[0] for _ in range(2))
    assert not np.array_equal(one, other)


@pytest.fixture
def eager_switching():
    """Let threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(tasks, repeat: int) -> None:
    """Run each task in its own thread, starting together; raise what any of them raises."""
    start = threading.Barrier(len(tasks))

    def loop(task):
        start.wait()
        for _ in range(repeat):
            task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        for future in [pool.submit(loop, task) for task in tasks]:
            future.result()


@fused_or_not
@pytest.mark.parametrize(
    "make",
    [lambda: deep(dropout=0.3), lambda: rnnx.ZoneoutCell(plain("lstm", HIDDEN), 0.4, 0.4)],
    ids=["deep", "zoned"],
)
def test_one_cell_unrolled_by_several_threads(eager_switching, make, fuse):
    cell = networks.randomized(make(), WIDTH)

    def unrolled(seed):
        inputs = inputs_of() * seed
        return cell.unroll(None, inputs, merge_outputs=True, training=True, seed=seed, fuse=fuse)[0]

    expected = {seed: unrolled(seed) for seed in (1, 2, 3)}
    in_threads([lambda s=s: np.testing.assert_array_equal(unrolled(s), expected[s]) for s in expected], 10)


def test_one_cell_stepped_and_unrolled_by_several_threads(eager_switching):
    cell = networks.randomized(plain("lstm", HIDDEN), WIDTH)
    states = cell.begin_state(batch_size=BATCH)
    expected, _ = cell(inputs_of()[:, 0], states)

    def step():
        np.testing.assert_array_equal(cell(inputs_of()[:, 0], states)[0], expected)

    in_threads([step, step, lambda: cell.unroll(None, inputs_of())], 60)


def test_weights_made_at_the_first_call_are_made_once(eager_switching):
    for _ in range(20):
        cell = networks.sequential(plain("lstm", HIDDEN, "a_"), plain("gru", HIDDEN, "b_"))
        results = []
        in_threads([lambda c=cell, r=results: r.append(c.unroll(None, inputs_of(), merge_outputs=True)[0])] * 3, 1)
        expected, _ = cell.unroll(None, inputs_of(), merge_outputs=True)
        for found in results:
            np.testing.assert_array_equal(found, expected)


def test_numpy_does_not_compute_in_bfloat16_and_says_so():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    with pytest.raises(rnnx.UnsupportedError, match="NumPy does not compute in bfloat16"):
        rnnx.LSTMCell(HIDDEN).unroll(None, np.ones((2, 3, 4), ml_dtypes.bfloat16))

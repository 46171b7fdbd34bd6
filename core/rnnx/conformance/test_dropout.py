"""Dropout acts in training, between layers, by its seed; gradients use its own mask."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rnnx.cells import DropoutCell, FusedRNNCell, ZoneoutCell
from rnnx.conformance import dropping, dtypes, judging, networks, slopes, unrolled
from rnnx.conformance.dropping import Boundary
from rnnx.conformance.marks import masks, trees, ways
from rnnx.conformance.networks import MODES, Tree, fused_tree, plain_cell, sequential
from rnnx.conformance.subject import Subject

RATE = 0.4

#: Fused cells of every mode with dropout between two and three layers.
DROPPING = tuple(
    fused_tree(mode, layers, both, dropout=RATE)
    for mode in MODES
    for layers, both in ((2, False), (2, True), (3, True))
)

dropping_trees = trees(*DROPPING)


@pytest.fixture
def dtype(subject: Subject) -> str:
    """Return the dtype to run in."""
    return dtypes.usual(subject)


def wide(dtype: str, place: int = 0, layers: int = 2, seed: int = 5, rate: float = RATE, fuse: bool = True) -> Boundary:
    """Return a boundary with enough numbers for shares to be judged."""
    return Boundary(layers, False, 20, rate, 30, 25, dtype, seed, place, fuse)


# -- inference --------------------------------------------------------------------------------------------------------


@ways
@masks
@dropping_trees
def test_none_in_inference(
    subject: Subject, tree: Tree, dtype: str, lengths: tuple[int, ...] | None, fuse: bool
) -> None:
    """Nothing is dropped or scaled, whatever the seed."""
    trial = networks.trial(tree, dtype, lengths=lengths)
    judging.assert_right(subject, trial, unrolled.run(subject, trial, fuse=fuse, seed=3))


@ways
@pytest.mark.parametrize("mode", MODES)
def test_rate_zero(subject: Subject, mode: str, dtype: str, fuse: bool) -> None:
    """Training with a fraction of 0 is inference."""
    trial = networks.trial(fused_tree(mode, 2, True, dropout=0.0), dtype)
    judging.assert_right(subject, trial, unrolled.run(subject, trial, fuse=fuse, training=True, seed=3))


@ways
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_one_layer_has_none(subject: Subject, mode: str, both: bool, dtype: str, fuse: bool) -> None:
    """With one layer there is nothing between layers: neither inputs nor outputs are dropped."""
    trial = networks.trial(fused_tree(mode, 1, both, dropout=0.5), dtype)
    judging.assert_right(subject, trial, unrolled.run(subject, trial, fuse=fuse, training=True, seed=3))


# -- training ---------------------------------------------------------------------------------------------------------


@ways
@masks
@dropping_trees
def test_between_the_layers(
    subject: Subject, tree: Tree, dtype: str, lengths: tuple[int, ...] | None, fuse: bool
) -> None:
    """The layers one by one in the reference, with the masks that were read, are what the backend computes."""
    masked = dropping.dropped(tree, dropping.factors_of(subject, tree, dtype, 6, fuse))
    trial = networks.trial(masked, dtype, lengths=lengths)
    judging.assert_right(subject, trial, unrolled.run(subject, trial, fuse=fuse, training=True, seed=6))


@masks
@dropping_trees
def test_kernel_and_steps_drop_the_same(
    subject: Subject, tree: Tree, dtype: str, lengths: tuple[int, ...] | None
) -> None:
    """Under one seed."""
    trial = networks.trial(tree, dtype, lengths=lengths)
    stepped = unrolled.run(subject, trial, fuse=False, training=True, seed=8)
    expected = [subject.numpy(array) for array in stepped.arrays()]
    found = unrolled.run(subject, trial, training=True, seed=8)
    judging.assert_right(subject, trial, found, (expected[0], expected[1:]))


@ways
@pytest.mark.parametrize("mode", MODES)
def test_rate_one(subject: Subject, mode: str, dtype: str, fuse: bool) -> None:
    """A fraction of 1 leaves the upper layers nothing but zeros to read, and nothing that is not finite."""
    tree = fused_tree(mode, 2, True, dropout=1.0)
    width = 2 * networks.HIDDEN
    masked = dropping.dropped(tree, [np.zeros((networks.BATCH, networks.STEPS, width))])
    trial = networks.trial(masked, dtype)
    judging.assert_right(subject, trial, unrolled.run(subject, trial, fuse=fuse, training=True, seed=3))


@ways
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_share_and_scale(subject: Subject, dtype: str, rate: float, fuse: bool) -> None:
    """As many are dropped as the fraction says, within 5 sigma; the others are divided by 1 - p."""
    factors = wide(dtype, rate=rate, fuse=fuse).read(subject)
    share, sigma = float((factors == 0).mean()), (rate * (1 - rate) / factors.size) ** 0.5
    assert abs(share - rate) < 5 * sigma, f"{share:.3f} are dropped, expected {rate}"
    kept = factors[factors != 0]
    judging.assert_numbers(kept, np.full_like(kept, 1 / (1 - rate)), subject.tolerance(dtype), "what is kept")


@ways
def test_masks_differ(subject: Subject, dtype: str, fuse: bool) -> None:
    """From step to step, row to row, unit to unit, and from one boundary between layers to the next."""
    lower, upper = (wide(dtype, place, 3, fuse=fuse).read(subject) != 0 for place in (0, 1))
    judging.assert_unrelated(lower, upper, (RATE, RATE), "masks of two boundaries")
    for axis, name in enumerate(("rows", "steps", "units")):
        size = lower.shape[axis]
        one, other = lower.take(range(1, size), axis), lower.take(range(size - 1), axis)
        judging.assert_unrelated(one, other, (RATE, RATE), f"masks of neighbouring {name}")
        shares = lower.mean(tuple(other for other in range(3) if other != axis))
        sigma = (RATE * (1 - RATE) / (lower.size / size)) ** 0.5
        assert (np.abs(shares - 1 + RATE) < 5.5 * sigma).all(), f"shares of the {name} are {shares}"


@ways
def test_directions_differ(subject: Subject, dtype: str, fuse: bool) -> None:
    """Of two directions side by side each has a mask of its own."""
    factors = Boundary(2, True, 20, RATE, 30, 25, dtype, 5, fuse=fuse).read(subject) != 0
    judging.assert_unrelated(factors[..., :20], factors[..., 20:], (RATE, RATE), "masks of two directions")


@ways
@pytest.mark.parametrize("seeds", [(5, 6), (0, 1), (1, 1 + (1 << 32)), (2, 2 + (1 << 62))], ids=str)
def test_seeds(subject: Subject, dtype: str, seeds: tuple[int, int], fuse: bool) -> None:
    """The same seed drops the same, another one something else."""
    one, other = (wide(dtype, seed=seed, fuse=fuse).read(subject) for seed in seeds)
    np.testing.assert_array_equal(wide(dtype, seed=seeds[0], fuse=fuse).read(subject), one)
    judging.assert_unrelated(one != 0, other != 0, (RATE, RATE), f"masks of seeds {seeds}")


@ways
@pytest.mark.parametrize("mode", MODES)
def test_without_a_seed_every_call_differs(subject: Subject, mode: str, dtype: str, fuse: bool) -> None:
    """Two calls drop differently; with a seed they do not."""
    trial = networks.trial(fused_tree(mode, 2, dropout=RATE), dtype)
    cell = unrolled.placed(subject, trial)
    free = [unrolled.run(subject, trial, fuse=fuse, training=True, cell=cell) for _ in range(2)]
    assert unrolled.bits(subject, free[0].arrays()) != unrolled.bits(subject, free[1].arrays())
    held = [unrolled.run(subject, trial, fuse=fuse, training=True, seed=2, cell=cell) for _ in range(2)]
    judging.assert_same(subject, held[0].arrays(), held[1].arrays(), "two calls with one seed")


def test_numpys_generator_is_left_alone(subject: Subject, dtype: str) -> None:
    """It is neither read nor moved on."""
    trial = networks.trial(fused_tree("lstm", 2, dropout=RATE), dtype)
    found = []
    for number in (1, 2):
        np.random.seed(number)  # noqa: NPY002 -- the global generator is what may not be touched
        first = np.random.random()  # noqa: NPY002
        np.random.seed(number)  # noqa: NPY002
        found.append(unrolled.run(subject, trial, training=True, seed=2))
        assert np.random.random() == first, "NumPy's generator was moved on"  # noqa: NPY002
    judging.assert_same(subject, found[0].arrays(), found[1].arrays(), "two calls with one seed")


# -- cells ------------------------------------------------------------------------------------------------------------


@masks
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_a_dropout_cell(subject: Subject, dtype: str, lengths: tuple[int, ...] | None) -> None:
    """Inputs are dropped or scaled, each number by itself; padding stays zero."""
    tree = Tree("dropout_cell", lambda: DropoutCell(RATE), 40)
    trial = networks.trial(tree, dtype, lengths=lengths)
    outputs = subject.numpy(unrolled.run(subject, trial, training=True, seed=3).outputs)
    inputs = np.array(trial.inputs)
    for row, length in enumerate(lengths or ()):
        inputs[row, length:] = 0
    kept = (outputs != 0) & (inputs != 0)
    judging.assert_numbers(outputs, np.where(kept, inputs / (1 - RATE), 0), subject.tolerance(dtype), "dropout")
    share, count = float(kept[inputs != 0].mean()), np.count_nonzero(inputs)
    assert abs(share - 1 + RATE) < 5 * (RATE * (1 - RATE) / count) ** 0.5, f"{share:.3f} are kept"


def test_cells_drop_each_in_their_own_way(subject: Subject, dtype: str) -> None:
    """Two dropout cells one on the other do not drop the same."""
    tree = Tree("two_dropouts", lambda: sequential(DropoutCell(0.5, "a_"), DropoutCell(0.5, "b_")), 40)
    trial = networks.trial(tree, dtype)
    share = float((subject.numpy(unrolled.run(subject, trial, training=True, seed=3).outputs) != 0).mean())
    assert abs(share - 0.25) < 5 * (0.25 * 0.75 / trial.inputs.size) ** 0.5, f"{share:.3f} are kept, expected 0.25"


def test_plain_cells_with_dropout_between(subject: Subject, dtype: str) -> None:
    """Two plain cells and a dropout cell drop as the fused cell that they are equal to."""
    fused = networks.trial(fused_tree("lstm", 2, dropout=RATE), dtype, begin=False)
    cell = fused.cell()
    assert isinstance(cell, FusedRNNCell)
    stack = subject.placed(cell.unfuse(), dtype)
    inputs = unrolled.cast(subject, [fused.inputs], dtype)[0]
    for fuse in (True, False):
        one, _ = stack.unroll(None, inputs, merge_outputs=True, training=True, seed=4, fuse=fuse)
        other = unrolled.run(subject, fused, fuse=fuse, training=True, seed=4)
        judging.assert_close(subject, one, subject.numpy(other.outputs), dtype, "outputs of the unfused cells")


def test_dropout_within_a_loop(subject: Subject, dtype: str) -> None:
    """A dropout cell that is stepped drops something else in every step."""
    tree = Tree("stepped_dropout", lambda: ZoneoutCell(sequential(DropoutCell(0.5, "a_")), 0.0, 0.5), 200)
    trial = networks.trial(tree, dtype)
    kept = subject.numpy(unrolled.run(subject, trial, training=True, seed=3).outputs) != 0
    assert abs(kept.mean() - 0.5) < 5 * 0.5 / kept.size**0.5
    judging.assert_unrelated(kept[:, 1:], kept[:, :-1], (0.5, 0.5), "masks of neighbouring steps")
    judging.assert_unrelated(kept[1:], kept[:-1], (0.5, 0.5), "masks of neighbouring rows")


def test_a_plain_stack_drops_outside_of_kernels(subject: Subject, dtype: str) -> None:
    """Inputs that are dropped before a kernel runs are those that the kernel reads."""
    tree = Tree("dropped_inputs", lambda: sequential(DropoutCell(0.5, "a_"), plain_cell("rnn_relu", 30)), 30)
    trial = networks.trial(tree, dtype)
    weights = {name: np.zeros_like(array) for name, array in trial.weights.items()}
    weights["cell_i2h_weight"] = np.eye(30)
    trial = dataclasses.replace(trial, weights=weights, inputs=np.ones_like(trial.inputs), begin=None)
    outputs = subject.numpy(unrolled.run(subject, trial, training=True, seed=3).outputs)
    judging.assert_numbers(outputs, np.where(outputs == 0, 0.0, 2.0), subject.tolerance(dtype), "outputs")
    assert abs((outputs != 0).mean() - 0.5) < 5 * 0.5 / outputs.size**0.5


# -- gradients --------------------------------------------------------------------------------------------------------


@ways
@masks
@pytest.mark.needs("gradients")
@dropping_trees
def test_gradients_go_through_the_mask(
    subject: Subject, tree: Tree, dtype: str, lengths: tuple[int, ...] | None, fuse: bool
) -> None:
    """Of the forward pass: exact, by the reference with the masks that were read."""
    masked = dropping.dropped(tree, dropping.factors_of(subject, tree, dtype, 6, fuse))
    expected = slopes.expected(masked, dtype, lengths)
    for _ in range(2):
        derived = unrolled.differentiate(subject, expected.trial, fuse=fuse, training=True, seed=6)
        judging.assert_right(subject, expected.trial, derived.found)
        for _ in range(2):
            gradients = derived.pull(expected.outputs, expected.states)
            judging.assert_gradients(subject, expected, gradients, derived.found.kernels)


@pytest.mark.needs("gradients")
@ways
def test_gradients_without_a_seed(subject: Subject, dtype: str, fuse: bool) -> None:
    """Where the seed is the system's, too: a dropped number has no gradient, a kept one has 1 / (1 - p)."""
    tree = Tree("dropout_cell", lambda: DropoutCell(RATE), 40)
    trial = networks.trial(tree, dtype)
    derived = unrolled.differentiate(subject, trial, fuse=fuse, training=True)
    kept = subject.numpy(derived.found.outputs) != 0
    gradient = derived.pull(np.ones_like(trial.inputs), [])["inputs"]
    expected = np.where(kept, 1 / (1 - RATE), 0.0)
    judging.assert_close(subject, gradient, expected, dtype, "the gradient of the inputs", gradients=True)

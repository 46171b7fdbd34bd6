"""Every size: one of anything, odd, large, long, and no row at all."""

from __future__ import annotations

import math

import pytest

from rnnx.conformance import judging, networks, slopes, unrolled
from rnnx.conformance.marks import modes, singles, ways, wide_dtypes
from rnnx.conformance.networks import Tree, fused_tree
from rnnx.conformance.subject import Subject

#: N, T, I and H.
SIZES = {
    "one_row": (1, 5, 3, 7),
    "one_step": (4, 1, 3, 7),
    "one_input": (4, 5, 1, 7),
    "one_unit": (4, 5, 3, 1),
    "one_of_all": (1, 1, 1, 1),
    "inputs_as_units": (4, 5, 6, 6),
    "rows_as_steps": (5, 5, 5, 5),
    "odd": (7, 13, 11, 17),
    "eights": (8, 16, 8, 16),
    "many_rows": (67, 2, 3, 5),
    "wide": (33, 3, 129, 257),
    "long": (2, 300, 2, 3),
}

#: Sizes far beyond the others, in one direction each.
VAST = {
    "rows": (1030, 2, 2, 3),
    "steps": (2, 1100, 2, 2),
    "inputs": (2, 2, 2050, 3),
    "units": (2, 2, 2, 1030),
}

#: Those that take their time.
LARGE = ("wide", "long")

sizes = pytest.mark.parametrize("size", SIZES)


def scale(width: int, hidden: int) -> float:
    """Return how large weights may be without a network that blows rounding up, or gates that are all shut."""
    return min(0.8, 1.6 / math.sqrt(max(width, hidden)))


def ragged(batch: int, steps: int) -> tuple[int, ...]:
    """Return rows of all lengths, one after the other and not in order."""
    return tuple((3 * row + 1) % (steps + 1) for row in range(batch))


@wide_dtypes
@sizes
@modes
@pytest.mark.parametrize("form", ["1-one", "2-both"])
def test_kernels(subject: Subject, mode: str, size: str, dtype: str, form: str) -> None:
    """Fused cells, one layer and two in both directions, rows of all lengths and of one."""
    batch, steps, width, hidden = SIZES[size]
    tree = fused_tree(mode, 2 if form == "2-both" and size not in LARGE else 1, form == "2-both", hidden, width)
    for lengths in (None, ragged(batch, steps)):
        trial = networks.trial(tree, dtype, batch=batch, steps=steps, lengths=lengths, scale=scale(width, hidden))
        judging.assert_right(subject, trial, unrolled.run(subject, trial))


@singles
@pytest.mark.parametrize("size", VAST)
@modes
def test_vast(subject: Subject, mode: str, size: str, dtype: str) -> None:
    """A thousand of anything."""
    batch, steps, width, hidden = VAST[size]
    tree = fused_tree(mode, 1, False, hidden, width)
    for lengths in (None, ragged(batch, steps)):
        trial = networks.trial(tree, dtype, batch=batch, steps=steps, lengths=lengths, scale=scale(width, hidden))
        judging.assert_right(subject, trial, unrolled.run(subject, trial))


@wide_dtypes
@pytest.mark.parametrize("size", [size for size in SIZES if size not in LARGE])
@pytest.mark.parametrize("mode", ["lstm", "gru_reset_before", "rnn_tanh"])
def test_steps(subject: Subject, mode: str, size: str, dtype: str) -> None:
    """Plain cells, stepped."""
    batch, steps, width, hidden = SIZES[size]
    tree = Tree(mode, lambda: networks.plain_cell(mode, hidden), width)
    trial = networks.trial(tree, dtype, batch=batch, steps=steps, scale=scale(width, hidden))
    judging.assert_right(subject, trial, unrolled.run(subject, trial, fuse=False))


@singles
@modes
def test_every_number_of_steps(subject: Subject, mode: str, dtype: str) -> None:
    """From one to twenty and around powers of two: kernels that take several at once end right."""
    tree = fused_tree(mode, 1, True)
    for steps in (*range(1, 21), 31, 32, 33, 63, 64, 65):
        trial = networks.trial(tree, dtype, batch=2, steps=steps, lengths=(steps, steps // 2), scale=0.5)
        judging.assert_right(subject, trial, unrolled.run(subject, trial))


@singles
@modes
def test_every_number_of_units(subject: Subject, mode: str, dtype: str) -> None:
    """From one to ten and around powers of two: kernels that take several at once leave none out."""
    for hidden in (*range(1, 11), 15, 16, 17, 31, 32, 33):
        tree = fused_tree(mode, hidden=hidden)
        trial = networks.trial(tree, dtype, batch=2, steps=2, scale=scale(tree.width, hidden))
        judging.assert_right(subject, trial, unrolled.run(subject, trial))


@singles
@modes
def test_every_number_of_rows(subject: Subject, mode: str, dtype: str) -> None:
    """From one to ten and around powers of two."""
    for batch in (*range(1, 11), 15, 16, 17, 31, 32, 33):
        trial = networks.trial(fused_tree(mode), dtype, batch=batch, steps=2, lengths=[row % 3 for row in range(batch)])
        judging.assert_right(subject, trial, unrolled.run(subject, trial))


@wide_dtypes
@ways
@pytest.mark.parametrize("name", ["lstm", "gru-2-both", "both_unlike", "own_peephole", "rnn_tanh-1-one"])
def test_no_rows(subject: Subject, name: str, dtype: str, fuse: bool) -> None:
    """An empty batch gives empty results of the right shapes."""
    for lengths in (None, ()):
        trial = networks.trial(name, dtype, batch=0, begin=False, lengths=lengths)
        judging.assert_right(subject, trial, unrolled.run(subject, trial, fuse=fuse))


@pytest.mark.needs("gradients")
@sizes
@pytest.mark.parametrize("mode", ["lstm", "gru", "rnn_tanh"])
@pytest.mark.parametrize("dtype", ["float64"])
def test_gradients(subject: Subject, mode: str, size: str, dtype: str) -> None:
    """Of any size."""
    batch, steps, width, hidden = SIZES[size]
    for lengths in (None, ragged(batch, steps)):
        tree = fused_tree(mode, 1, True, hidden, width)
        expected = slopes.expected(tree, dtype, lengths, "all", batch, steps, scale(width, hidden))
        derived = unrolled.differentiate(subject, expected.trial)
        gradients = derived.pull(expected.outputs, expected.states)
        judging.assert_gradients(subject, expected, gradients, derived.found.kernels)

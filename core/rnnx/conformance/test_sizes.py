"""Every size: one of anything, odd, large, long, and no row at all."""

from __future__ import annotations

import math

import pytest

from rnnx.conformance import dtypes, judging, networks, slopes, unrolled
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


def check(subject: Subject, tree: Tree, dtype: str, batch: int, steps: int, hidden: int) -> None:
    """Judge a tree of some size, with rows of all lengths and of one."""
    __tracebackhide__ = True
    for lengths in (None, ragged(batch, steps)):
        weights = scale(tree.width, hidden)
        trial = networks.trial(tree, dtype, batch=batch, steps=steps, lengths=lengths, scale=weights)
        judging.assert_right(subject, trial, unrolled.run(subject, trial))


@singles
@sizes
@modes
def test_kernels(subject: Subject, mode: str, size: str, dtype: str) -> None:
    """Fused cells in both directions."""
    batch, steps, width, hidden = SIZES[size]
    check(subject, fused_tree(mode, 1, True, hidden, width), dtype, batch, steps, hidden)


@wide_dtypes
@pytest.mark.parametrize("size", ["one_of_all", "odd", "eights", "wide"])
@modes
def test_deep_kernels(subject: Subject, mode: str, size: str, dtype: str) -> None:
    """Fused cells of two layers."""
    batch, steps, width, hidden = SIZES[size]
    check(subject, fused_tree(mode, 2, False, hidden, width), dtype, batch, steps, hidden)


@singles
@pytest.mark.parametrize("size", VAST)
@pytest.mark.parametrize("mode", ["lstm", "gru"])
def test_vast(subject: Subject, mode: str, size: str, dtype: str) -> None:
    """A thousand of anything."""
    batch, steps, width, hidden = VAST[size]
    check(subject, fused_tree(mode, 1, False, hidden, width), dtype, batch, steps, hidden)


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
@pytest.mark.parametrize("mode", ["lstm", "gru"])
def test_every_number_of_units(subject: Subject, mode: str, dtype: str) -> None:
    """Small ones and those around powers of two: kernels that take several at once leave none out."""
    for hidden in (2, 3, 4, 5, 6, 8, 9, 12, 15, 31, 32, 33):
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
@pytest.mark.parametrize("mode", ["lstm", "gru"])
def test_gradients(subject: Subject, mode: str, size: str) -> None:
    """Of any size; rows of all lengths at some, of one at the others."""
    batch, steps, width, hidden = SIZES[size]
    lengths = ragged(batch, steps) if list(SIZES).index(size) % 2 == (mode == "lstm") else None
    tree, dtype = fused_tree(mode, 1, True, hidden, width), dtypes.most_exact(subject)
    expected = slopes.expected(tree, dtype, lengths, "all", batch, steps, scale(width, hidden))
    derived = unrolled.differentiate(subject, expected.trial)
    gradients = derived.pull(expected.outputs, expected.states)
    judging.assert_gradients(subject, expected, gradients, derived.found.kernels)

"""Outputs and final states of every cell, kernel and stepped."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rnnx.conformance import dtypes, judging, networks, unrolled
from rnnx.conformance.marks import singles, trees
from rnnx.conformance.networks import FUSED, FUSED_FEW, LENGTHS, NESTED, PLAIN, Tree
from rnnx.conformance.subject import Subject

Record = Callable[[str, object], None]

lengths = pytest.mark.parametrize("lengths", LENGTHS)


def check(subject: Subject, tree: Tree, dtype: str, lengths: str, fuse: bool, record: Record) -> None:
    """Run a tree with and without begin states, and judge both."""
    __tracebackhide__ = True
    for begin in (True, False):
        trial = networks.trial(tree, dtype, lengths=LENGTHS[lengths], begin=begin)
        results = unrolled.run(subject, trial, fuse=fuse)
        for kernel in results.kernels:
            record("kernel", kernel)
        judging.assert_right(subject, trial, results)


@lengths
@singles
@trees(*FUSED)
def test_a_fused_cell(subject: Subject, tree: Tree, dtype: str, lengths: str, record_property: Record) -> None:
    """A fused cell, by whatever the backend runs it with."""
    check(subject, tree, dtype, lengths, True, record_property)


@pytest.mark.parametrize("lengths", ["none", "ragged"])
@pytest.mark.parametrize("dtype", ["float64"])
@trees(*FUSED_FEW, *PLAIN)
def test_in_float64(subject: Subject, tree: Tree, dtype: str, lengths: str, record_property: Record) -> None:
    """Plain and fused cells, by whatever the backend runs them with: it may be another kernel."""
    check(subject, tree, dtype, lengths, True, record_property)


@lengths
@trees(*PLAIN, *NESTED)
def test_a_tree(subject: Subject, tree: Tree, lengths: str, record_property: Record) -> None:
    """A plain cell or a tree of cells, by whatever the backend runs it with."""
    check(subject, tree, dtypes.usual(subject), lengths, True, record_property)


@pytest.mark.parametrize("lengths", ["none", "ragged"])
@trees(*(tree for tree in FUSED if "-2-" in tree.name), *PLAIN, *NESTED)
def test_stepped(subject: Subject, tree: Tree, lengths: str, record_property: Record) -> None:
    """Every cell, stepped through time though a kernel could run it."""
    check(subject, tree, dtypes.most_exact(subject), lengths, False, record_property)


@pytest.mark.parametrize("lengths", ["none", "ragged"])
@trees(*FUSED)
def test_training_without_dropout(subject: Subject, tree: Tree, lengths: str, record_property: Record) -> None:
    """Training changes nothing where nothing is dropped."""
    trial = networks.trial(tree, dtypes.usual(subject), lengths=LENGTHS[lengths])
    results = unrolled.run(subject, trial, training=True, seed=3)
    for kernel in results.kernels:
        record_property("kernel", kernel)
    judging.assert_right(subject, trial, results)

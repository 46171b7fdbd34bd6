"""Outputs and final states of every cell, kernel and stepped."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rnnx.conformance import dtypes, judging, networks, unrolled
from rnnx.conformance.marks import trees
from rnnx.conformance.networks import FUSED, LENGTHS, NESTED, PLAIN, Tree
from rnnx.conformance.subject import Subject

Record = Callable[[str, object], None]

#: Kernels are made for float32; where they are others for float64, they show the same mistakes with fewer lengths.
CASES = [*(("float32", lengths) for lengths in LENGTHS), ("float64", "none"), ("float64", "ragged")]

cases = pytest.mark.parametrize(("dtype", "lengths"), CASES, ids=map("-".join, CASES))


def check(subject: Subject, tree: Tree, dtype: str, lengths: str, fuse: bool, record: Record) -> None:
    """Run a tree with and without begin states, and judge both."""
    __tracebackhide__ = True
    for begin in (True, False):
        trial = networks.trial(tree, dtype, lengths=LENGTHS[lengths], begin=begin)
        results = unrolled.run(subject, trial, fuse=fuse)
        for kernel in results.kernels:
            record("kernel", kernel)
        judging.assert_right(subject, trial, results)


@cases
@trees(*FUSED)
def test_a_fused_cell(subject: Subject, tree: Tree, dtype: str, lengths: str, record_property: Record) -> None:
    """A fused cell, by whatever the backend runs it with."""
    check(subject, tree, dtype, lengths, True, record_property)


@cases
@trees(*PLAIN, *NESTED)
def test_a_tree(subject: Subject, tree: Tree, dtype: str, lengths: str, record_property: Record) -> None:
    """A plain cell or a tree of cells, by whatever the backend runs it with."""
    check(subject, tree, dtype, lengths, True, record_property)


@pytest.mark.parametrize("lengths", ["none", "ragged"])
@trees(*(tree for tree in FUSED if "-2-" in tree.name), *PLAIN, *NESTED)
def test_stepped(subject: Subject, tree: Tree, lengths: str, record_property: Record) -> None:
    """Every cell, stepped through time though a kernel could run it."""
    check(subject, tree, dtypes.most_exact(subject), lengths, False, record_property)


@cases
@trees(*FUSED)
def test_training_without_dropout(
    subject: Subject, tree: Tree, dtype: str, lengths: str, record_property: Record
) -> None:
    """Training changes nothing where nothing is dropped."""
    trial = networks.trial(tree, dtype, lengths=LENGTHS[lengths])
    results = unrolled.run(subject, trial, training=True, seed=3)
    for kernel in results.kernels:
        record_property("kernel", kernel)
    judging.assert_right(subject, trial, results)

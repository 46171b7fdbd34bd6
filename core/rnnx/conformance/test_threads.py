"""Several threads at once get what one gets alone."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rnnx.conformance import dtypes, judging, networks, slopes, unrolled
from rnnx.conformance.marks import ways
from rnnx.conformance.networks import FUSED, RAGGED, TREES, Tree, Trial, fused_tree
from rnnx.conformance.subject import Subject

pytestmark = pytest.mark.needs("threads")

THREADS, TURNS = 8, 3

names = pytest.mark.parametrize("name", ["lstm-2-both", "gru-2-both", "rnn_relu-2-one", "lstm", "own_peephole"])


@pytest.fixture
def dtype(subject: Subject) -> str:
    """Return the dtype to run in."""
    return dtypes.usual(subject)


def at_once(jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    """Start all jobs together, each in a thread of its own, a few times over; return what the last turns gave."""
    start = threading.Barrier(len(jobs))

    def work(job: Callable[[], Any]) -> Any:
        start.wait(60)
        return [job() for _ in range(TURNS)][-1]

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(work, jobs))


def sized(name: str, dtype: str) -> list[Trial]:
    """Return a trial for each thread: of other numbers, rows and steps, with lengths and without."""
    made = []
    for thread in range(THREADS):
        steps = 4 + thread % 3
        lengths = tuple(range(steps - 2, steps + 1)) if thread % 2 else None
        made.append(networks.trial(name, dtype, batch=3, steps=steps, lengths=lengths, seed=thread))
    return made


@names
@ways
def test_different_cells(subject: Subject, name: str, dtype: str, fuse: bool) -> None:
    """A cell for each thread."""
    trials = sized(name, dtype)
    cells = [unrolled.placed(subject, trial) for trial in trials]
    jobs = [
        functools.partial(unrolled.run, subject, trial, fuse=fuse, cell=cell)
        for trial, cell in zip(trials, cells, strict=True)
    ]
    for trial, found in zip(trials, at_once(jobs), strict=True):
        judging.assert_right(subject, trial, found)


@names
@ways
def test_the_same_cell(subject: Subject, name: str, dtype: str, fuse: bool) -> None:
    """One cell for all threads, each with inputs of its own."""
    shared = networks.trial(name, dtype)
    trials = [dataclasses.replace(trial, weights=shared.weights) for trial in sized(name, dtype)]
    cell = unrolled.placed(subject, shared)
    jobs = [functools.partial(unrolled.run, subject, trial, fuse=fuse, cell=cell) for trial in trials]
    for trial, found in zip(trials, at_once(jobs), strict=True):
        judging.assert_right(subject, trial, found)


def test_all_kernels_at_once(subject: Subject, dtype: str) -> None:
    """A thread for each fused cell, all of which are run for the first time."""
    trials = [networks.trial(tree, dtype, lengths=RAGGED) for tree in FUSED]
    found = at_once([functools.partial(unrolled.run, subject, trial) for trial in trials])
    for trial, results in zip(trials, found, strict=True):
        judging.assert_right(subject, trial, results)


@ways
@pytest.mark.parametrize("mode", networks.MODES)
def test_dropout(subject: Subject, mode: str, dtype: str, fuse: bool) -> None:
    """Each thread's seed is its own: results are those of the same seed alone."""
    trial = networks.trial(fused_tree(mode, 2, True, dropout=0.5), dtype)
    jobs = [
        functools.partial(unrolled.run, subject, trial, fuse=fuse, training=True, seed=seed) for seed in range(THREADS)
    ]
    alone = [unrolled.bits(subject, job().arrays()) for job in jobs]
    for found, expected in zip(at_once(jobs), alone, strict=True):
        judging.assert_unchanged(unrolled.bits(subject, found.arrays()), expected, "results of a seed")


@pytest.mark.needs("gradients")
@names
@ways
def test_gradients(subject: Subject, name: str, fuse: bool) -> None:
    """Forward and back in every thread, with lengths and without."""
    exact = dtypes.most_exact(subject)
    expected = [slopes.expected(TREES[name], exact, RAGGED if thread % 2 else None) for thread in range(THREADS)]

    def work(each: slopes.Expected) -> dict[str, Any]:
        derived = unrolled.differentiate(subject, each.trial, fuse=fuse)
        return derived.pull(each.outputs, each.states)

    for each, gradients in zip(expected, at_once([functools.partial(work, each) for each in expected]), strict=True):
        judging.assert_gradients(subject, each, gradients, ["a kernel in a thread"])


@ways
def test_weights_are_made_once(subject: Subject, dtype: str, fuse: bool) -> None:
    """The first calls of several threads create one set of weights."""
    tree: Tree = TREES["lstm-2-both"]
    trial, cell = networks.trial(tree, dtype, begin=False), tree.build()
    jobs = [functools.partial(unrolled.run, subject, trial, fuse=fuse, cell=cell) for _ in range(THREADS)]
    first, *others = (unrolled.bits(subject, found.arrays()) for found in at_once(jobs))
    for other in others:
        judging.assert_unchanged(other, first, "results of one cell in another thread")

"""Plans say truly what runs: names, refusals, and no loop in disguise."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from rnnx.backend import Call, Kernel, Recurrence, Unsupported
from rnnx.conformance import judging, networks, unrolled
from rnnx.conformance.dtypes import usual
from rnnx.conformance.marks import dtypes, masks, modes, singles, trees, wide_dtypes
from rnnx.conformance.networks import FUSED, MODES, NESTED, PLAIN, RAGGED, TREES, Tree, fused_tree
from rnnx.conformance.subject import DTYPES, Subject

#: Tier 1, less what moves whole sequences about.
OPERATIONS = ("affine", "sigmoid", "tanh", "relu", "softplus", "split", "concat", "where", "scan", "reshape", "zeros")

#: A tree of every sort.
SOME = tuple(
    TREES[name] for name in ("lstm", "gru_reset_before", "stack_lstm", "both_gru", "both_unlike", "own_peephole")
)
SOME = (
    *(TREES[name] for name in ("lstm", "gru_reset_before", "stack_lstm", "both_gru", "both_unlike", "own_peephole")),
    *(TREES[name] for name in ("residual_lstm", "stack_lstm_gru", "fused_in_stack", "zoneout", "dropout")),
    *(tree for tree in FUSED if "-2-" in tree.name),
)

some_trees = trees(*SOME)


def every_call(subject: Subject, mode: str, dtype: str) -> list[tuple[Recurrence, Call]]:
    """Return every kind of call that there is for a mode and a dtype."""
    found = []
    for layers, both, dropout in itertools.product((1, 2, 3), (False, True), (0.0, 0.5)):
        for training, masked in itertools.product((False, True), (False, True)):
            recurrence = Recurrence(mode, 3, 7, layers, both, dropout)
            found += [(recurrence, Call(dtype, device, training, masked)) for device in (subject.device, None)]
    return found


@pytest.mark.parametrize("dtype_asked", DTYPES)
@modes
def test_every_question_has_an_answer(subject: Subject, mode: str, dtype_asked: str) -> None:
    """A kernel for the recurrence that was asked about, or a reason; the same one when asked again."""
    for recurrence, call in every_call(subject, mode, dtype_asked):
        found = subject.backend.plan(recurrence, call)
        assert isinstance(found, Kernel | Unsupported), (
            f"plan returns a {type(found).__name__} for {recurrence}, {call}"
        )
        assert subject.backend.plan(recurrence, call) == found, f"another answer to {recurrence}, {call}"
        if isinstance(found, Unsupported):
            assert isinstance(found.reason, str), "a reason is text"
            assert found.reason.strip(), f"no reason is given for {recurrence}, {call}"
        else:
            assert found.recurrence == recurrence, f"a kernel for {found.recurrence} where {recurrence} was asked about"


@dtypes
@modes
def test_names(subject: Subject, mode: str, dtype: str) -> None:
    """A kernel's name begins with the backend's, is not the loop's, and has no other mode in it."""
    for recurrence, call in every_call(subject, mode, dtype):
        found = subject.backend.plan(recurrence, call)
        if isinstance(found, Kernel):
            assert found.name.startswith(f"{subject.name}."), f"kernel {found.name!r} of {subject.name}"
            own = found.name.removeprefix(f"{subject.name}.")
            assert own, "a kernel without a name"
            assert own != "loop", "the loop is no kernel"
            told = set(re.findall("lstm|gru|rnn_tanh|rnn_relu", own))
            assert told <= {mode}, f"kernel {found.name!r} runs {mode}"


@modes
def test_kernels_are_those_that_are_declared(subject: Subject, mode: str) -> None:
    """Who declares a mode has a kernel for every call of it in float32, and who has them all declares it."""
    capability = f"fused.{mode}"
    answers = [(asked, subject.backend.plan(*asked)) for asked in every_call(subject, mode, "float32")]
    refused = [(asked, found) for asked, found in answers if isinstance(found, Unsupported)]
    if capability in subject.capabilities:
        assert not refused, f"{capability!r} is declared, but {refused[0][0]} is refused: {refused[0][1].reason}"
    else:
        assert refused, f"there is a kernel for every {mode}: declare {capability!r}"


# -- what runs --------------------------------------------------------------------------------------------------------


class Spy:
    """Watches a method of the backend under test."""

    def __init__(self, subject: Subject, patch: pytest.MonkeyPatch, name: str) -> None:
        self.calls: list[tuple[Any, ...]] = []
        watched: Callable[..., Any] = getattr(subject.backend, name)

        def watching(*arguments: Any, **named: Any) -> Any:
            self.calls.append(arguments)
            return watched(*arguments, **named)

        patch.setattr(subject.backend, name, watching)


@some_trees
@singles
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@masks
def test_kernels_run_once_each(
    subject: Subject,
    monkeypatch: pytest.MonkeyPatch,
    tree: Tree,
    dtype: str,
    training: bool,
    lengths: tuple[int, ...] | None,
) -> None:
    """Each kernel that `explain` names is run, once, and nothing else is."""
    trial = networks.trial(tree, dtype, lengths=lengths)
    cell, spy = unrolled.placed(subject, trial), Spy(subject, monkeypatch, "run")
    found = unrolled.run(subject, trial, training=training, seed=1, cell=cell)
    ran = [arguments[0].name for arguments in spy.calls]
    own = {f"{subject.name}.loop", f"{subject.name}.dropout"}
    assert ran == [name for name in found.kernels if name not in own], f"{ran} ran, where explain says {found.kernels}"


@some_trees
def test_only_planned_kernels_run(subject: Subject, monkeypatch: pytest.MonkeyPatch, tree: Tree) -> None:
    """Whatever is run was agreed to beforehand, by `plan`, for such a call."""
    agreed: list[Kernel] = []
    plan = subject.backend.plan

    def planning(recurrence: Recurrence, call: Call) -> Kernel | Unsupported:
        found = plan(recurrence, call)
        agreed.extend([found] if isinstance(found, Kernel) else [])
        return found

    monkeypatch.setattr(subject.backend, "plan", planning)
    spy = Spy(subject, monkeypatch, "run")
    unrolled.run(subject, networks.trial(tree, usual(subject)))
    for arguments in spy.calls:
        assert arguments[0] in agreed, f"{arguments[0].name} ran, to which plan had not agreed"


@some_trees
@dtypes
def test_stepping_is_the_loop(subject: Subject, monkeypatch: pytest.MonkeyPatch, tree: Tree, dtype: str) -> None:
    """With ``fuse=False`` no kernel is asked about, and none runs."""
    trial = networks.trial(tree, dtype)
    asked, run = (Spy(subject, monkeypatch, name) for name in ("plan", "run"))
    found = unrolled.run(subject, trial, fuse=False)
    assert set(found.kernels) <= {f"{subject.name}.loop"}
    assert not asked.calls
    assert not run.calls


@wide_dtypes
@modes
@pytest.mark.parametrize(("layers", "both"), [(1, False), (2, True)], ids=["1-one", "2-both"])
@pytest.mark.parametrize("how", ["inference", "masked", "training"])
def test_no_kernel_is_a_loop_in_disguise(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, mode: str, dtype: str, layers: int, both: bool, how: str
) -> None:
    """A kernel takes no more operations of the backend for thirty steps than for three."""
    tree = fused_tree(mode, layers, both, dropout=0.5)
    few, many = (operations(subject, monkeypatch, tree, dtype, how, steps) for steps in (3, 30))
    assert many == few, f"operations within a kernel for 3 steps: {few}, for 30: {many}"


def operations(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, tree: Tree, dtype: str, how: str, steps: int
) -> Counter[str]:
    """Return how often each operation of the backend was called while one of its kernels ran."""
    lengths = (steps, 2) if how == "masked" else None
    trial = networks.trial(tree, dtype, batch=2, steps=steps, lengths=lengths)
    counted: Counter[str] = Counter()
    within = [False]
    with monkeypatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(subject.backend, name, counting(getattr(subject.backend, name), name, counted, within))
        run = subject.backend.run

        def running(*arguments: Any) -> Any:
            within[0] = True
            try:
                return run(*arguments)
            finally:
                within[0] = False

        patch.setattr(subject.backend, "run", running)
        unrolled.run(subject, trial, training=how == "training", seed=1)
    return counted


def counting(operation: Callable[..., Any], name: str, counted: Counter[str], within: list[bool]) -> Callable[..., Any]:
    """Return an operation that is counted where a kernel calls it."""

    def counts(*arguments: Any, **named: Any) -> Any:
        counted[name] += within[0]
        return operation(*arguments, **named)

    return counts


# -- explain ----------------------------------------------------------------------------------------------------------


@dtypes
@trees(*PLAIN, *FUSED, *NESTED)
def test_explain(subject: Subject, tree: Tree, dtype: str) -> None:
    """The plan is the backend's, every kernel named is its own, and whatever steps says why."""
    trial = networks.trial(tree, dtype)
    inputs = unrolled.cast(subject, [trial.inputs], dtype)[0]
    for lengths, training in itertools.product((None, RAGGED), (False, True)):
        plan = unrolled.placed(subject, trial).explain(inputs, valid_length=lengths, training=training)
        assert plan.backend.name == subject.name
        assert (plan.call.dtype, plan.call.training, plan.call.masked) == (dtype, training, lengths is not None)
        assert plan.call.device in (subject.device, None)
        assert all(name.startswith(f"{subject.name}.") for name in plan.kernels)
        if f"{subject.name}.loop" in plan.kernels:
            assert plan.refused
            assert all(reason.strip() for reason in plan.refused)


@pytest.mark.parametrize("mode", [pytest.param(mode, marks=pytest.mark.needs(f"fused.{mode}")) for mode in MODES])
@singles
def test_neighbours_share_a_kernel(subject: Subject, mode: str, dtype: str) -> None:
    """Two plain cells of one kind, one on the other or in two directions, run as one kernel where one is declared."""
    for name in (f"stack_{mode}", f"both_{mode}"):
        trial = networks.trial(name, dtype)
        found = unrolled.run(subject, trial)
        judging.assert_right(subject, trial, found)
        assert len(found.kernels) == 1, f"{name} runs as {found.kernels}"

"""`verify`: the same recurrent network on every backend, fused and stepped, against recorded numbers or each other.

Nothing here prints: a `Verification` holds what was found, and ``rnnx verify`` shows it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rnnx.cells import BaseRNNCell
from rnnx.errors import BackendNotFoundError
from rnnx.reference import Reference
from rnnx.registry import FALLBACK, get_backend, list_backends
from rnnx.trials import Form, Measurement, Numbers, Trial, forms_of, measured, random_trial, recorded_trial

__all__ = ["Difference", "Perplexity", "Run", "Verification", "difference", "verify"]

Array = npt.NDArray[Any]

#: Told how many runs are done, how many there will be, and what runs next.
Progress = Callable[[int, int, str], None]

#: Perplexities are compared to this many significant digits.
DIGITS = 5


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far a run's numbers are from others: the largest absolute differences, and whether rounding explains them."""

    outputs: float
    states: float
    agrees: bool

    @property
    def largest(self) -> float:
        """The larger of the two."""
        return float(np.max([self.outputs, self.states]))


@dataclasses.dataclass(frozen=True)
class Run:
    """The network on one backend in one form.

    Parameters
    ----------
    backend, device : str
        Where it ran; the device is None where the framework knows only one.
    form : str
        ``"fused"`` as planned, ``"unfused"`` stepped through time, and ``"fuse()"`` or ``"unfuse()"`` the tree that
        the cell's method of that name makes, as planned.
    kernels, ragged_kernels : tuple of str
        What ran, over whole sequences and over ragged ones.
    milliseconds : float
        Median time of a run over whole sequences, results brought to NumPy.
    recorded : Difference or None
        From the reference.
    first, ragged : Difference or None
        From the first run, over whole and over ragged sequences; None for that run itself.
    failure : str
        What it raised; nothing else is known of it then.
    """

    backend: str
    form: str
    device: str | None = None
    kernels: tuple[str, ...] = ()
    ragged_kernels: tuple[str, ...] = ()
    milliseconds: float = 0.0
    recorded: Difference | None = None
    first: Difference | None = None
    ragged: Difference | None = None
    failure: str = ""

    @property
    def name(self) -> str:
        """Backend and form."""
        return f"{self.backend} {self.form}"

    @property
    def agrees(self) -> bool:
        """Whether it ran and every difference is rounding."""
        differences = (self.recorded, self.first, self.ragged)
        return not self.failure and all(each is None or each.agrees for each in differences)


@dataclasses.dataclass(frozen=True)
class Perplexity:
    """The perplexity recorded, and the one computed with NumPy from the first run's outputs."""

    recorded: float
    computed: float

    @property
    def agrees(self) -> bool:
        """Whether they are one number to five significant digits."""
        unit = 10.0 ** (math.floor(math.log10(self.recorded)) + 1 - DIGITS)
        return abs(self.computed - self.recorded) <= unit / 2


@dataclasses.dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Parameters
    ----------
    batch, steps : int
        N and T.
    tolerance : float
        The largest difference that is taken for rounding, for numbers up to 1.
    runs : tuple of Run
        In the order in which they ran.
    missing : mapping of str to str
        Backends that cannot run here, and why.
    source : str or None
        Who made the reference; None if there was none.
    embedding : float or None
        Largest difference of the embedded tokens from the recorded inputs.
    perplexity : Perplexity or None
        Where one was recorded.
    """

    batch: int
    steps: int
    tolerance: float
    runs: tuple[Run, ...]
    missing: Mapping[str, str]
    source: str | None = None
    embedding: float | None = None
    perplexity: Perplexity | None = None

    @property
    def verified(self) -> bool:
        """Whether everything agrees."""
        return not self.problems

    @property
    def problems(self) -> tuple[str, ...]:
        """A sentence for everything that does not agree."""
        return tuple(self._problems())

    @property
    def baseline(self) -> str:
        """The run that the others are compared with: the first that did not fail."""
        return next((run.name for run in self.runs if not run.failure), "no run")

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain dicts and lists."""
        found = {"verified": self.verified, **dataclasses.asdict(self)}
        found["runs"] = [{**dataclasses.asdict(run), "agrees": run.agrees} for run in self.runs]
        if self.perplexity is not None:
            found["perplexity"]["agrees"] = self.perplexity.agrees
        return {**found, "baseline": self.baseline, "problems": list(self.problems)}

    def _problems(self) -> Iterator[str]:
        if not self.runs:
            yield "there is no backend to run on"
        for run in self.runs:
            yield from self._problem_of(run)
        if self.embedding is not None and self.embedding != 0:
            yield f"the embedded tokens differ from the recorded inputs by {self.embedding:.1e}"
        if self.perplexity is not None and not self.perplexity.agrees:
            yield f"the perplexity is {self.perplexity.computed:.6g}, recorded as {self.perplexity.recorded:.6g}"

    def _problem_of(self, run: Run) -> Iterator[str]:
        """Yield the first thing that is wrong with a run: the others follow from it."""
        if run.failure:
            yield f"{run.name} failed: {run.failure}"
            return
        for difference, other in (
            (run.recorded, self.source),
            (run.first, self.baseline),
            (run.ragged, f"{self.baseline} over ragged sequences"),
        ):
            if difference is not None and not difference.agrees:
                yield f"{run.name} differs from {other} by {difference.largest:.1e}"
                return


def verify(
    cell: BaseRNNCell,
    extra: Mapping[str, Array] | None = None,
    reference: Reference | None = None,
    backends: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Run a cell tree on every backend, as planned, stepped and converted, and compare the numbers.

    The inputs and initial states are those of the reference, or else seeded random numbers. Everything also runs over
    ragged sequences. The cell itself is left as it is: each run has its own copy.

    Parameters
    ----------
    cell : BaseRNNCell
        A tree of rnnx's own cells, with its weights.
    extra : mapping of str to array, optional
        The checkpoint's other arrays, by which the reference's embedding and perplexity are checked.
    reference : Reference, optional
        What another framework computed.
    backends : sequence of str, optional
        Where to run it; on every backend that is installed otherwise, NumPy first.
    progress : callable, optional
        Called before each run with how many are done, how many there are, and what runs next.

    Raises
    ------
    WeightFormatError
        If the reference is of another network, or names arrays that are not there.
    UnsupportedError
        If the tree holds a cell class that is not rnnx's own, of which no copy can be made.
    BackendNotFoundError
        If one of `backends` cannot be used.
    """
    trial = random_trial(cell) if reference is None else recorded_trial(cell, reference)
    forms = forms_of(cell)
    names, missing = _usable(backends)
    results: list[tuple[Run, Measurement | None]] = []
    for name, form in [(name, form) for name in names for form in forms]:
        if progress is not None:
            progress(len(results), len(names) * len(forms), f"{name} {form.name}")
        results.append(_tried(name, form, trial))
    batch, steps = trial.inputs.shape[:2]
    found = Verification(batch, steps, trial.tolerance, tuple(_compared(results, trial)), missing)
    outputs = next((measurement.whole.outputs for _, measurement in results if measurement is not None), None)
    return found if reference is None else _scored(found, reference, extra or {}, outputs)


def _usable(wanted: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """Return the backends to run on, and of the others why they cannot be used."""
    if wanted is not None:
        for name in wanted:
            get_backend(name)
        return list(wanted), {}
    reasons = {status.name: status.reason or _broken(status.name) for status in list_backends()}
    usable = sorted((name for name, reason in reasons.items() if not reason), key=lambda name: (name != FALLBACK, name))
    return usable, {name: reason for name, reason in reasons.items() if reason}


def _broken(name: str) -> str:
    """Return why an installed backend cannot be used after all; nothing if it can."""
    try:
        get_backend(name)
    except BackendNotFoundError as error:
        return str(error)
    return ""


def _tried(name: str, form: Form, trial: Trial) -> tuple[Run, Measurement | None]:
    try:
        found = measured(get_backend(name), form, trial)
    except Exception as error:  # a backend is foreign code: whatever it raises is what was found out about it
        return Run(name, form.name, failure=f"{type(error).__name__}: {error}"), None
    return Run(name, form.name, found.device, found.kernels, found.ragged_kernels, found.milliseconds), found


def _compared(results: Sequence[tuple[Run, Measurement | None]], trial: Trial) -> Iterator[Run]:
    """Yield the runs with their differences from the reference and from the first that did not fail."""
    first: Measurement | None = None
    for run, found in results:
        if found is not None:
            if trial.recorded is not None:
                run = dataclasses.replace(run, recorded=difference(found.whole, trial.recorded, trial.tolerance))
            if first is not None:
                whole = difference(found.whole, first.whole, trial.tolerance)
                ragged = difference(found.ragged, first.ragged, trial.tolerance)
                run = dataclasses.replace(run, first=whole, ragged=ragged)
            first = first or found
        yield run


def difference(found: Numbers, wanted: Numbers, tolerance: float) -> Difference:
    """Return how far numbers are from others, each array judged by the largest number in it."""
    outputs = _gap(found.outputs, wanted.outputs)
    states = [_gap(mine, theirs) for mine, theirs in zip(found.states, wanted.states, strict=True)]
    agrees = all(gap <= tolerance * scale for gap, scale in (outputs, *states))
    return Difference(outputs[0], float(np.max([gap for gap, _ in states], initial=0.0)), agrees)


def _gap(found: Array, wanted: Array) -> tuple[float, float]:
    """Return the largest difference, and the largest number if that is above 1."""
    if found.shape != wanted.shape:
        return math.inf, 1.0
    exact, target = found.astype(np.float64), wanted.astype(np.float64)
    with np.errstate(invalid="ignore"):  # an infinity from an infinity is no agreement: NaN says so
        return float(np.abs(exact - target).max(initial=0.0)), float(np.abs(target).max(initial=1.0))


def _scored(
    found: Verification, reference: Reference, extra: Mapping[str, Array], outputs: Array | None
) -> Verification:
    """Return the verification with what the reference says of the whole model."""
    embedding, perplexity = None, None
    if reference.embedding is not None:
        embedding, _ = _gap(reference.embedding.vectors(extra), reference.inputs)
    if reference.scoring is not None and outputs is not None:
        computed = reference.scoring.score(outputs, extra)
        perplexity = Perplexity(reference.scoring.perplexity, computed)
    return dataclasses.replace(found, source=reference.source, embedding=embedding, perplexity=perplexity)

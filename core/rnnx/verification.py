"""`verify`: the same recurrent network on every backend, fused and stepped, against recorded numbers or each other.

Nothing here prints: a `Verification` holds what was found, and `rnnx verify` shows it.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rnnx.backend import Backend
from rnnx.cells import BaseRNNCell, FusedRNNCell, placement
from rnnx.cells.arguments import flat
from rnnx.errors import BackendNotFoundError, RNNXError, UnsupportedError, WeightFormatError
from rnnx.reference import Embedding, Reference, Scoring
from rnnx.registry import FALLBACK, get_backend, list_backends
from rnnx.spec import CellSpec

__all__ = ["Difference", "Perplexity", "Run", "Verification", "perplexity", "verify"]

Array = npt.NDArray[Any]

#: Told how many runs are done, how many there will be, and what runs next.
Progress = Callable[[int, int, str], None]

#: Largest difference that is rounding, for numbers up to 1; for larger ones it grows with the largest of them.
TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-2, "bfloat16": 1e-1}

#: Sequences and steps where no reference says otherwise.
BATCH, STEPS = 4, 16

#: A run is timed so often, unless that takes longer than so many seconds.
REPEATS, PATIENCE = 5, 1.0

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
        return max(self.outputs, self.states)


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
    def agrees(self) -> bool:
        """Whether it ran and every difference is rounding."""
        return not self.failure and all(
            difference is None or difference.agrees for difference in (self.recorded, self.first, self.ragged)
        )


@dataclasses.dataclass(frozen=True)
class Perplexity:
    """The perplexity recorded, and the one computed from the first run's outputs."""

    recorded: float
    computed: float

    @property
    def agrees(self) -> bool:
        """Whether they are one number in five significant digits."""
        unit = 10.0 ** (np.floor(np.log10(self.recorded)) + 1 - DIGITS)
        return bool(abs(self.computed - self.recorded) <= unit / 2)


@dataclasses.dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Parameters
    ----------
    batch, steps : int
        N and T.
    tolerance : float
        For numbers up to 1.
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
        return next((f"{run.backend} {run.form}" for run in self.runs if not run.failure), "nothing")

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain dicts and lists."""
        found = {"verified": self.verified, **dataclasses.asdict(self), "problems": list(self.problems)}
        found["runs"] = [{**dataclasses.asdict(run), "agrees": run.agrees} for run in self.runs]
        if self.perplexity is not None:
            found["perplexity"]["agrees"] = self.perplexity.agrees
        return found

    def _problems(self) -> Iterator[str]:
        for run in self.runs:
            yield from self._problem_of(run)
        if self.embedding is not None and self.embedding != 0:
            yield f"the embedded tokens differ from the recorded inputs by {self.embedding:.1e}"
        if self.perplexity is not None and not self.perplexity.agrees:
            yield f"the perplexity is {self.perplexity.computed:.6g}, recorded as {self.perplexity.recorded:.6g}"

    def _problem_of(self, run: Run) -> Iterator[str]:
        """Yield the first thing that is wrong with a run: the others follow from it."""
        name = f"{run.backend} {run.form}"
        if run.failure:
            yield f"{name} failed: {run.failure}"
            return
        for difference, other in (
            (run.recorded, self.source),
            (run.first, self.baseline),
            (run.ragged, f"{self.baseline} over ragged sequences"),
        ):
            if difference is not None and not difference.agrees:
                yield f"{name} differs from {other} by {difference.largest:.1e}"
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
        If the reference is not of this cell, or names arrays that are not there.
    UnsupportedError
        If the tree holds a cell class that is not rnnx's own, of which no copy can be made.
    BackendNotFoundError
        If one of `backends` cannot be used.
    """
    trial = _random_trial(cell) if reference is None else _recorded_trial(cell, reference)
    names, missing = _usable(backends)
    forms = _forms_of(cell)
    results = []
    for name in names:
        for form in forms:
            if progress is not None:
                progress(len(results), len(names) * len(forms), f"{name} {form.name}")
            results.append(_tried(name, form, trial))
    batch, steps = trial.inputs.shape[:2]
    runs = tuple(_compared(results, trial))
    found = Verification(batch, steps, trial.tolerance, runs, missing)
    return found if reference is None else _scored(found, reference, extra or {}, results)


def perplexity(outputs: Array, scoring: Scoring, extra: Mapping[str, Array]) -> float:
    """Return the perplexity of a language model over outputs (N, T, H), as ``mx.metric.Perplexity`` computes it.

    That is exp(-mean(log(max(1e-10, p)))) over all labels but those that do not count, with p the probability of the
    label under softmax(outputs W^T + b). Source: ``python/mxnet/metric.py`` of MXNet 1.9.1.

    Raises
    ------
    WeightFormatError
        If W or b is missing or does not fit the outputs.
    """
    weight, bias = (_array(extra, name) for name in (scoring.weight, scoring.bias))
    if weight.shape[1:] != outputs.shape[2:] or bias.shape != weight.shape[:1]:
        raise WeightFormatError(
            f"{scoring.weight!r} {weight.shape} and {scoring.bias!r} {bias.shape} make no scores of outputs "
            f"{outputs.shape[2]} wide; expected (V, {outputs.shape[2]}) and (V,)"
        )
    costs = [
        -np.log(np.maximum(1e-10, _chosen(row @ weight.T + bias, labels)[labels != scoring.ignore_label]))
        for row, labels in zip(outputs.astype(np.float64), scoring.labels, strict=True)
    ]
    return float(np.exp(np.concatenate(costs).mean()))


def _chosen(scores: Array, labels: Array) -> Array:
    """Return the probability of each step's label; one out of range is read as the nearest, as ``mx.nd.pick`` does."""
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    places = np.clip(labels, 0, scores.shape[1] - 1)
    chosen: Array = odds[np.arange(len(odds)), places] / odds.sum(axis=1)
    return chosen


def _array(extra: Mapping[str, Array], name: str) -> Array:
    if name not in extra:
        raise WeightFormatError(f"the reference needs array {name!r}, and the checkpoint has {', '.join(extra) or 'none'}")
    return extra[name]


@dataclasses.dataclass(frozen=True)
class _Numbers:
    """What a run returned; states one array (N, H) a layer, however the cells hold them."""

    outputs: Array
    states: tuple[Array, ...]

    def difference(self, other: _Numbers, tolerance: float) -> Difference:
        """Return how far these numbers are from others, each array judged by its largest number."""
        outputs = _gap(self.outputs, other.outputs)
        gaps = [_gap(mine, theirs) for mine, theirs in zip(self.states, other.states, strict=True)]
        agrees = all(gap <= tolerance * scale for gap, scale in (outputs, *gaps))
        return Difference(outputs[0], float(np.max([gap for gap, _ in gaps], initial=0.0)), agrees)


def _gap(found: Array, wanted: Array) -> tuple[float, float]:
    """Return the largest difference, and the largest number if that is above 1."""
    if found.shape != wanted.shape:
        return float("inf"), 1.0
    exact, target = found.astype(np.float64), wanted.astype(np.float64)
    with np.errstate(invalid="ignore"):  # an infinity from an infinity is no agreement: NaN says so
        return float(np.abs(exact - target).max(initial=0.0)), float(np.abs(target).max(initial=1.0))


@dataclasses.dataclass(frozen=True)
class _Trial:
    """What every run is given; `recorded` is what the reference says must come out."""

    inputs: Array
    begin: tuple[Array, ...]
    lengths: Array
    tolerance: float
    recorded: _Numbers | None = None


@dataclasses.dataclass(frozen=True)
class _Form:
    """A way to run the network: a tree with its weights on NumPy, and whether kernels may run it."""

    name: str
    cell: BaseRNNCell
    fuse: bool = True


@dataclasses.dataclass(frozen=True)
class _Result:
    run: Run
    whole: _Numbers
    ragged: _Numbers


def _forms_of(cell: BaseRNNCell) -> list[_Form]:
    own = _copied(cell, cell.spec)
    forms = [_Form("fused", own), _Form("unfused", own, fuse=False)]
    if isinstance(own, FusedRNNCell):
        return [*forms, _Form("unfuse()", own.unfuse())]
    try:
        fused = own.fuse()
    except UnsupportedError:  # most trees equal no fused cell
        return forms
    return [*forms, _Form("fuse()", _copied(fused, fused.spec))]


def _copied(cell: BaseRNNCell, spec: CellSpec) -> BaseRNNCell:
    """Return a copy on NumPy that also returns final states where the cell keeps them to itself."""
    copy = BaseRNNCell.from_spec(_with_states(spec))
    copy.load_params(cell.get_params())
    return copy


def _with_states(spec: CellSpec) -> CellSpec:
    fields = {key: True if key == "get_next_state" else value for key, value in spec.fields.items()}
    return CellSpec(spec.kind, fields, tuple(map(_with_states, spec.children)))


def _usable(wanted: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """Return the backends to run on, and of the others why they cannot be used."""
    if wanted is not None:
        return [get_backend(name).name for name in wanted], {}
    usable, missing = [], {}
    for status in sorted(list_backends(), key=lambda each: (each.name != FALLBACK, each.name)):
        try:
            usable.append(get_backend(status.name).name)
        except BackendNotFoundError as error:
            missing[status.name] = status.reason or str(error)
    return usable, missing


def _random_trial(cell: BaseRNNCell) -> _Trial:
    rng = np.random.default_rng(0)
    dtype, width = _reads(cell)
    shapes = [tuple(size or BATCH for size in shape) for shape in cell.state_shape]
    begin = tuple(placement.cast(rng.standard_normal(shape), dtype) for shape in shapes)
    inputs = placement.cast(rng.standard_normal((BATCH, STEPS, width)), dtype)
    return _Trial(inputs, _layered(cell, begin), rng.integers(0, STEPS + 1, BATCH), TOLERANCES[dtype])


def _recorded_trial(cell: BaseRNNCell, reference: Reference) -> _Trial:
    _require_fit(cell, reference)
    dtype, _ = _reads(cell)
    batch, steps = reference.inputs.shape[:2]
    lengths = np.random.default_rng(0).integers(0, steps + 1, batch)
    begin = tuple(placement.cast(state, dtype) for state in reference.begin_states)
    recorded = _Numbers(reference.outputs, _layered(cell, reference.states))
    tolerance = max(TOLERANCES[dtype], TOLERANCES[reference.outputs.dtype.name])
    return _Trial(placement.cast(reference.inputs, dtype), _layered(cell, begin), lengths, tolerance, recorded)


def _reads(cell: BaseRNNCell) -> tuple[str, int]:
    """Return the dtype and the width of what the cell reads."""
    weights = cell.get_params()
    width = placement.input_size_of(cell, {name: array.shape for name, array in weights.items()})
    if width is None:
        raise RNNXError("the cell has no weights: there is nothing to verify")
    return str(next(iter(weights.values())).dtype), width


def _require_fit(cell: BaseRNNCell, reference: Reference) -> None:
    _, width = _reads(cell)
    batch, steps = reference.inputs.shape[:2]
    states = [tuple(size or batch for size in shape) for shape in cell.state_shape]
    for what, found, expected in (
        ("inputs", reference.inputs.shape, (batch, steps, width)),
        ("outputs", reference.outputs.shape, (batch, steps, cell.output_size(width))),
        ("states", [state.shape for state in reference.states], states),
    ):
        if found != expected:
            raise WeightFormatError(
                f"the reference is of another network: its {what} have shape {found}, this cell's {expected}; "
                "write it anew or remove it"
            )


def _tried(name: str, form: _Form, trial: _Trial) -> _Result | Run:
    try:
        return _measured(get_backend(name), form, trial)
    except Exception as error:  # a backend is foreign code: whatever it raises is what was found out about it
        return Run(name, form.name, failure=f"{type(error).__name__}: {error}")


def _measured(ops: Backend, form: _Form, trial: _Trial) -> _Result:
    cell = _copied(form.cell, form.cell.spec).to(ops.name)
    inputs = ops.from_numpy(trial.inputs)
    begin = [ops.from_numpy(state) for state in _held(cell, trial.begin)]

    def run(lengths: Array | None = None) -> _Numbers:
        outputs, states = cell.unroll(
            None, inputs, begin, merge_outputs=True, valid_length=lengths, fuse=form.fuse
        )
        return _Numbers(ops.to_numpy(outputs), _layered(cell, [ops.to_numpy(state) for state in flat(states)]))

    whole, ragged = run(), run(trial.lengths)
    plan = cell.explain(inputs, fuse=form.fuse)
    kernels = cell.explain(inputs, valid_length=trial.lengths, fuse=form.fuse).kernels
    found = Run(ops.name, form.name, plan.call.device, plan.kernels, kernels, _median_time(run))
    return _Result(found, whole, ragged)


def _median_time(run: Callable[[], object]) -> float:
    """Return milliseconds; the caller has run it once, so that nothing is compiled or allocated for the first time."""
    times: list[float] = []
    while len(times) < REPEATS and sum(times) < PATIENCE:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def _compared(results: Sequence[_Result | Run], trial: _Trial) -> Iterator[Run]:
    first = next((result for result in results if isinstance(result, _Result)), None)
    for result in results:
        if isinstance(result, Run) or first is None:
            yield result if isinstance(result, Run) else result.run
            continue
        tolerance = trial.tolerance
        recorded = None if trial.recorded is None else result.whole.difference(trial.recorded, tolerance)
        run = dataclasses.replace(result.run, recorded=recorded)
        if result is not first:
            whole, ragged = (result.whole, first.whole), (result.ragged, first.ragged)
            run = dataclasses.replace(
                run, first=whole[0].difference(whole[1], tolerance), ragged=ragged[0].difference(ragged[1], tolerance)
            )
        yield run


def _scored(
    found: Verification, reference: Reference, extra: Mapping[str, Array], results: Sequence[_Result | Run]
) -> Verification:
    """Return the verification with what the reference says of the whole model."""
    embedding, scoring = reference.embedding, reference.scoring
    outputs = next((result.whole.outputs for result in results if isinstance(result, _Result)), None)
    score = None
    if scoring is not None and outputs is not None:
        score = Perplexity(scoring.perplexity, perplexity(outputs, scoring, extra))
    gap = None if embedding is None else _embedding_gap(embedding, reference.inputs, extra)
    return dataclasses.replace(found, source=reference.source, embedding=gap, perplexity=score)


def _embedding_gap(embedding: Embedding, inputs: Array, extra: Mapping[str, Array]) -> float:
    vectors, tokens = _array(extra, embedding.array), embedding.tokens
    if tokens.min() < 0 or tokens.max() >= len(vectors):
        raise WeightFormatError(
            f"the reference has tokens from {tokens.min()} to {tokens.max()}, and {embedding.array!r} {len(vectors)} rows"
        )
    return _gap(vectors[tokens], inputs)[0]


def _layered(cell: BaseRNNCell, states: Sequence[Array]) -> tuple[Array, ...]:
    """Return flat states with those of fused cells taken apart, one array (N, H) a layer, as plain cells hold them."""
    rest, layered = iter(states), []
    for leaf in cell.leaves():
        mine = [next(rest) for _ in leaf.state_info]
        fused = isinstance(leaf, FusedRNNCell)
        layered += [state for layer in zip(*mine, strict=True) for state in layer] if fused else mine
    return tuple(layered)


def _held(cell: BaseRNNCell, layered: Sequence[Array]) -> list[Array]:
    """Return states as the cell holds them: the reverse of `_layered`."""
    rest, held = iter(layered), []
    for leaf in cell.leaves():
        kinds = len(leaf.state_info)
        if isinstance(leaf, FusedRNNCell):
            mine = [next(rest) for _ in range(kinds * leaf.state_shape[0][0])]
            held += [np.stack(mine[kind::kinds]) for kind in range(kinds)]
        else:
            held += [next(rest) for _ in range(kinds)]
    return held

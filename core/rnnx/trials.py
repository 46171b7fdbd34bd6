"""One network, run alike in several forms on any backend: the same inputs and initial states, whatever holds them."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rnnx.backend import Backend
from rnnx.cells import BaseRNNCell, FusedRNNCell, placement
from rnnx.cells.arguments import flat
from rnnx.errors import UnsupportedError, WeightFormatError
from rnnx.reference import Reference
from rnnx.spec import CellSpec

__all__ = [
    "Form",
    "Measurement",
    "Numbers",
    "Trial",
    "forms_of",
    "in_dtype_of",
    "measured",
    "random_trial",
    "recorded_trial",
]

Array = npt.NDArray[Any]

#: Largest difference that is rounding, for numbers up to 1; for larger ones it grows with the largest of them.
TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-2, "bfloat16": 1e-1}

#: Sequences and steps where no reference says otherwise.
BATCH, STEPS = 4, 16

#: A run is timed so often, unless that takes longer than so many seconds.
REPEATS, PATIENCE = 15, 0.3


@dataclasses.dataclass(frozen=True)
class Numbers:
    """What a run returned: outputs (N, T, C), and one state (N, H) a layer, however the cells hold them."""

    outputs: Array
    states: tuple[Array, ...]


@dataclasses.dataclass(frozen=True)
class Trial:
    """What every run is given.

    Parameters
    ----------
    inputs : array
        (N, T, C).
    begin : tuple of array
        Initial states, as in `Numbers`.
    lengths : array of int
        (N,), how long the sequences are where they are ragged.
    tolerance : float
        The largest difference that is rounding, for numbers up to 1.
    recorded : Numbers or None
        What must come out.
    """

    inputs: Array
    begin: tuple[Array, ...]
    lengths: Array
    tolerance: float
    recorded: Numbers | None = None


@dataclasses.dataclass(frozen=True)
class Form:
    """A way to run a network: a tree with its weights on NumPy, and whether fused kernels may run it."""

    name: str
    cell: BaseRNNCell
    fuse: bool = True


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A form that ran: what it returned over whole and ragged sequences, by which kernels, and in what time."""

    device: str | None
    kernels: tuple[str, ...]
    ragged_kernels: tuple[str, ...]
    milliseconds: float
    whole: Numbers
    ragged: Numbers


def forms_of(cell: BaseRNNCell) -> list[Form]:
    """Return the forms of a tree: as planned, stepped, and as planned after ``fuse()`` or ``unfuse()``.

    Raises
    ------
    UnsupportedError
        If it holds a cell class that is not rnnx's own, of which no copy can be made.
    """
    own = _copy(cell)
    forms = [Form("fused", own), Form("unfused", own, fuse=False)]
    if isinstance(own, FusedRNNCell):
        return [*forms, Form("unfuse()", own.unfuse())]
    try:
        return [*forms, Form("fuse()", own.fuse())]
    except UnsupportedError:  # most trees equal no fused cell
        return forms


def random_trial(cell: BaseRNNCell) -> Trial:
    """Return a trial of seeded random inputs and initial states."""
    dtype, width = _dtype(cell), _width(cell)
    rng = np.random.default_rng(0)
    inputs = placement.cast(rng.standard_normal((BATCH, STEPS, width)), dtype)
    begin = [placement.cast(rng.standard_normal(shape), dtype) for shape in _state_shapes(cell, BATCH)]
    return Trial(inputs, _layered(cell, begin), rng.integers(0, STEPS + 1, BATCH), TOLERANCES[dtype])


def recorded_trial(cell: BaseRNNCell, reference: Reference) -> Trial:
    """Return the trial of a reference.

    Raises
    ------
    WeightFormatError
        If it is of another network.
    """
    _require_fit(cell, reference)
    dtype, recorded = _dtype(cell), Numbers(reference.outputs, _layered(cell, reference.states))
    batch, steps = reference.inputs.shape[:2]
    begin = [placement.cast(state, dtype) for state in reference.begin_states]
    return Trial(
        placement.cast(reference.inputs, dtype),
        _layered(cell, begin),
        np.random.default_rng(0).integers(0, steps + 1, batch),
        max(TOLERANCES[dtype], TOLERANCES[reference.outputs.dtype.name]),
        recorded,
    )


def in_dtype_of(cell: BaseRNNCell, trial: Trial) -> Trial:
    """Return a trial whose inputs have the dtype of another cell's weights."""
    dtype = _dtype(cell)
    return dataclasses.replace(
        trial,
        inputs=placement.cast(trial.inputs, dtype),
        begin=tuple(placement.cast(state, dtype) for state in trial.begin),
        tolerance=max(trial.tolerance, TOLERANCES[dtype]),
    )


def measured(ops: Backend, form: Form, trial: Trial) -> Measurement:
    """Run a form, a copy of it, on a backend."""
    cell = _copy(form.cell).to(ops.name)
    inputs = ops.from_numpy(trial.inputs)
    begin = [ops.from_numpy(state) for state in _held(cell, trial.begin)]

    def run(lengths: Array | None = None) -> Numbers:
        outputs, states = cell.unroll(None, inputs, begin, merge_outputs=True, valid_length=lengths, fuse=form.fuse)
        return Numbers(ops.to_numpy(outputs), _layered(cell, [ops.to_numpy(state) for state in flat(states)]))

    whole, ragged = run(), run(trial.lengths)
    plan = cell.explain(inputs, fuse=form.fuse)
    ragged_plan = cell.explain(inputs, valid_length=trial.lengths, fuse=form.fuse)
    return Measurement(plan.call.device, plan.kernels, ragged_plan.kernels, _median_time(run), whole, ragged)


def _median_time(run: Callable[[], object]) -> float:
    """Return milliseconds; the caller has run it before, so that nothing is compiled for the first time."""
    times: list[float] = []
    while len(times) < REPEATS and sum(times) < PATIENCE:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def _copy(cell: BaseRNNCell) -> BaseRNNCell:
    """Return a copy on NumPy that also returns the final states that the cell keeps to itself."""
    copy = BaseRNNCell.from_spec(_with_states(cell.spec))
    copy.load_params(cell.get_params())
    return copy


def _with_states(spec: CellSpec) -> CellSpec:
    fields = {key: True if key == "get_next_state" else value for key, value in spec.fields.items()}
    return CellSpec(spec.kind, fields, tuple(map(_with_states, spec.children)))


def _dtype(cell: BaseRNNCell) -> str:
    dtype = next((str(array.dtype) for array in cell.get_params().values()), "")
    if dtype not in TOLERANCES:
        raise UnsupportedError(f"the cell's weights are {dtype or 'not there'}: expected {', '.join(TOLERANCES)}")
    return dtype


def _width(cell: BaseRNNCell) -> int:
    width = placement.input_size_of(cell, {name: array.shape for name, array in cell.get_params().items()})
    if width is None:
        raise UnsupportedError("the cell's weights do not tell the width of its inputs")
    return width


def _state_shapes(cell: BaseRNNCell, batch: int) -> list[tuple[int, ...]]:
    return [tuple(size or batch for size in shape) for shape in cell.state_shape]


def _require_fit(cell: BaseRNNCell, reference: Reference) -> None:
    batch, steps = reference.inputs.shape[:2]
    width = _width(cell)
    for what, found, expected in (
        ("inputs", reference.inputs.shape, (batch, steps, width)),
        ("outputs", reference.outputs.shape, (batch, steps, cell.output_size(width))),
        ("states", [state.shape for state in reference.states], _state_shapes(cell, batch)),
    ):
        if found != expected:
            raise WeightFormatError(
                f"the reference is of another network: its {what} have shape {found}, and this one's {expected}; "
                "write it anew or remove it"
            )


def _layered(cell: BaseRNNCell, states: Sequence[Array]) -> tuple[Array, ...]:
    """Return flat states with those of fused cells taken apart, as plain cells hold them."""
    rest = iter(states)
    layered: list[Array] = []
    for leaf in cell.leaves():
        mine = [next(rest) for _ in leaf.state_info]
        fused = isinstance(leaf, FusedRNNCell)
        layered += [state for layer in zip(*mine, strict=True) for state in layer] if fused else mine
    return tuple(layered)


def _held(cell: BaseRNNCell, layered: Sequence[Array]) -> list[Array]:
    """Return states as the cell holds them: the reverse of `_layered`."""
    rest = iter(layered)
    held: list[Array] = []
    for leaf in cell.leaves():
        kinds = len(leaf.state_info)
        if isinstance(leaf, FusedRNNCell):
            mine = [next(rest) for _ in range(kinds * leaf.state_shape[0][0])]
            held += [np.stack(mine[kind::kinds]) for kind in range(kinds)]
        else:
            held += [next(rest) for _ in range(kinds)]
    return held

"""What is wrong with outputs and states: where they first differ, by how much, and what the cause looks to be."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rnnx.conformance import reference
from rnnx.conformance.equations import Array, Weights
from rnnx.conformance.mistakes import WRONG_NETWORKS, WRONG_RESULTS, Mistake
from rnnx.conformance.reference import Spec
from rnnx.conformance.unfusing import Outcome, Setting, apart, directions_of, labels_of, leaves, unfused, valid
from rnnx.conformance.wrong_weights import weights_mistaken

__all__ = ["MISTAKES", "Problem", "Report", "allowed", "coarse", "explain", "hint", "setting_of", "shown", "title"]

#: What is tried on the reference until one gives what was found: results first, which cost nothing.
MISTAKES: tuple[Mistake, ...] = (*WRONG_RESULTS, *WRONG_NETWORKS, weights_mistaken)

#: How much nearer than the right outcome a mistake's must be to what was found.
NEARER = 0.1

#: The rounding of lower precisions, the coarsest last: TF32 rounds as float16 does.
PRECISIONS = {
    "float32": 2.0**-24,
    "float16 (or TF32)": 2.0**-11,
    "bfloat16": 2.0**-8,
}

#: How many times larger or smaller than a precision's rounding an error may be, after the steps of a small network.
ROUNDINGS = 8


@dataclasses.dataclass(frozen=True)
class Problem:
    """What a backend was given, and what it made of it.

    Parameters
    ----------
    spec : mapping
        The cell tree, as ``CellSpec.to_dict()`` returns it; without cells that are not rnnx's own.
    weights : mapping of str to array
        The packed weights by name.
    inputs : array
        (N, T, I).
    outputs : array
        (N, T, H), as found.
    states : sequence of array
        The final states as found, flat.
    begin : sequence of array or None
        The initial states, flat; None for zeros.
    lengths : sequence of int or None
        The valid steps of each row; None for all.
    tolerance : float
        The largest difference that passes, relative to the largest number expected and at least 1.
    dtype : str
        What the backend computed in.
    kernels : sequence of str
        The kernels that ran.
    """

    spec: Spec
    weights: Weights
    inputs: Array
    outputs: Array
    states: Sequence[Array]
    begin: Sequence[Array] | None = None
    lengths: Sequence[int] | None = None
    tolerance: float = 1e-5
    dtype: str = "float32"
    kernels: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Report:
    """Lines of a name and a text, under a first line of what it is about."""

    title: str
    lines: Sequence[tuple[str, str]]

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.lines)
        return "\n".join([self.title, *(f"  {name:<{width}}  {text}" for name, text in self.lines)])


def explain(problem: Problem) -> str:
    """Return a report of the first array that differs, with a hint at the likely cause, or a line that nothing does."""
    found_shapes, shapes = [np.shape(state) for state in problem.states], _shapes_of_states(problem)
    if found_shapes != shapes:
        lines = [("array", f"final states, {problem.dtype} {found_shapes}"), ("expected", f"the shapes {shapes}")]
        return str(Report(title(problem), lines))
    setting, found = setting_of(problem), _found(problem)
    right = setting.run()
    for name, one, other, is_output in _pairs(setting, found, right):
        if one.shape == other.shape and _excess(one, other, problem.tolerance) <= 1:
            continue
        lines = [("array", f"{name}, {problem.dtype} {one.shape}")]
        if one.shape != other.shape:
            lines.append(("expected", f"the shape {other.shape}"))
        else:
            steps = _running_order(setting, other.shape) if is_output else np.zeros(other.shape)
            lines += _differences(one, other, problem.tolerance, steps, is_output)
        lines.append(("final states", _differing_states(setting, found, right, problem.tolerance)))
        lines.append(("hint", str(hint(problem))))
        return str(Report(title(problem), lines))
    return f"{title(problem)}: nothing differs by more than {problem.tolerance:g}"


def hint(problem: Problem) -> str | None:
    """Return what the cause looks to be: what gives the same numbers when the reference does it, if anything does.

    Final states have to be as many as the cell has, in their shapes. Hundreds of mistakes are tried where none fits:
    that takes a tenth of a second for one layer, and seconds for six.
    """
    setting, found = setting_of(problem), _found(problem)
    right = setting.run()
    error = _worst(found, right, problem.tolerance)
    for mistake in MISTAKES:
        for text, outcome in mistake(found, right, setting):
            if _worst(found, outcome, problem.tolerance) <= min(1, NEARER * error):
                return text
    pairs = list(_pairs(setting, found, right))
    if all(one.shape == other.shape for _, one, other, _ in pairs):
        return coarse([(one, other) for _, one, other, _ in pairs], problem.tolerance)
    return None


def setting_of(problem: Problem) -> Setting:
    """Return what a problem was run on, without fused cells."""
    spec, weights = unfused(problem.spec, {name: np.asarray(w, np.float64) for name, w in problem.weights.items()})
    begin = None if problem.begin is None else apart(problem.spec, problem.begin)
    lengths = None if problem.lengths is None else tuple(int(length) for length in problem.lengths)
    states = None if begin is None else tuple(np.asarray(state, np.float64) for state in begin if state is not None)
    return Setting(spec, weights, np.asarray(problem.inputs, np.float64), states, lengths)


def allowed(expected: Array, tolerance: float) -> float:
    """Return the largest difference that passes."""
    return tolerance * max(1.0, float(np.abs(expected).max(initial=0)))


def coarse(pairs: Sequence[tuple[Array, Array]], tolerance: float) -> str | None:
    """Return which lower precision's rounding the differences look like: of its size, and in most numbers."""
    ratio = max(_excess(one, other, 1.0) for one, other in pairs)
    outputs, expected = pairs[0]
    differs = np.abs(outputs - expected) > allowed(expected, tolerance)
    if 2 * np.count_nonzero(differs) < np.count_nonzero(expected):
        return None
    for name, rounding in PRECISIONS.items():
        if rounding / ROUNDINGS <= ratio <= ROUNDINGS * rounding:
            return f"the differences are of the size of {name}'s rounding: is something computed in a lower precision?"
    return None


def shown(array: Array, place: tuple[int, ...]) -> str:
    """Return a number as a report has it."""
    return f"{float(array[place]):.9g}"


def _shapes_of_states(problem: Problem) -> list[tuple[int, ...]]:
    """Return the shapes of the final states in the form in which the cell gives them."""
    network = reference.of_spec(problem.spec, problem.weights)
    return [state.shape for state in reference.run(network, problem.inputs, problem.begin, problem.lengths)[1]]


def _found(problem: Problem) -> Outcome:
    outputs = np.asarray(problem.outputs, np.float64)
    given = [np.asarray(state, np.float64) for state in problem.states]
    return Outcome(outputs, apart(problem.spec, given, final=True))


def _excess(found: Array, expected: Array, tolerance: float) -> float:
    """Return the largest difference by the largest that passes; infinite where anything found is not finite."""
    if not np.isfinite(found).all():
        return np.inf
    return float(np.abs(found - expected).max(initial=0)) / allowed(expected, tolerance)


def _worst(found: Outcome, expected: Outcome, tolerance: float) -> float:
    """Return the largest excess of outputs and those states that were found; infinite where shapes differ."""
    pairs = [(found.outputs, expected.outputs), *zip(found.states, expected.states, strict=True)]
    return max(
        _excess(one, other, tolerance) if one.shape == other.shape else np.inf
        for one, other in pairs
        if one is not None and other is not None
    )


def _pairs(setting: Setting, found: Outcome, right: Outcome) -> Iterator[tuple[str, Array, Array, bool]]:
    """Yield what an array is called, as found and as expected, and whether it is the outputs."""
    yield "outputs (N, T, H)", found.outputs, right.outputs, True
    for label, one, other in zip(labels_of(setting.spec), found.states, right.states, strict=True):
        if one is not None and other is not None:
            yield f"final {label} (N, H)", one, other, False


def _differing_states(setting: Setting, found: Outcome, right: Outcome, tolerance: float) -> str:
    """Return which final states differ: where a mistake is in one layer, all are right that are below it."""
    states = [(label, one, other) for label, one, other, is_output in _pairs(setting, found, right) if not is_output]
    wrong = [label for label, one, other in states if one.shape != other.shape or _excess(one, other, tolerance) > 1]
    return f"wrong: {', '.join(wrong)}" if wrong else f"{len(states)} given, none wrong"


def _running_order(setting: Setting, shape: tuple[int, ...]) -> Array:
    """Return how many steps each output comes after its direction's first; padding comes after all."""
    order: Array = np.broadcast_to(np.arange(shape[1])[None, :, None], shape).copy()
    backward = np.array(directions_of(setting.spec, setting.inputs.shape[2])) < 0
    for row, count in enumerate(valid(setting).sum((1, 2))):
        order[row, :count, backward] = np.arange(count)[::-1]
    return order


def _differences(
    found: Array, expected: Array, tolerance: float, steps: Array, is_output: bool
) -> list[tuple[str, str]]:
    """Return where two arrays first differ, what is there, and by how much they do."""
    limit = allowed(expected, tolerance)
    errors = np.where(np.isfinite(found), np.abs(found - expected), np.inf)
    wrong = errors > limit
    places = np.argwhere(wrong)
    first = tuple(min(places.tolist(), key=lambda place: (int(steps[tuple(place)]), place)))
    most = np.unravel_index(int(errors.argmax()), errors.shape)
    return [
        ("first difference", _place(first, is_output)),
        ("found", shown(found, first)),
        ("expected", shown(expected, first)),
        ("largest difference", f"{errors[most]:.3g} at {_place(most, is_output)}; {limit:.3g} passes"),
        ("differing", f"{len(places)} of {errors.size} numbers"),
    ]


def _place(place: Sequence[Any], is_output: bool) -> str:
    row, *middle, unit = (int(index) for index in place)
    return f"step t={middle[0]}, row n={row}, unit h={unit}" if is_output else f"row n={row}, unit h={unit}"


def title(problem: Problem) -> str:
    """Return which cells are meant, and the kernels that ran."""
    names = [f"{leaf['kind']} {leaf['prefix']!r}" for leaf in itertools.islice(leaves(problem.spec), 4)]
    more = ", ..." if len(list(leaves(problem.spec))) > len(names) else ""
    kernels = f" run by {', '.join(problem.kernels)}" if problem.kernels else ""
    inner = f" of {', '.join(names)}{more}" if problem.spec.get("children") else f" {problem.spec.get('prefix', '')!r}"
    return f"{problem.spec['kind']}{inner}{kernels}"

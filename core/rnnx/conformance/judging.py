"""What is found against what is expected, and what is said where they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rnnx.conformance import diagnosis
from rnnx.conformance.gradient_diagnosis import FoundGradients, explain_gradients
from rnnx.conformance.networks import Trial
from rnnx.conformance.slopes import Expected, Slope
from rnnx.conformance.subject import Subject
from rnnx.conformance.unrolled import Found, bits

__all__ = [
    "assert_close",
    "assert_exact",
    "assert_gradients",
    "assert_its_own",
    "assert_numbers",
    "assert_right",
    "assert_same",
    "assert_unchanged",
    "assert_unrelated",
    "describe",
]

Array = npt.NDArray[Any]


def assert_its_own(subject: Subject, array: Any, dtype: str, shape: Sequence[int], what: str) -> None:
    """Check that an array is the backend's, on the device, of a dtype and a shape."""
    __tracebackhide__ = True
    _raise_any(_not_its_own(subject, array, dtype, shape, what))


def assert_close(
    subject: Subject, array: Any, expected: npt.ArrayLike, dtype: str, what: str, gradients: bool = False
) -> None:
    """Check an array of the backend: whose it is, dtype, shape, and its numbers within the tolerance."""
    __tracebackhide__ = True
    _raise_any(_not_close(subject, array, np.asarray(expected, np.float64), dtype, what, gradients))


def assert_numbers(found: Array, expected: Array, tolerance: float, what: str) -> None:
    """Check numbers against others: as close as the tolerance times the largest of them, which counts as at least 1.

    What is not finite has to be the same.
    """
    __tracebackhide__ = True
    _raise_any(_not_near(found, expected, tolerance, what))


def assert_exact(subject: Subject, array: Any, expected: Array, what: str) -> None:
    """Check an array of the backend bit for bit against one of NumPy's of the same dtype."""
    __tracebackhide__ = True
    assert_its_own(subject, array, str(expected.dtype), expected.shape, what)
    found = np.asarray(subject.backend.to_numpy(array))
    if found.dtype != expected.dtype or found.shape != expected.shape:
        raise AssertionError(
            f"to_numpy makes {found.dtype} {found.shape} of {what}, expected {expected.dtype} {expected.shape}"
        )
    if found.tobytes() != expected.tobytes():
        _raise_any(_not_near(found.astype(np.float64), expected.astype(np.float64), 0.0, f"{what}, exactly,"))
        raise AssertionError(f"{what} differs in its bits: in the sign of a zero, or in what a NaN carries")


def assert_same(subject: Subject, found: Sequence[Any], expected: Sequence[Any], what: str) -> None:
    """Check two lists of the backend's arrays bit for bit against each other."""
    __tracebackhide__ = True
    assert_unchanged(bits(subject, found), bits(subject, expected), what)


def assert_unchanged(after: Sequence[Any], before: Sequence[Any], what: str) -> None:
    """Check what `bits` gave at one time against what it gave at another."""
    __tracebackhide__ = True
    if len(after) != len(before):
        raise AssertionError(f"{what}: {len(after)} arrays, expected {len(before)}")
    for place, (one, other) in enumerate(zip(after, before, strict=True)):
        if one[:2] != other[:2]:
            raise AssertionError(f"{what}: array {place} is {one[0]} {one[1]}, expected {other[0]} {other[1]}")
        if one[2] != other[2]:
            raise AssertionError(f"{what}: array {place}, {one[0]} {one[1]}, is not the same bit for bit")


def assert_right(
    subject: Subject, trial: Trial, found: Found, expected: tuple[Array, Sequence[Array]] | None = None
) -> None:
    """Check outputs and states of a trial against the reference.

    Parameters
    ----------
    subject : Subject
        Who gave them.
    trial : Trial
        What they are of.
    found : Found
        What was found.
    expected : (array, sequence of array), optional
        Outputs and states, where they are not those of the trial in inference.
    """
    __tracebackhide__ = True
    right = trial.expected() if expected is None else expected
    for complaint in _complaints(subject, trial, found, *right):
        diagnosed = _diagnosed(subject, trial, found) if expected is None else ""
        raise AssertionError(complaint + diagnosed)


def assert_unrelated(one: Array, other: Array, rates: tuple[float, float], what: str) -> None:
    """Check that two masks agree as often as chance lets them, within 6 sigma.

    Parameters
    ----------
    one, other : array of bool
        The masks, of one shape.
    rates : (float, float)
        The share of each that is False.
    what : str
        What they are of.
    """
    __tracebackhide__ = True
    first, second = rates
    chance = first * second + (1 - first) * (1 - second)
    agree = float((one == other).mean())
    if abs(agree - chance) > 6 * (chance * (1 - chance) / one.size) ** 0.5:
        raise AssertionError(f"{what} agree in {agree:.1%} of their places, where chance gives {chance:.1%}")


def describe(trial: Trial) -> str:
    """Return what a trial is, in a line."""
    batch, steps, width = trial.inputs.shape
    lengths = "" if trial.lengths is None else f", valid_length {list(trial.lengths)}"
    begin = "begin states" if trial.begin is not None else "no begin states"
    return f"{trial.tree.name} in {trial.dtype} (N={batch}, T={steps}, I={width}, {begin}{lengths})"


def assert_gradients(subject: Subject, expected: Expected, gradients: Mapping[str, Any], by: Sequence[str]) -> None:
    """Check gradients by slopes: along each direction, <gradient, direction> is what the reference says.

    Parameters
    ----------
    subject : Subject
        Who gave them.
    expected : Expected
        What they are of, and the slopes.
    gradients : mapping of str to array
        By what they are of, in the backend's arrays.
    by : sequence of str
        The kernels that ran.
    """
    __tracebackhide__ = True
    trial, about = expected.trial, f"of {describe(expected.trial)} by {', '.join(by) or 'no kernel'}"
    found = {}
    for name, array in _arguments(trial).items():
        assert_its_own(subject, gradients[name], trial.dtype, array.shape, f"the gradient of {name} {about}")
        found[name] = subject.numpy(gradients[name])
    tolerance = subject.tolerance(trial.dtype, gradients=True)
    if any(_wrong_slope(found, slope, tolerance) for slope in expected.slopes):
        told = list(filter(None, (_wrong_slope(found, slope, tolerance) for slope in expected.each())))
        told = told or [_wrong_slope(found, slope, tolerance) for slope in expected.slopes]
        diagnosed = _diagnosed_gradients(subject, expected, found)
        raise AssertionError("\n  ".join([f"gradients {about} are wrong:", *filter(None, told)]) + diagnosed)


def _raise_any(complaint: str) -> None:
    __tracebackhide__ = True
    if complaint:
        raise AssertionError(complaint)


def _arguments(trial: Trial) -> dict[str, Array]:
    """Return all that there are gradients of."""
    states = {f"state {place}": state for place, state in enumerate(trial.begin or ())}
    return {"inputs": trial.inputs, **states, **trial.weights}


def _wrong_slope(found: Mapping[str, Array], slope: Slope, tolerance: float) -> str:
    """Return what is wrong with the gradients along a direction; "" where nothing is."""
    gradients = [(found[name], direction) for name, direction in slope.direction.items()]
    value = sum(float(np.vdot(*pair)) for pair in gradients)
    limit = tolerance * max(1.0, abs(slope.value), *(float(np.abs(each).max(initial=0)) for each, _ in gradients))
    if abs(value - slope.value) <= limit:
        return ""
    zero = " (zero throughout)" if not any(each[along != 0].any() for each, along in gradients) else ""
    return f"{slope.name}: slope {value:.9g}{zero}, expected {slope.value:.9g}, within {limit:.2g}"


def _complaints(subject: Subject, trial: Trial, found: Found, outputs: Array, states: Sequence[Array]) -> Iterator[str]:
    about = f"of {describe(trial)} by {', '.join(found.kernels) or 'no kernel'}"
    if len(found.states) != len(states):
        yield f"{len(found.states)} states {about}, expected {len(states)}"
    named = [(f"outputs (row, step, unit) {about}", found.outputs, outputs)]
    named += [(f"state {place} {about}", *pair) for place, pair in enumerate(zip(found.states, states, strict=True))]
    for what, array, right in named:
        complaint = _not_close(subject, array, right, trial.dtype, what)
        if complaint:
            yield complaint
    if trial.lengths is not None:
        yield from _padding(subject, trial, found, about)


def _padding(subject: Subject, trial: Trial, found: Found, about: str) -> Iterator[str]:
    """Yield what does not hold exactly: zeros past a row's length, and states kept by a row of length 0."""
    outputs = subject.numpy(found.outputs)
    after = [subject.numpy(state) for state in found.states]
    before = [np.zeros_like(state) for state in after] if trial.begin is None else trial.begin
    for row, length in enumerate(trial.lengths or ()):
        if outputs[row, length:].any():
            yield f"outputs {about} are not exactly 0 in row {row} past its length {length}"
        for place, (one, other) in enumerate(zip(after, before, strict=True)):
            if length == 0 and not np.array_equal(one.take(row, -2), other.take(row, -2)):
                yield f"state {place} {about} is not exactly the begin state in row {row}, which has no step"


def _diagnosed(subject: Subject, trial: Trial, found: Found) -> str:
    """Return what the diagnosis says, of trees of rnnx's own cells in inference."""
    if trial.tree.network is not None:
        return ""
    outputs, *states = map(subject.numpy, found.arrays())
    problem = _problem(trial, outputs, states, subject.tolerance(trial.dtype), found.kernels)
    return f"\n{diagnosis.explain(problem)}"


def _diagnosed_gradients(subject: Subject, expected: Expected, found: Mapping[str, Array]) -> str:
    """Return what the diagnosis says of gradients."""
    trial = expected.trial
    if trial.tree.network is not None:
        return ""
    outputs, states = trial.expected()
    problem = _problem(trial, outputs, states, subject.tolerance(trial.dtype, gradients=True), ())
    gradients = FoundGradients(
        np.zeros_like(outputs) if expected.outputs is None else expected.outputs,
        expected.states or (),
        {name: found[name] for name in trial.weights},
        found["inputs"],
        [found[f"state {place}"] for place in range(len(trial.begin or ()))],
    )
    return f"\n{explain_gradients(problem, gradients)}"


def _problem(
    trial: Trial, outputs: Array, states: Sequence[Array], tolerance: float, kernels: Sequence[str]
) -> diagnosis.Problem:
    spec = trial.tree.build().spec.to_dict()
    run_on = (trial.weights, trial.inputs, outputs, states, trial.begin, trial.lengths)
    return diagnosis.Problem(spec, *run_on, tolerance, trial.dtype, kernels)


def _not_its_own(subject: Subject, array: Any, dtype: str, shape: Sequence[int], what: str) -> str:
    """Return what is wrong with the array's owner, dtype, shape or device; "" where nothing is."""
    backend = subject.backend
    if not backend.owns(array):
        return f"{what} is a {type(array).__module__}.{type(array).__name__}, which {subject.name} does not own"
    found = backend.dtype(array), tuple(backend.shape(array)), backend.device(array) or subject.device
    for name, one, other in zip(
        ("dtype", "shape", "device"), found, (dtype, tuple(shape), subject.device), strict=True
    ):
        if one != other:
            return f"{what} has {name} {one}, expected {other}"
    return ""


def _not_close(subject: Subject, array: Any, expected: Array, dtype: str, what: str, gradients: bool = False) -> str:
    complaint = _not_its_own(subject, array, dtype, expected.shape, what)
    return complaint or _not_near(subject.numpy(array), expected, subject.tolerance(dtype, gradients), what)


def _not_near(found: Array, expected: Array, tolerance: float, what: str) -> str:
    """Return where numbers are further apart than the tolerance lets them; "" where none are."""
    if found.shape != expected.shape:
        return f"{what} has shape {found.shape}, expected {expected.shape}"
    difference, limit = _difference(found, expected), tolerance * _scale(expected)
    wrong = np.argwhere(difference > limit)
    if not len(wrong):
        return ""
    first = tuple(int(index) for index in wrong[0])
    return (
        f"{what}: {len(wrong)} of {difference.size} numbers are wrong, by {difference.max():.3g} at most, where "
        f"{limit:.2g} passes; the first is at {first}: {found[first]:.9g}, expected {expected[first]:.9g}"
    )


def _difference(found: Array, expected: Array) -> Array:
    """Return absolute differences, 0 where both are the same even if not finite, and inf where only one is."""
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    usable = np.isfinite(found) & np.isfinite(expected)
    apart = np.subtract(found, expected, out=np.full(found.shape, np.inf), where=usable)
    return np.where(same, 0.0, np.abs(apart))


def _scale(expected: Array) -> float:
    """Return the largest finite number, or 1 if that is more."""
    return float(np.abs(expected[np.isfinite(expected)]).max(initial=1.0))

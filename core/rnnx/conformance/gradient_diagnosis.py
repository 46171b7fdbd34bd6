"""What is wrong with gradients: which weight's and which gate's differ, and what the cause looks to be."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from rnnx.conformance import reference
from rnnx.conformance.diagnosis import Problem, Report, allowed, setting_of, shown, title
from rnnx.conformance.equations import Array, Weights
from rnnx.conformance.reference import Direction, Network, Point
from rnnx.conformance.unfusing import Setting, apart, labels_of, leaves, unfused
from rnnx.conformance.wrong_weights import GATE_NAMES, regated, transposed

__all__ = ["FoundGradients", "explain_gradients"]

#: By how many random directions an array is judged before it is computed element by element, which is slow.
DIRECTIONS = 2


@dataclasses.dataclass(frozen=True)
class FoundGradients:
    """Gradients of <of_outputs, outputs> + <of_states, final states>, as a backend computed them.

    Parameters
    ----------
    of_outputs : array
        (N, T, H).
    of_states : sequence of array
        In the form of the final states, flat; empty for zeros.
    weights : mapping of str to array
        By packed name.
    inputs : array
        (N, T, I).
    begin : sequence of array
        In the form of the initial states, flat; empty where none were given.
    """

    of_outputs: Array
    of_states: Sequence[Array]
    weights: Mapping[str, Array]
    inputs: Array
    begin: Sequence[Array] = ()


@dataclasses.dataclass(frozen=True)
class _Judge:
    """The reference's gradients at a setting."""

    setting: Setting
    of_outputs: Array
    of_states: tuple[Array, ...]

    @property
    def point(self) -> Point:
        setting = self.setting
        return Point(setting.weights, setting.inputs, setting.begin, setting.lengths)

    def network_of(self, weights: Weights) -> Network:
        return reference.of_spec(self.setting.spec, weights)

    def along(self, direction: Direction) -> float:
        """Return what the gradients give along a direction."""
        return reference.pairing(self.network_of, self.point, direction, self.of_outputs, self.of_states)

    def gradient(self, part: _Part) -> Array:
        """Return an array's gradient, element by element."""
        size = int(np.prod(part.shape))
        units = np.eye(size).reshape(size, *part.shape)
        return np.array([self.along(part.direction(unit)) for unit in units]).reshape(part.shape)

    def without(self, outputs: bool) -> _Judge:
        """Return the judge of gradients to which outputs, or final states, add nothing."""
        if outputs:
            return dataclasses.replace(self, of_outputs=np.zeros_like(self.of_outputs))
        return dataclasses.replace(self, of_states=tuple(np.zeros_like(state) for state in self.of_states))


@dataclasses.dataclass(frozen=True)
class _Part:
    """The gradient found of one array, the array's shape, its gates by name, and how to go along it."""

    name: str
    found: Array
    shape: tuple[int, ...]
    direction: Callable[[Array], Direction]
    gates: tuple[str, ...] = ("",)


def explain_gradients(problem: Problem, gradients: FoundGradients) -> str:
    """Return a report of the first gradient that differs, with a hint, and the names of all that do.

    Outputs and states of `problem` are not looked at; its tolerance is that of gradients.
    """
    setting = setting_of(problem)
    judge = _Judge(setting, np.asarray(gradients.of_outputs, np.float64), _cotangents(problem, setting, gradients))
    parts = [part for part in _parts(problem, setting, gradients) if _differs(part, judge, problem.tolerance)]
    if not parts:
        return f"{title(problem)}: no gradient differs by more than {problem.tolerance:g}"
    lines = [
        ("gradient", f"of {parts[0].name}, {problem.dtype} {parts[0].found.shape}"),
        *_details(parts[0], judge, problem.tolerance),
        ("differing", ", ".join(part.name for part in parts)),
    ]
    return str(Report(title(problem), lines))


def _cotangents(problem: Problem, setting: Setting, gradients: FoundGradients) -> tuple[Array, ...]:
    """Return those of every layer's final states, zeros where none are given."""
    right = setting.run().states
    if not gradients.of_states:
        return tuple(np.zeros_like(state) for state in right if state is not None)
    given = apart(problem.spec, [np.asarray(state, np.float64) for state in gradients.of_states], final=True)
    return tuple(
        np.zeros_like(state) if one is None else one
        for one, state in zip(given, right, strict=True)
        if state is not None
    )


def _parts(problem: Problem, setting: Setting, gradients: FoundGradients) -> Iterator[_Part]:
    """Yield the gradients of every weight, of the inputs and of every initial state, fused cells cut up by layer."""
    _, weights = unfused(problem.spec, {name: np.asarray(g, np.float64) for name, g in gradients.weights.items()})
    gates = {
        full: GATE_NAMES.get(reference.mode_of(leaf), ("",)) if own != "h2r_weight" else ("",)
        for leaf in leaves(setting.spec)
        for own, full in reference.names_of(leaf).items()
    }
    for name, found in weights.items():
        yield _Part(name, found, setting.weights[name].shape, _of_weight(name), gates[name])
    of_inputs = np.asarray(gradients.inputs, np.float64)
    yield _Part("the inputs", of_inputs, setting.inputs.shape, lambda unit: Direction(inputs=unit))
    begin = apart(problem.spec, [np.asarray(state, np.float64) for state in gradients.begin]) if gradients.begin else ()
    for place, (label, state) in enumerate(zip(labels_of(setting.spec), begin, strict=False)):
        if state is not None:
            yield _Part(f"initial {label}", state, setting.starting()[place].shape, _of_state(place))


def _of_weight(name: str) -> Callable[[Array], Direction]:
    return lambda unit: Direction({name: unit})


def _of_state(place: int) -> Callable[[Array], Direction]:
    return lambda unit: Direction(begin={place: unit})


def _differs(part: _Part, judge: _Judge, tolerance: float) -> bool:
    """Say whether a gradient is wrong: by what it gives along random directions, of each gate alone."""
    if part.found.shape != part.shape or not np.isfinite(part.found).all():
        return True
    rng = np.random.default_rng(0)
    for gate, _ in itertools.product(range(len(part.gates)), range(DIRECTIONS)):
        unit = np.zeros_like(part.found)
        block = np.split(unit, len(part.gates))[gate]
        block[...] = rng.choice([-1.0, 1.0], block.shape)
        expected = judge.along(part.direction(unit))
        if abs(float(np.vdot(part.found, unit)) - expected) > allowed(part.found, tolerance):
            return True
    return False


def _details(part: _Part, judge: _Judge, tolerance: float) -> Iterator[tuple[str, str]]:
    """Yield which gate's gradient differs, where, and the hint."""
    if part.found.shape != part.shape:
        yield "expected", f"the shape {part.shape}"
        return
    expected = judge.gradient(part)
    limit = allowed(expected, tolerance)
    errors = np.where(np.isfinite(part.found), np.abs(part.found - expected), np.inf)
    pairs = zip(part.gates, np.split(errors, len(part.gates)) if len(part.gates) > 1 else [errors], strict=True)
    wrong = [gate for gate, block in pairs if block.max(initial=0) > limit]
    if len(part.gates) > 1:
        yield "gates", ", ".join(wrong) or "none by itself"
    most = tuple(int(index) for index in np.unravel_index(int(errors.argmax()), errors.shape))
    yield "largest difference", f"{errors[most]:.3g} at {list(most)}; {limit:.3g} passes"
    yield "found", shown(part.found, most)
    yield "expected", shown(expected, most)
    yield "hint", str(_hint(part, expected, judge, limit))


def _hint(part: _Part, expected: Array, judge: _Judge, limit: float) -> str | None:
    """Return what makes the gradient found of the right one."""
    for text, wrong in itertools.chain(_changed(part, expected, judge), _of_another_call(part, judge)):
        if wrong.shape == part.found.shape and np.abs(wrong - part.found).max(initial=0) <= limit:
            return text
    return None


def _changed(part: _Part, expected: Array, judge: _Judge) -> Iterator[tuple[str, Array]]:
    """Yield wrong gradients that are made of the right one alone."""
    batch, steps, _ = judge.setting.inputs.shape
    factors = {"missing: zeros": 0.0, "doubled": 2.0, "halved": 0.5, "negated": -1.0}
    factors |= {"averaged over rows": 1 / batch, "averaged over steps": 1 / steps, "summed over rows": float(batch)}
    for text, factor in factors.items():
        yield f"it looks {text}", factor * expected
    count = len(part.gates)
    for text, factor in factors.items() if count > 1 else ():
        for gate, name in enumerate(part.gates):
            wrong = np.array(expected)
            np.split(wrong, count)[gate][...] *= factor
            yield f"that of gate {name} looks {text}", wrong
    if part.name.endswith("_weight"):
        yield "its gate matrices look transposed", transposed(expected, count)
        yield "it looks written column by column", expected.T.reshape(expected.shape)
    for order in itertools.permutations(range(count)) if count > 1 else ():
        text = f"its gates look to be in the order {', '.join(part.gates[place] for place in order)}"
        yield text, regated(expected, order)
    if part.name == "the inputs":
        yield "it looks reversed in time", expected[:, ::-1]


def _of_another_call(part: _Part, judge: _Judge) -> Iterator[tuple[str, Array]]:
    """Yield gradients of something else: the other bias, or of outputs or final states alone."""
    sides = {"i2h": "h2h", "h2h": "i2h"}
    for one, other in sides.items() if part.name.endswith("_bias") else ():
        if part.name.endswith(f"{one}_bias"):
            name = part.name.removesuffix(f"{one}_bias") + f"{other}_bias"
            moved = dataclasses.replace(part, direction=_of_weight(name))
            yield f"it looks to be that of {name}", judge.gradient(moved)
    yield "the final states look to add nothing to it", judge.without(outputs=False).gradient(part)
    yield "the outputs look to add nothing to it", judge.without(outputs=True).gradient(part)

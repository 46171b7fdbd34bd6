"""Slopes of the reference along each gate, the inputs and each initial state: what gradients must give."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from rnnx.conformance import networks, reference
from rnnx.conformance.networks import Array, Tree, Trial

__all__ = ["Expected", "Slope", "expected", "gates_of", "singles", "slopes_along", "wholes"]

#: What a direction is called, and the direction, by what there are gradients of.
Part = tuple[str, Mapping[str, Array]]

States = Sequence[Array]


@dataclasses.dataclass(frozen=True)
class Slope:
    """A slope along a direction.

    Parameters
    ----------
    name : str
        What it is called.
    direction : mapping of str to array
        For some of what there are gradients of, by their names: ``inputs``, ``state 0``, or a weight's.
    value : float
        The slope.
    """

    name: str
    direction: Mapping[str, Array]
    value: float


@dataclasses.dataclass(frozen=True)
class Expected:
    """A trial, the cotangents of its outputs and final states (None for zeros), and the slopes that they give."""

    trial: Trial
    outputs: Array | None
    states: States | None
    slopes: tuple[Slope, ...]

    def each(self) -> Iterator[Slope]:
        """Yield the slopes along every gate, row and state alone: many, and slow."""
        return slopes_along(self.trial, singles(self.trial), self.outputs, self.states)


def wholes(trial: Trial) -> Iterator[Part]:
    """Yield three random directions: of all weights at once, of the inputs, of the initial states.

    No gradient can be wrong anywhere and still give the right slope along its own, but by chance.
    """
    rng = np.random.default_rng(7)
    yield "all weights", {name: rng.normal(size=array.shape) for name, array in trial.weights.items()}
    yield "the inputs", {"inputs": rng.normal(size=trial.inputs.shape)}
    if trial.begin is not None:
        yield "all begin states", {f"state {n}": rng.normal(size=state.shape) for n, state in enumerate(trial.begin)}


def singles(trial: Trial) -> Iterator[Part]:
    """Yield a random direction of every gate of every weight, of every row of the inputs, of every initial state."""
    rng = np.random.default_rng(8)
    for name, gates in gates_of(trial).items():
        for gate, places in gates.items():
            direction = np.zeros(trial.weights[name].size)
            direction[places] = rng.normal(size=places.size)
            yield gate, {name: direction.reshape(trial.weights[name].shape)}
    for row in range(len(trial.inputs)):
        direction = np.zeros_like(trial.inputs)
        direction[row] = rng.normal(size=direction[row].shape)
        yield f"row {row} of the inputs", {"inputs": direction}
    for place, state in enumerate(trial.begin or ()):
        yield f"begin state {place}", {f"state {place}": rng.normal(size=state.shape)}


def gates_of(trial: Trial) -> dict[str, dict[str, Array]]:
    """Return where in each weight, as one vector, each of its gates stands: by taking numbered places apart."""
    starts = np.cumsum([0, *(array.size for array in trial.weights.values())])
    numbered = {
        name: np.arange(start, start + array.size, dtype=np.float64).reshape(array.shape)
        for start, (name, array) in zip(starts, trial.weights.items(), strict=False)
    }
    found: dict[str, dict[str, Array]] = {name: {} for name in trial.weights}
    for gate, numbers in trial.cell().unpack_weights(numbered).items():
        places = numbers.ravel().astype(int)
        owner = int(np.searchsorted(starts, places[0], "right")) - 1
        found[list(trial.weights)[owner]][gate] = places - starts[owner]
    return found


def slopes_along(trial: Trial, parts: Iterable[Part], outputs: Array | None, states: States | None) -> Iterator[Slope]:
    """Yield the slopes of <outputs, y> + <states, s> along directions; None stands for zeros."""
    cotangent = np.zeros_like(trial.expected()[0]) if outputs is None else outputs
    for name, direction in parts:
        slope = reference.pairing(trial.network_of, trial.point, _direction(direction), cotangent, states)
        yield Slope(name, direction, slope)


def _direction(direction: Mapping[str, Array]) -> reference.Direction:
    begin = {int(of.removeprefix("state ")): array for of, array in direction.items() if of.startswith("state ")}
    weights = {of: array for of, array in direction.items() if of != "inputs" and not of.startswith("state ")}
    return reference.Direction(weights, direction.get("inputs"), begin)


@functools.cache
def expected(
    tree: Tree,
    dtype: str,
    lengths: tuple[int, ...] | None,
    of: str = "all",
    batch: int = networks.BATCH,
    steps: int = networks.STEPS,
    scale: float = 0.8,
) -> Expected:
    """Return a trial with cotangents of some of its results and the slopes they give; made once for all checks.

    Parameters
    ----------
    tree, dtype, lengths, batch, steps, scale
        As of `rnnx.conformance.networks.trial`.
    of : {"all", "outputs", "states", "last"}
        Which results have a cotangent: all, the outputs, the states, or the last state.
    """
    trial = networks.trial(tree, dtype, batch=batch, steps=steps, lengths=lengths, scale=scale)
    rng = np.random.default_rng(9)
    given = [
        networks.rounded(rng.normal(size=array.shape), dtype) for array in (trial.expected()[0], *trial.expected()[1])
    ]
    outputs, states = given[0] if of in ("all", "outputs") else None, given[1:] if of != "outputs" else None
    if of == "last":
        states = [*(0 * state for state in given[1:-1]), given[-1]]
    return Expected(trial, outputs, states, tuple(slopes_along(trial, wholes(trial), outputs, states)))

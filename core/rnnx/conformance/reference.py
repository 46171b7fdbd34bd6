r"""Recurrent networks written out in float64, with exact derivatives: what a backend's results are judged by.

Nothing here is shared with the rest of rnnx, so that no error is on both sides. A network is a function of inputs
(N, T, C), an iterator over its initial states (None for zeros) and the length of every row; it returns outputs
(N, T, H) and a flat list of final states. It goes through time one step after the other, one gate after the other,
and takes each step with those rows alone that are still running.

Everything also holds for complex numbers, which gives derivatives without differences (Squire and Trapp, 1998, "Using
complex variables to estimate derivatives of real functions", SIAM Review 40):

.. math:: J(x) v = \mathrm{Im} f(x + i h v) / h, \qquad h = 10^{-30}

Nothing is subtracted, so they are exact to rounding. For this every function is written to be analytic on both
sides of zero: it asks for the sign of the real part, and never for an absolute value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rnnx.conformance.descriptions import Spec, cut_flat, cut_of, mode_of, names_of
from rnnx.conformance.equations import EQUATIONS, GATES, WITH_C, Array, Equation, States, Weights, share

__all__ = [
    "MODES",
    "PARTS",
    "Direction",
    "Network",
    "Point",
    "Spec",
    "bidirectional",
    "cell",
    "cut_flat",
    "cut_of",
    "fused",
    "gradients",
    "identity",
    "mode_of",
    "names_of",
    "of_spec",
    "pairing",
    "residual",
    "run",
    "sequential",
    "slope",
    "stack",
    "turned",
    "within",
]

Network = Callable[[Array, "Iterator[Array] | None", Sequence[int]], "tuple[Array, States]"]

#: Every mode that `cell` knows.
MODES = tuple(EQUATIONS)

#: h of the complex step: so small that its square is lost in rounding, so large that products of it do not underflow.
STEP = 1e-30


def exact(array: Any) -> Array:
    """Return the array in float64, or in complex128 if it is complex."""
    given = np.asarray(array)
    return np.asarray(given, np.complex128 if np.iscomplexobj(given) else np.float64)


# -- cells ------------------------------------------------------------------------------------------------------------


def cell(mode: str, weights: Weights, equation: Equation | None = None) -> Network:
    """Return one layer in one direction.

    Parameters
    ----------
    mode : str
        One of `MODES`.
    weights : mapping of str to array
        ``i2h_weight (G H, I)``, ``h2h_weight (G H, H)``, ``i2h_bias (G H,)``, ``h2h_bias (G H,)``; for lstmp also
        ``h2r_weight (P, H)`` (h2h_weight is then (G H, P)), for peephole ``peephole_weight (3, H)``.
    equation : callable, optional
        Another equation than the mode's: one with a mistake, to see what comes of it.
    """
    weights = {name: exact(weight) for name, weight in weights.items()}
    advance, hidden = equation or EQUATIONS[mode], len(weights["h2h_bias"]) // GATES[mode]
    sizes = [weights["h2h_weight"].shape[1], hidden] if mode in WITH_C else [hidden]

    def step(x: Array, states: States) -> States:
        def from_inputs(gate: int) -> Array:
            return share(weights, "i2h", gate, hidden, x)

        def from_hidden(gate: int, h: Array = states[0]) -> Array:
            return share(weights, "h2h", gate, hidden, h)

        return advance(from_inputs, from_hidden, states, weights)

    def network(inputs: Array, begin: Iterator[Array] | None, lengths: Sequence[int]) -> tuple[Array, States]:
        batch, length, _ = inputs.shape
        before = [np.zeros((batch, size)) if begin is None else exact(next(begin)) for size in sizes]
        dtype = np.result_type(inputs, *before, *weights.values())
        outputs, after = np.zeros((batch, length, sizes[0]), dtype), [np.array(state, dtype) for state in before]
        for time in range(length):
            running = np.flatnonzero(np.asarray(lengths) > time)
            new = step(inputs[running, time], [state[running] for state in after])
            outputs[running, time] = new[0]
            for kept, state in zip(after, new, strict=True):
                kept[running] = state
        return outputs, after

    return network


# -- networks of networks ---------------------------------------------------------------------------------------------


def within(rows: Array, lengths: Sequence[int]) -> Array:
    """Return the rows with zeros past their lengths, whatever was there."""
    result = np.zeros_like(rows)
    for row, length in enumerate(lengths):
        result[row, :length] = rows[row, :length]
    return result


def turned(rows: Array, lengths: Sequence[int]) -> Array:
    """Return each row reversed in time within its own length, and zeros past it."""
    result = np.zeros_like(rows)
    for row, length in enumerate(lengths):
        result[row, :length] = rows[row, :length][::-1]
    return result


def identity(inputs: Array, begin: Iterator[Array] | None, lengths: Sequence[int]) -> tuple[Array, States]:
    """Return the inputs: dropout outside training."""
    return within(inputs, lengths), []


def sequential(*parts: Network) -> Network:
    """Return networks one on the other."""

    def network(inputs: Array, begin: Iterator[Array] | None, lengths: Sequence[int]) -> tuple[Array, States]:
        finals: States = []
        for part in (identity, *parts):
            inputs, states = part(inputs, begin, lengths)
            finals += states
        return inputs, finals

    return network


def bidirectional(forward: Network, backward: Network) -> Network:
    """Return two networks side by side, the second reading each row from its end."""

    def network(inputs: Array, begin: Iterator[Array] | None, lengths: Sequence[int]) -> tuple[Array, States]:
        ahead, ahead_states = forward(inputs, begin, lengths)
        back, back_states = backward(turned(inputs, lengths), begin, lengths)
        return np.concatenate([ahead, turned(back, lengths)], 2), ahead_states + back_states

    return network


def residual(inner: Network) -> Network:
    """Return a network with its inputs added to its outputs."""

    def network(inputs: Array, begin: Iterator[Array] | None, lengths: Sequence[int]) -> tuple[Array, States]:
        outputs, states = inner(inputs, begin, lengths)
        return outputs + within(inputs, lengths), states

    return network


#: What networks are put together from, by the kind of a description; ``"cell"`` makes one layer in one direction.
PARTS: Mapping[str, Callable[..., Network]] = {
    "cell": cell,
    "SequentialRNNCell": sequential,
    "BidirectionalCell": bidirectional,
    "ResidualCell": residual,
    "ZoneoutCell": lambda inner: inner,
    "DropoutCell": lambda: identity,
}


def stack(
    mode: str, layers: Sequence[Sequence[Weights]], parts: Mapping[str, Callable[..., Network]] = PARTS
) -> Network:
    """Return layers of one mode, each in one direction or two."""
    made = []
    for layer in layers:
        directions = [parts["cell"](mode, weights) for weights in layer]
        made.append(directions[0] if len(directions) == 1 else parts["BidirectionalCell"](*directions))
    return parts["SequentialRNNCell"](*made)


def fused(inner: Network, num_states: int, returns_states: bool = True) -> Network:
    """Return a `stack` whose states are those of all layers together, (L * D, N, H), h before c."""

    def network(inputs: Array, begin: Iterator[Array] | None, lengths: Sequence[int]) -> tuple[Array, States]:
        mine = None
        if begin is not None:
            given = [next(begin) for _ in range(num_states)]
            mine = iter([state for layer in zip(*given, strict=True) for state in layer])
        outputs, finals = inner(inputs, mine, lengths)
        return outputs, [np.stack(finals[place::num_states]) for place in range(num_states if returns_states else 0)]

    return network


# -- of a description -------------------------------------------------------------------------------------------------


def of_spec(spec: Spec, weights: Weights, parts: Mapping[str, Callable[..., Network]] = PARTS) -> Network:
    """Return the network that a cell's description stands for, outside training.

    Its states are those of the cell, initial and final, flat and in order: a fused cell's are (L * D, N, H), and it has
    no final ones unless ``get_next_state``. Dropout and zoneout do nothing: a mask of MXNet's is all ones in inference.

    Parameters
    ----------
    spec : mapping
        What ``CellSpec.to_dict()`` returns.
    weights : mapping of str to array
        The packed weights of the whole tree by their full names, as ``get_params()`` returns them.
    parts : mapping of str to callable
        `PARTS`, or others in their place: some with a mistake, to see what comes of it.

    Raises
    ------
    ValueError
        For a kind of cell that is not rnnx's own.
    """
    if spec["kind"] in parts:
        return parts[spec["kind"]](*(of_spec(child, weights, parts) for child in spec.get("children", ())))
    mode = mode_of(spec)
    own = {name: weights[full] for name, full in names_of(spec).items()}
    if spec["kind"] != "FusedRNNCell":
        return parts["cell"](mode, own)
    layers = cut_of(spec, own["parameters"])
    return fused(stack(mode, layers, parts), 1 + (mode in WITH_C), spec["get_next_state"])


# -- running and differentiating --------------------------------------------------------------------------------------


def run(
    network: Network, inputs: Array, begin: Sequence[Array] | None = None, lengths: Sequence[int] | None = None
) -> tuple[Array, States]:
    """Run a network over inputs (N, T, C), from given states or zeros, each row over its length or all steps."""
    counts = [inputs.shape[1]] * inputs.shape[0] if lengths is None else [int(length) for length in lengths]
    return network(exact(inputs), None if begin is None else iter(begin), counts)


@dataclasses.dataclass(frozen=True)
class Point:
    """What a network is run on: where its slope is taken. `begin` is flat, `lengths` None for all steps."""

    weights: Weights
    inputs: Array
    begin: Sequence[Array] | None = None
    lengths: Sequence[int] | None = None


@dataclasses.dataclass(frozen=True)
class Direction:
    """Where to, for some of what a `Point` holds; begin states by their place. What is not named stays as it is."""

    weights: Weights = dataclasses.field(default_factory=dict)
    inputs: Array | None = None
    begin: Mapping[int, Array] = dataclasses.field(default_factory=dict)


def slope(network_of: Callable[[Weights], Network], point: Point, direction: Direction) -> tuple[Array, States]:
    """Return the derivatives of outputs and final states along a direction, J v, exact to rounding.

    Parameters
    ----------
    network_of : callable
        Makes the network of weights, such as ``lambda weights: of_spec(spec, weights)``.
    point : Point
        Where.
    direction : Direction
        v: for one gate alone, zeros but for its rows; for one begin state, that one.
    """
    weights = {name: _moved(array, direction.weights.get(name)) for name, array in point.weights.items()}
    begin = point.begin
    if begin is not None:
        begin = [_moved(state, direction.begin.get(place)) for place, state in enumerate(begin)]
    outputs, states = run(network_of(weights), _moved(point.inputs, direction.inputs), begin, point.lengths)
    return outputs.imag / STEP, [state.imag / STEP for state in states]


def pairing(
    network_of: Callable[[Weights], Network],
    point: Point,
    direction: Direction,
    outputs: Array,
    states: Sequence[Array] | None = None,
) -> float:
    """Return the derivative of <outputs, y> + <states, s> along a direction, y and s being what the network returns.

    Parameters
    ----------
    network_of, point, direction
        As of `slope`.
    outputs : array
        The cotangent of the outputs, (N, T, H).
    states : sequence of array, optional
        Those of the final states; zeros otherwise.
    """
    moved, finals = slope(network_of, point, direction)
    pairs = zip([moved, *finals] if states else [moved], [outputs, *(states or ())], strict=True)
    return float(sum(np.vdot(cotangent, each) for each, cotangent in pairs))


def gradients(
    network_of: Callable[[Weights], Network],
    point: Point,
    outputs: Array,
    states: Sequence[Array] | None = None,
    names: Collection[str] | None = None,
) -> Direction:
    """Return the gradients of <outputs, y> + <states, s> with respect to all that a point holds, element by element.

    Parameters
    ----------
    network_of, point, outputs, states
        As of `pairing`, which is asked once for every element.
    names : collection of str, optional
        Those weights alone, and neither inputs nor begin states.
    """

    def of(array: Array, direction_of: Callable[[Array], Direction]) -> Array:
        units = np.eye(array.size).reshape(array.size, *array.shape)
        found = [pairing(network_of, point, direction_of(unit), outputs, states) for unit in units]
        return np.array(found).reshape(array.shape)

    chosen = point.weights.keys() if names is None else names
    weights = {name: of(point.weights[name], _of_weight(name)) for name in chosen}
    if names is not None:
        return Direction(weights)
    begin = {place: of(state, _of_state(place)) for place, state in enumerate(point.begin or ())}
    return Direction(weights, of(point.inputs, lambda unit: Direction(inputs=unit)), begin)


def _of_weight(name: str) -> Callable[[Array], Direction]:
    return lambda unit: Direction({name: unit})


def _of_state(place: int) -> Callable[[Array], Direction]:
    return lambda unit: Direction(begin={place: unit})


def _moved(array: Array, direction: Array | None) -> Array:
    return exact(array) if direction is None else exact(array) + 1j * STEP * np.asarray(direction)

"""Central differences of what a cell computes, to judge its gradients by."""

from __future__ import annotations

import numpy as np
import pytest

import networks
import rnnx

BATCH, STEPS, WIDTH = 4, 5, 3


class Problem:
    """A scalar of a cell's results, as a function of the inputs, the begin states and every weight.

    Parameters
    ----------
    cell : BaseRNNCell
        Gets random weights; reads inputs 3 wide.
    **call
        Arguments of `unroll`.
    """

    def __init__(self, cell: rnnx.BaseRNNCell, **call) -> None:
        self.cell = networks.randomized(cell, WIDTH, scale=0.7)
        self.call = call
        rng = self.rng = np.random.default_rng(11)
        begin = [rng.uniform(-1, 1, [size or BATCH for size in shape]) for shape in cell.state_shape]
        self.point = {
            "inputs": rng.normal(size=(BATCH, STEPS, WIDTH)),
            **{f"state {index}": state for index, state in enumerate(begin)},
            **cell.get_params(),
        }
        outputs, states, self.pullback = cell.vjp(*self.arguments(self.point), **call)
        self.of_outputs = networks.like(outputs, rng)
        self.of_states = networks.like(states, rng)

    def arguments(self, point):
        """The positional arguments of `unroll` at a point."""
        return None, point["inputs"], [array for name, array in point.items() if name.startswith("state ")]

    def value(self, point) -> float:
        """The scalar at a point."""
        self.cell.load_params({name: point[name] for name in self.cell.get_params()})
        found = networks.leaves(list(self.cell.unroll(*self.arguments(point), **self.call)))
        factors = networks.leaves([self.of_outputs, self.of_states])
        return sum(float(np.vdot(array, factor)) for array, factor in zip(found, factors, strict=True))

    def gradients(self) -> dict[str, np.ndarray]:
        """The scalar's gradients, as the pullback gives them, by the names of the point."""
        found = self.pullback(self.of_outputs, self.of_states)
        states = {f"state {index}": state for index, state in enumerate(found.begin_state)}
        return {"inputs": found.inputs, **states, **found.weights}

    def slope(self, directions: dict[str, np.ndarray], width: float = 1e-5) -> float:
        """The central difference of fourth order along directions of some of the arrays, all at once."""

        def at(step: float) -> float:
            return self.value(self.point | {n: self.point[n] + step * d for n, d in directions.items()})

        return (8 * (at(width) - at(-width)) - (at(2 * width) - at(-2 * width))) / (12 * width)

    def assert_slope(self, gradients: dict[str, np.ndarray], directions: dict[str, np.ndarray]) -> None:
        """The gradients give the slope along the directions."""
        found = sum(float(np.vdot(gradients[name], direction)) for name, direction in directions.items())
        assert found == pytest.approx(self.slope(directions), rel=1e-7, abs=1e-8), list(directions)

    def assert_gradients(self) -> dict[str, np.ndarray]:
        """Every gradient is there, in its array's shape, and all of them together give the slope."""
        gradients = self.gradients()
        assert gradients.keys() == self.point.keys()
        assert all(gradients[name].shape == array.shape for name, array in self.point.items())
        self.assert_slope(gradients, {name: self.rng.normal(size=array.shape) for name, array in self.point.items()})
        return gradients

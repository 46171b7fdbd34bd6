"""The backend that nothing is wrong with: NumPy's operations over arrays of its own, and a kernel written out."""

from __future__ import annotations

import numpy as np

from rnnx.backend import Kernel as Planned
from rnnx_numpy.backend import NumpyBackend
from teeth.kernel import Kernel

__all__ = ["Held", "RightBackend", "held"]


class Held(np.ndarray):
    """An array that no other backend claims."""


def held(array):
    return np.asarray(array).view(Held)


class RightBackend(NumpyBackend):
    """Each fault is a subclass that changes one thing, or has another `kernel`."""

    name = "right"
    kernel = Kernel

    def owns(self, array):
        return isinstance(array, Held)

    def from_numpy(self, array, device=None):
        return held(super().from_numpy(array, device))

    def to_numpy(self, array):
        return np.asarray(array)

    def where(self, condition, one, other):
        return held(super().where(condition, one, other))

    def stack(self, arrays):
        return held(super().stack(arrays))

    def concat(self, arrays, axis=-1):
        return held(super().concat(arrays, axis))

    def reverse(self, array, valid_length):
        return held(super().reverse(array, valid_length))

    def zeros(self, shape, like):
        return held(super().zeros(shape, like))

    def bernoulli(self, seed, probability, shape, like):
        return held(super().bernoulli(seed, probability, shape, like))

    def steps_before(self, valid_length, length):
        return held(super().steps_before(valid_length, length))

    def differentiate(self, function, arguments):
        results, pullback = super().differentiate(function, arguments)
        return list(map(held, results)), lambda cotangents: list(map(held, pullback(cotangents)))

    def plan(self, recurrence, call):
        found = super().plan(recurrence, call)
        return Planned(f"{self.name}.{recurrence.mode}", recurrence) if isinstance(found, Planned) else found

    def run_recorded(self, kernel, weights, inputs, states, valid_length, seeds, record=True):
        lengths = None if valid_length is None else np.asarray(valid_length)
        made = self.kernel(self, kernel.recurrence, seeds)
        plain = np.asarray(inputs)
        outputs, final = made.run(weights, plain, states, lengths)
        pull = None
        if record:
            _, _, pull = super().run_recorded(kernel, weights, inputs, states, valid_length, seeds, record)
        results = [held(np.asarray(each, plain.dtype)) for each in (outputs, *final)]
        return results[0], results[1:], self.pulling(kernel.recurrence, pull)

    def pulling(self, recurrence, pull):
        """The vector-Jacobian product of the kernel: gradients of inputs, of states, of every layer's four weights."""
        return pull

"""A backend of someone else's: arrays that are not NumPy's, the abstract methods, and nothing more."""

from __future__ import annotations

import dataclasses

import numpy as np

from rnnx.backend import API_VERSION, Backend, BackendInfo, Kernel, KernelWeights, Unsupported
from rnnx_numpy.backend import NumpyBackend

INFO = BackendInfo(
    name="tier1",
    api_version=API_VERSION,
    framework="numpy",
    array_types=("tier1.Wrapped",),
    target="tier1:Tier1Backend",
    install_hint="it is part of the tests",
)

_numpy = NumpyBackend()


class Wrapped:
    """An array that has a shape, a dtype, arithmetic and indexing, and that NumPy takes for no array."""

    __array_ufunc__ = None

    def __init__(self, value):
        assert isinstance(value, np.ndarray | np.generic)
        self.value = np.asarray(value)
        self.shape, self.dtype = self.value.shape, self.value.dtype

    def __add__(self, other):
        return Wrapped(self.value + bare(other))

    def __sub__(self, other):
        return Wrapped(self.value - bare(other))

    def __rsub__(self, other):
        return Wrapped(bare(other) - self.value)

    def __mul__(self, other):
        return Wrapped(self.value * bare(other))

    def __truediv__(self, other):
        return Wrapped(self.value / bare(other))

    def __rtruediv__(self, other):
        return Wrapped(bare(other) / self.value)

    def __neg__(self):
        return Wrapped(-self.value)

    def __getitem__(self, index):
        return Wrapped(self.value[index])

    def __array__(self, *args, **kwargs):
        raise AssertionError("an array of another framework was handed to NumPy")

    __radd__, __rmul__ = __add__, __mul__


def bare(argument):
    """What NumPy's backend takes, of an argument of this one."""
    assert not isinstance(argument, np.ndarray), "NumPy's array where this backend's own was expected"
    if isinstance(argument, list | tuple):
        return [bare(part) for part in argument]
    return argument.value if isinstance(argument, Wrapped) else argument


def lent(name):
    """NumPy's operation of that name, on wrapped arrays."""

    def method(self, *args):
        result = getattr(_numpy, name)(*map(bare, args))
        return [Wrapped(part) for part in result] if isinstance(result, list | tuple) else Wrapped(result)

    return method


class Tier1Backend(Backend):
    """The abstract methods, and no kernel."""

    name = "tier1"

    def owns(self, array):
        return isinstance(array, Wrapped)

    def from_numpy(self, array, device=None):
        assert isinstance(array, np.ndarray)
        return Wrapped(array.copy())

    def to_numpy(self, array):
        return array.value

    def devices(self):
        return ("cpu",)

    affine, sigmoid, tanh, relu, softplus = map(lent, ("affine", "sigmoid", "tanh", "relu", "softplus"))
    split, concat, stack, reshape, swapaxes = map(lent, ("split", "concat", "stack", "reshape", "swapaxes"))
    reverse, where, zeros = map(lent, ("reverse", "where", "zeros"))
    bernoulli, steps_before = map(lent, ("bernoulli", "steps_before"))


class PickyBackend(Tier1Backend):
    """Kernels for one layer in one direction, and no others."""

    name = "picky"

    def plan(self, recurrence, call):
        if recurrence.num_layers > 1 or recurrence.bidirectional:
            return Unsupported("one layer, one direction")
        return Kernel(f"picky.{recurrence.mode}", recurrence)

    def run(self, kernel, weights, inputs, states, valid_length, seeds):
        layers = tuple(tuple(bare(layer)) for layer in weights.layers)
        outputs, states = _numpy.run(kernel, KernelWeights(layers), *map(bare, (inputs, states, valid_length)), seeds)
        return Wrapped(outputs), [Wrapped(state) for state in states]


PICKY_INFO = dataclasses.replace(INFO, name="picky", target="tier1:PickyBackend")


class Subclass(np.ndarray):
    """An array that is NumPy's too, by inheritance."""


class SubclassBackend(NumpyBackend):
    """A backend for a subclass of NumPy's array: its operations keep the class."""

    name = "subclass"

    def owns(self, array):
        return isinstance(array, Subclass)

    def from_numpy(self, array, device=None):
        return np.array(array).view(Subclass)

    def to_numpy(self, array):
        return np.asarray(array)


SUBCLASS_INFO = dataclasses.replace(
    INFO, name="subclass", array_types=("tier1.Subclass",), target="tier1:SubclassBackend"
)

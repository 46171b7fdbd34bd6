"""A second backend with kernels, NumPy's on arrays of its own, and others that are each wrong in one way."""

from __future__ import annotations

import dataclasses

import numpy as np

import tier1
from rnnx.backend import BackendInfo, Kernel, KernelWeights
from rnnx.registry import get_backend
from tier1 import Tier1Backend, Wrapped, bare


class RightBackend(Tier1Backend):
    """What NumPy's kernels do."""

    name = "right"

    def plan(self, recurrence, call):
        return Kernel(f"{self.name}.{recurrence.mode}", recurrence)

    def run(self, kernel, weights, inputs, states, valid_length, seeds):
        layers = tuple(tuple(map(self.read, bare(layer))) for layer in weights.layers)
        arguments = map(bare, (inputs, states, valid_length))
        outputs, states = get_backend("numpy").run(kernel, KernelWeights(layers), *arguments, seeds)
        return Wrapped(outputs), [Wrapped(state) for state in states]

    def read(self, weight):
        return weight


class SwappingBackend(RightBackend):
    """Its kernels take the first two gates of an LSTM for each other."""

    name = "swapping"

    def read(self, weight):
        first, second, *others = np.split(weight, 4)
        return np.concatenate([second, first, *others])


class UnmaskedBackend(RightBackend):
    """Its kernels take no notice of where a sequence ends."""

    name = "unmasked"

    def run(self, kernel, weights, inputs, states, valid_length, seeds):
        return super().run(kernel, weights, inputs, states, None, seeds)


class RaisingBackend(RightBackend):
    """Its kernels fail."""

    name = "raising"

    def run(self, *arguments):
        raise RuntimeError("no kernel image is available")


class NarrowBackend(RightBackend):
    """Its kernels return one unit where there are several."""

    name = "narrow"

    def run(self, *arguments):
        outputs, states = super().run(*arguments)
        return outputs[..., :1], states


class LossyBackend(RightBackend):
    """Arrays lose half of every number on the way to it."""

    name = "lossy"

    def from_numpy(self, array, device=None):
        return super().from_numpy(array if array.dtype.kind in "iu" else array / 2)


def info(name: str) -> BackendInfo:
    """What to register one of these backends by; they share a class of arrays, so only one at a time."""
    return dataclasses.replace(tier1.INFO, name=name, target=f"kernelled:{name.capitalize()}Backend")

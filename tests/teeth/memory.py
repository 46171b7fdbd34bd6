"""Faults of memory: damage, sharing, and what is kept for too long."""

from __future__ import annotations

import threading
import time

import numpy as np

from rnnx.backend import KernelWeights
from teeth.fault import in_backend
from teeth.right import RightBackend

__all__ = ["FAULTS"]

right = RightBackend.run_recorded


def damage():
    def harming(which):
        def run_recorded(self, kernel, weights, inputs, states, valid_length, seeds, record=True):
            results = right(self, kernel, weights, inputs, states, valid_length, seeds, record)
            for array in which(weights, inputs, states, valid_length):
                if array is not None and array.flags.writeable:
                    array[...] = 0
            return results

        return run_recorded

    victims = {
        "inputs": lambda weights, inputs, states, lengths: [inputs],
        "states": lambda weights, inputs, states, lengths: states,
        "weights": lambda weights, inputs, states, lengths: [weights.layers[-1][1]],
        "biases": lambda weights, inputs, states, lengths: [weights.layers[0][3]],
        "lengths": lambda weights, inputs, states, lengths: [lengths],
    }
    for name, which in victims.items():
        yield in_backend(f"harms_{name}", f"{name} are overwritten", "repeatability", run_recorded=harming(which))


def sharing():
    yield in_backend(
        "shared_outputs", "outputs of all calls are in one buffer", "repeatability", run_recorded=_in_buffer(True)
    )
    yield in_backend(
        "shared_states", "final states of all calls are in one buffer", "repeatability", run_recorded=_in_buffer(False)
    )
    yield in_backend(
        "first_workspace", "a workspace is as large as the first call needs", "repeatability", run_recorded=_workspace
    )
    yield in_backend("unsafe_threads", "threads share a workspace", "threads", run_recorded=_unsafe)
    yield in_backend(
        "state_kept", "a call without initial states goes on from the last one", "repeatability", run_recorded=_going_on
    )
    yield in_backend("call_counted", "every third call is wrong", "repeatability", run_recorded=_third)


def _in_buffer(of_outputs):
    buffers = {}

    def kept(array, place):
        buffer = buffers.setdefault((place, array.shape, array.dtype), np.empty_like(array))
        buffer[...] = array
        return buffer

    def run_recorded(self, *given, **options):
        outputs, final, pull = right(self, *given, **options)
        if of_outputs:
            return kept(outputs, "outputs"), final, pull
        return outputs, [kept(state, place) for place, state in enumerate(final)], pull

    return run_recorded


_room = {}


def _workspace(self, kernel, weights, inputs, states, *given, **options):
    outputs, final, pull = right(self, kernel, weights, inputs, states, *given, **options)
    steps, batch = _room.setdefault((kernel.recurrence, inputs.dtype), inputs.shape[:2])
    outputs[steps:], outputs[:, batch:] = 0, 0
    return outputs, final, pull


_scratch = {}


def _unsafe(self, kernel, weights, inputs, states, *given, **options):
    me = threading.get_ident()
    _scratch["inputs"] = inputs
    time.sleep(0.001 if threading.active_count() > 1 else 0)
    read = _scratch["inputs"]
    shared = read if read.shape == inputs.shape and me else inputs
    return right(self, kernel, weights, shared, states, *given, **options)


_last = {}


def _going_on(self, kernel, weights, inputs, states, *given, **options):
    place = (kernel.recurrence, inputs.shape[1], inputs.dtype)
    if not any(state.any() for state in states):
        states = _last.get(place, states)
    outputs, final, pull = right(self, kernel, weights, inputs, states, *given, **options)
    _last[place] = [state.copy() for state in final]
    return outputs, final, pull


_calls = {}


def _third(self, kernel, *given, **options):
    outputs, final, pull = right(self, kernel, *given, **options)
    _calls[kernel.recurrence] = _calls.get(kernel.recurrence, 0) + 1
    return (outputs * 0.5 if _calls[kernel.recurrence] % 3 == 0 else outputs), final, pull


def stale():
    def caching(key):
        prepared = {}

        def run_recorded(self, kernel, weights, *given, **options):
            place = key(kernel, weights)
            if place not in prepared:
                prepared[place] = KernelWeights(
                    tuple(tuple(array.copy() for array in layer) for layer in weights.layers)
                )
            return right(self, kernel, prepared[place], *given, **options)

        return run_recorded

    keys = {
        "by_shape": ("the sizes", lambda kernel, weights: (kernel.recurrence, weights.layers[0][0].dtype)),
        "by_first_number": (
            "the first number",
            lambda kernel, weights: (kernel.recurrence, float(weights.layers[0][0].flat[0])),
        ),
        "by_first_matrix": (
            "the first matrix",
            lambda kernel, weights: (kernel.recurrence, weights.layers[0][0].tobytes()),
        ),
        "by_matrices": (
            "the matrices, not the biases",
            lambda kernel, weights: (
                kernel.recurrence,
                *(layer[0].tobytes() + layer[1].tobytes() for layer in weights.layers),
            ),
        ),
        "by_sum": (
            "the sum of the first layer",
            lambda kernel, weights: (
                kernel.recurrence,
                round(float(sum(array.sum() for array in weights.layers[0])), 2),
            ),
        ),
        "by_address": (
            "the address of the first weight",
            lambda kernel, weights: (
                kernel.recurrence,
                weights.layers[0][0].__array_interface__["data"][0],
                weights.layers[0][0].dtype,
            ),
        ),
    }
    for name, (what, key) in keys.items():
        yield in_backend(
            f"stale_{name}", f"prepared weights are found again by {what}", "repeatability", run_recorded=caching(key)
        )


def strides():
    def misread(self, kernel, weights, inputs, states, *given, **options):
        return right(self, kernel, weights, _in_memory_order(inputs), states, *given, **options)

    def misread_weights(self, kernel, weights, *given, **options):
        layers = tuple(tuple(map(_in_memory_order, layer)) for layer in weights.layers)
        return right(self, kernel, KernelWeights(layers), *given, **options)

    def misread_states(self, kernel, weights, inputs, states, *given, **options):
        return right(self, kernel, weights, inputs, list(map(_in_memory_order, states)), *given, **options)

    yield in_backend("inputs_by_memory", "inputs are read as they lie in memory", "strides", run_recorded=misread)
    yield in_backend(
        "weights_by_memory", "weights are read as they lie in memory", "strides", run_recorded=misread_weights
    )
    yield in_backend(
        "states_by_memory", "states are read as they lie in memory", "strides", run_recorded=misread_states
    )


def _in_memory_order(array):
    """What a pointer and a shape come to where the strides are not looked at."""
    if array.flags.c_contiguous or array.base is None:
        return array
    order = np.argsort([-abs(stride) for stride in array.strides], kind="stable")
    return np.ascontiguousarray(array.transpose(order)).reshape(array.shape).view(type(array))


FAULTS = [*damage(), *sharing(), *stale(), *strides()]

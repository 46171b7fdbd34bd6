"""Faults of dropout, zoneout and seeds."""

from __future__ import annotations

import numpy as np

from teeth.fault import in_backend, in_kernel
from teeth.kernel import Kernel
from teeth.right import held

__all__ = ["FAULTS"]


def drawn(seed, shape, probability):
    return held(np.random.default_rng(seed).random(shape, np.float32) < probability)


def dropping():
    yield from in_kernel(
        "no_dropout", "nothing is dropped between layers", "dropout", between=lambda self, layer, outputs: outputs
    )
    yield from in_kernel("dropout_unscaled", "what is kept is not scaled", "dropout", scale=lambda self, rate: 1.0)
    yield from in_kernel(
        "dropout_scale_p", "what is kept is divided by p", "dropout", scale=lambda self, rate: 1 / rate
    )
    yield from in_kernel(
        "dropout_scale_down", "what is kept is multiplied by 1 - p", "dropout", scale=lambda self, rate: 1 - rate
    )
    yield from in_kernel("dropout_keeps_p", "p is kept, not dropped", "dropout", dropped=_keeping)
    yield from in_kernel(
        "dropout_after_last", "the last layer's outputs are dropped out as well", "dropout", outputs=_last
    )
    yield from in_kernel(
        "dropout_first", "the first layer's inputs are dropped out as well", "dropout", layer_inputs=_first
    )
    yield from in_kernel(
        "dropout_one_mask",
        "every layer has the first one's mask",
        "dropout",
        between=lambda self, layer, outputs: self.dropped(outputs, self.seeds[0]) if self.seeds else outputs,
    )
    yield from in_kernel("dropout_same_each_step", "one mask for all steps", "dropout", dropped=_variational)
    yield from in_kernel("dropout_same_each_row", "one mask for all rows", "dropout", dropped=_same_rows)
    yield from in_kernel("dropout_whole_units", "whole steps are dropped", "dropout", dropped=_whole_steps)
    yield from in_kernel(
        "dropout_always_same",
        "one mask for ever",
        "dropout",
        between=lambda self, layer, outputs: self.dropped(outputs, 1) if self.seeds else outputs,
    )
    yield from in_kernel("dropout_half", "p is always one half", "dropout", dropped=_half)
    yield from in_kernel("dropout_in_inference", "dropout acts in inference", "dropout", between=_always)
    yield from in_kernel("inference_scaled", "inference is scaled by 1 - p", "dropout", between=_classical)
    yield from in_kernel("dropout_on_states", "states are dropped out between layers", "dropout", final=_on_states)


def _keeping(self, outputs, seed):
    keep = drawn(seed, outputs.shape, self.recurrence.dropout)
    return np.where(keep, outputs * self.scale(self.recurrence.dropout), 0)


def _last(self, outputs, lengths):
    return self.dropped(outputs, self.seeds[-1] + 1) if self.seeds else outputs


def _first(self, layer, current, inputs):
    return self.dropped(inputs, self.seeds[0] + 1) if self.seeds and layer == 0 else current


def _masked(shape_of):
    def dropped(self, outputs, seed):
        rate = self.recurrence.dropout
        keep = np.broadcast_to(drawn(seed, shape_of(outputs.shape), 1 - rate), outputs.shape)
        return np.where(keep, outputs * self.scale(rate), 0)

    return dropped


_variational = _masked(lambda shape: (1, *shape[1:]))
_same_rows = _masked(lambda shape: (shape[0], 1, shape[2]))
_whole_steps = _masked(lambda shape: (*shape[:2], 1))


def _half(self, outputs, seed):
    return np.where(drawn(seed, outputs.shape, 0.5), outputs * 2, 0)


def _always(self, layer, outputs):
    if self.recurrence.dropout == 0:
        return outputs
    return self.dropped(outputs, self.seeds[layer] if self.seeds else layer)


def _classical(self, layer, outputs):
    return Kernel.between(self, layer, outputs) if self.seeds else outputs * (1 - self.recurrence.dropout)


def _on_states(self, finals, states):
    right = Kernel.final(self, finals, states)
    return [self.dropped(state, self.seeds[0]) for state in right] if self.seeds else right


def seeds():
    def bernoulli(change):
        return {"bernoulli": lambda self, seed, probability, shape, like: change(seed, probability, shape)}

    def from_global(seed, probability, shape):
        return held(np.random.random(shape) < probability)  # noqa: NPY002

    def seeding_global(seed, probability, shape):
        np.random.seed(seed % 2**32)  # noqa: NPY002
        return held(np.random.random(shape) < probability)  # noqa: NPY002

    changes = {
        "seed_ignored": ("the seed is not looked at", lambda seed, p, shape: drawn(None, shape, p)),
        "seed_constant": ("one seed for everything", lambda seed, p, shape: drawn(7, shape, p)),
        "seed_32_bits": ("only the seed's low 32 bits count", lambda seed, p, shape: drawn(seed % 2**32, shape, p)),
        "seed_16_bits": ("only the seed's low 16 bits count", lambda seed, p, shape: drawn(seed % 2**16, shape, p)),
        "seed_high_bits": ("only the seed's high 32 bits count", lambda seed, p, shape: drawn(seed >> 32, shape, p)),
        "global_generator": ("draws come from NumPy's global generator", from_global),
        "global_reseeded": ("NumPy's global generator is seeded", seeding_global),
        "probability_turned": ("p and 1 - p are exchanged", lambda seed, p, shape: drawn(seed, shape, 1 - p)),
        "probability_squared": ("the probability is squared", lambda seed, p, shape: drawn(seed, shape, p * p)),
        "probability_rounded": (
            "the probability is rounded to quarters",
            lambda seed, p, shape: drawn(seed, shape, round(p * 4) / 4),
        ),
        "rows_alike": (
            "all rows draw alike",
            lambda seed, p, shape: np.broadcast_to(drawn(seed, shape[-1:], p), shape),
        ),
        "columns_alike": (
            "all units draw alike",
            lambda seed, p, shape: np.broadcast_to(drawn(seed, (*shape[:-1], 1), p), shape),
        ),
        "alternating": (
            "every other number is true",
            lambda seed, p, shape: held(((np.arange(np.prod(shape)) + seed) % 100 < p * 100).reshape(shape)),
        ),
        "floats_drawn": ("draws are numbers, not booleans", lambda seed, p, shape: drawn(seed, shape, p).astype(float)),
    }
    for name, (what, change) in changes.items():
        yield in_backend(name, what, "operations", **bernoulli(change))
    yield in_backend("fold_ignores_time", "all steps have one seed", "operations", fold=lambda self, seed, time: seed)
    yield in_backend(
        "fold_ignores_seed", "a step's seed is its number", "operations", fold=lambda self, seed, time: time
    )
    yield in_backend(
        "fold_adds",
        "a step's seed is the seed plus its number, cut to a byte",
        "operations",
        fold=lambda self, seed, time: (seed + time) % 256,
    )
    yield in_backend(
        "fold_alternates",
        "every other step has the same seed",
        "operations",
        fold=lambda self, seed, time: super(type(self), self).fold(seed, time % 2),
    )


FAULTS = [*dropping(), *seeds()]

"""Faults of vector-Jacobian products."""

from __future__ import annotations

import numpy as np

from teeth.fault import MODES, in_backend, in_gradients
from teeth.right import RightBackend

__all__ = ["FAULTS"]

GROUPS = ("i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias")


def weights():
    for place, group in enumerate(GROUPS):
        for mode in MODES:
            yield in_gradients(
                f"no_gradient_of_{group}_{mode}",
                f"{group} of {mode} has no gradient",
                _weights(place, lambda g: 0 * g),
                modes=[mode],
            )
        yield in_gradients(
            f"twice_gradient_of_{group}", f"the gradient of {group} is doubled", _weights(place, lambda g: 2 * g)
        )
        yield in_gradients(
            f"minus_gradient_of_{group}", f"the gradient of {group} has the other sign", _weights(place, lambda g: -g)
        )
    yield in_gradients(
        "gradient_gates_turned",
        "the gradients of gates stand in reverse order",
        _weights(1, lambda g: np.concatenate(np.split(g, 4)[::-1])),
        modes=["lstm"],
    )
    yield in_gradients(
        "gradient_of_last_gate",
        "the last gate's gradient is left out",
        _weights(0, lambda g: np.concatenate([*np.split(g, 3)[:2], 0 * np.split(g, 3)[2]])),
        modes=["gru"],
    )
    yield in_gradients(
        "gradient_biases_alike", "the two biases of a GRU have one gradient", _biases_alike, modes=["gru"]
    )
    yield in_gradients("gradient_mean", "gradients of weights are means over the rows", _mean)
    yield in_gradients("gradient_clipped", "gradients are clipped to 1", _clipped)
    yield in_gradients("gradient_upper_layers", "layers above the first have no gradient", _first_layer_only)
    yield in_gradients("gradient_backward", "the backward direction's weights have no gradient", _forward_only)
    yield in_gradients("gradient_directions", "the two directions' gradients are exchanged", _directions_turned)


def _weights(place, change):
    def changed(recurrence, inputs, states, layers):
        return inputs, states, [change(g) if at % 4 == place else g for at, g in enumerate(layers)]

    return changed


def _biases_alike(recurrence, inputs, states, layers):
    return inputs, states, [layers[at - 1] if at % 4 == 3 else g for at, g in enumerate(layers)]


def _mean(recurrence, inputs, states, layers):
    return inputs, states, [g / inputs.shape[1] for g in layers]


def _clipped(recurrence, inputs, states, layers):
    return np.clip(inputs, -1, 1), states, [np.clip(g, -1, 1) for g in layers]


def _first_layer_only(recurrence, inputs, states, layers):
    first = 4 * recurrence.directions
    return inputs, states, [g if at < first else 0 * g for at, g in enumerate(layers)]


def _forward_only(recurrence, inputs, states, layers):
    return inputs, states, [0 * g if at // 4 % recurrence.directions == 1 else g for at, g in enumerate(layers)]


def _directions_turned(recurrence, inputs, states, layers):
    if recurrence.directions == 1:
        return inputs, states, layers
    return inputs, states, [layers[at + 4 if at // 4 % 2 == 0 else at - 4] for at in range(len(layers))]


def arguments():
    yield in_gradients("no_gradient_of_inputs", "inputs have no gradient", lambda r, i, s, w: (0 * i, s, w))
    yield in_gradients("twice_gradient_of_inputs", "the inputs' gradient is doubled", lambda r, i, s, w: (2 * i, s, w))
    yield in_gradients(
        "gradient_inputs_turned", "the inputs' gradient is reversed in time", lambda r, i, s, w: (i[::-1], s, w)
    )
    yield in_gradients(
        "no_gradient_of_h", "the initial h has no gradient", lambda r, i, s, w: (i, [0 * s[0], *s[1:]], w)
    )
    yield in_gradients(
        "no_gradient_of_c", "the initial c has no gradient", lambda r, i, s, w: (i, [s[0], *(0 * g for g in s[1:])], w)
    )
    yield in_gradients("gradient_hc", "gradients of h and c are exchanged", lambda r, i, s, w: (i, s[::-1], w))
    yield in_gradients(
        "gradient_states_layers",
        "gradients of states stand in reverse order",
        lambda r, i, s, w: (i, [g[::-1] for g in s], w),
    )


def cotangents():
    def pulling(change):
        def made(self, recurrence, pull):
            return None if pull is None else lambda outputs, states: pull(*change(outputs, list(states)))

        return made

    changes = {
        "state_gradients_ignored": (
            "gradients of final states are not looked at",
            lambda o, s: (o, [0 * g for g in s]),
        ),
        "cell_gradient_ignored": (
            "the gradient of the final c is not looked at",
            lambda o, s: (o, [s[0], *(0 * g for g in s[1:])]),
        ),
        "output_gradients_ignored": ("gradients of outputs are not looked at", lambda o, s: (0 * o, s)),
        "last_output_only": (
            "only the last output's gradient counts",
            lambda o, s: (np.concatenate([0 * o[:-1], o[-1:]]), s),
        ),
        "gradient_truncated": (
            "gradients of the first outputs do not count",
            lambda o, s: (np.concatenate([0 * o[:1], o[1:]]), s),
        ),
    }
    for name, (what, change) in changes.items():
        yield in_backend(name, what, "gradients", pulling=pulling(change))


def passes():
    def once(self, recurrence, pull):
        calls = []

        def pulled(outputs, states):
            calls.append(1)
            inputs, of_states, layers = pull(outputs, states)
            return (inputs, of_states, layers) if len(calls) == 1 else (0 * inputs, of_states, layers)

        return pulled

    def growing(self, recurrence, pull):
        sums = []

        def pulled(outputs, states):
            inputs, of_states, layers = pull(outputs, states)
            sums[:] = [one + other for one, other in zip(layers, sums or [0] * len(layers), strict=True)]
            return inputs, of_states, list(sums)

        return pulled

    yield in_backend("pullback_once", "a pullback works once", "gradients", pulling=once)
    yield in_backend("pullback_sums", "a pullback adds to what it gave before", "gradients", pulling=growing)
    yield in_backend("fresh_mask", "the pass back has a dropout mask of its own", "gradients", run_recorded=_fresh_mask)
    yield in_backend("no_mask_back", "the pass back drops nothing", "gradients", run_recorded=_no_mask_back)
    yield in_backend(
        "unmasked_back", "the pass back takes no notice of lengths", "gradients", run_recorded=_unmasked_back
    )
    yield in_backend("float32_back", "gradients are rounded to float32", "gradients", differentiate=_rounded)
    yield in_backend(
        "constants_back", "differentiate gives gradients of the first argument alone", "gradients", differentiate=_first
    )


def _with_pull_of(change):
    def run_recorded(self, kernel, weights, inputs, states, valid_length, seeds, record=True):
        right = RightBackend.run_recorded
        outputs, final, pull = right(self, kernel, weights, inputs, states, valid_length, seeds, record)
        if record:
            _, _, pull = right(self, kernel, weights, inputs, states, *change(valid_length, seeds), record)
        return outputs, final, pull

    return run_recorded


_fresh_mask = _with_pull_of(lambda lengths, seeds: (lengths, [seed ^ 1 for seed in seeds]))
_no_mask_back = _with_pull_of(lambda lengths, seeds: (lengths, ()))
_unmasked_back = _with_pull_of(lambda lengths, seeds: (None, seeds))


def _rounded(self, function, arguments):
    results, pullback = RightBackend.differentiate(self, function, arguments)
    return results, lambda given: [g.astype(np.float32).astype(g.dtype) for g in pullback(given)]


def _first(self, function, arguments):
    results, pullback = RightBackend.differentiate(self, function, arguments)
    return results, lambda given: [g if at == 0 else 0 * g for at, g in enumerate(pullback(given))]


FAULTS = [*weights(), *arguments(), *cotangents(), *passes()]

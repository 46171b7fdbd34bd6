"""Faults of precision, of extreme numbers, and of sizes that a kernel was not tried with."""

from __future__ import annotations

import numpy as np

from teeth.fault import MODES, in_backend, in_kernel
from teeth.kernel import Kernel
from teeth.right import RightBackend

__all__ = ["FAULTS"]


def rounded_to(dtype, only=None):
    """A kernel whose recurrent product is rounded to a dtype on the way."""

    def recurrent(self, h, weights):
        if only is not None and h.dtype != only:
            return Kernel.recurrent(self, h, weights)
        return Kernel.recurrent(self, h.astype(dtype), [weight.astype(dtype) for weight in weights]).astype(h.dtype)

    return recurrent


def precision():
    yield from in_kernel(
        "float16_inside", "the recurrent product is in float16", modes=MODES, recurrent=rounded_to(np.float16)
    )
    yield from in_kernel(
        "float32_inside", "float64 is multiplied in float32", modes=MODES, recurrent=rounded_to(np.float32)
    )
    yield from in_kernel(
        "float16_states",
        "states are kept in float16",
        "outputs",
        carried=lambda self, states, *_: [s.astype(np.float16).astype(s.dtype) for s in states],
    )
    yield from in_kernel(
        "cell_float32",
        "the cell state is kept in float32",
        "outputs",
        carried=lambda self, states, *_: [states[0], *(s.astype(np.float32).astype(s.dtype) for s in states[1:])],
    )
    yield from in_kernel(
        "epsilon",
        "1e-4 is added to the gates",
        "outputs",
        gate_inputs=lambda self, x, weights: Kernel.gate_inputs(self, x, weights) + x.dtype.type(1e-4),
    )
    yield from in_kernel("weights_bfloat16", "weights are rounded to bfloat16", "outputs", read=_truncated)
    yield in_backend("always_float32", "results are float32", "outputs", run_recorded=_always_float32)
    yield in_backend("always_float64", "results are float64", "outputs", run_recorded=_always_float64)


def _truncated(self, weights):
    def cut(array):
        plain = np.asarray(array, np.float32)
        return (plain.view(np.uint32) & 0xFFFF0000).view(np.float32).astype(array.dtype)

    return [tuple(map(cut, layer)) for layer in weights.layers]


def _always(dtype):
    def run_recorded(self, *given, **options):
        outputs, final, pull = RightBackend.run_recorded(self, *given, **options)
        return outputs.astype(dtype), final, pull

    return run_recorded


_always_float32, _always_float64 = _always(np.float32), _always(np.float64)


def extremes():
    def limited(limit):
        return lambda self, x, weights: np.clip(Kernel.gate_inputs(self, x, weights), -limit, limit)

    for limit in (5, 20, 50):
        yield from in_kernel(
            f"gates_clipped_{limit}", f"the inputs' share is clipped to {limit}", "extremes", gate_inputs=limited(limit)
        )
    yield from in_kernel(
        "cell_clipped",
        "the cell state is clipped to 3",
        "outputs",
        carried=lambda self, states, *_: [states[0], *(np.clip(s, -3, 3) for s in states[1:])],
    )
    yield from in_kernel(
        "nan_to_num",
        "what is not a number becomes 0",
        "extremes",
        carried=lambda self, states, *_: [np.nan_to_num(s) for s in states],
    )
    yield from in_kernel(
        "nan_swallowed",
        "inputs that are no numbers become 0",
        "extremes",
        gate_inputs=lambda self, x, weights: Kernel.gate_inputs(self, np.nan_to_num(x), weights),
    )
    yield from in_kernel(
        "relu_of_nan", "relu of NaN is 0", "extremes", modes=["rnn_relu"], activation=lambda self, x: np.fmax(x, 0)
    )
    yield from in_kernel(
        "nan_spreads",
        "one row's NaN reaches every row",
        "extremes",
        gate_inputs=lambda self, x, weights: Kernel.gate_inputs(self, x, weights) + 0 * x.sum(),
    )
    yield from in_kernel(
        "nan_spreads_in_time",
        "NaN reaches the steps before it",
        "extremes",
        gate_inputs=lambda self, x, weights: Kernel.gate_inputs(self, x, weights) + 0 * x.sum((0, 2), keepdims=True),
    )
    yield from in_kernel("overflowing", "exp overflows with a warning", "extremes", modes=["lstm"], lstm=_loud)
    yield from in_kernel(
        "denormals_flushed",
        "small states become 0",
        "extremes",
        carried=lambda self, states, *_: [np.where(np.abs(s) < 1e-30, 0, s).astype(s.dtype) for s in states],
    )


def _loud(self, i, f, c, o, cell):
    new = cell / (1 + np.exp(-f)) + np.tanh(c) / (1 + np.exp(-i))
    return [np.tanh(new) / (1 + np.exp(-o)), new]


def sizes():
    def when(condition, change):
        """A kernel whose outputs are changed where the sizes are such."""

        def run(self, weights, inputs, states, lengths):
            outputs, final = Kernel.run(self, weights, inputs, states, lengths)
            return (change(outputs), final) if condition(self, inputs) else (outputs, final)

        return run

    def worse(outputs):
        return outputs * 0.9

    conditions = {
        "one_row": ("a batch of one", lambda self, x: x.shape[1] == 1),
        "one_step": ("one step", lambda self, x: x.shape[0] == 1),
        "one_unit": ("one unit", lambda self, x: self.hidden == 1),
        "one_input": ("inputs one wide", lambda self, x: x.shape[2] == 1),
        "odd_units": ("an odd number of units above 8", lambda self, x: self.hidden > 8 and self.hidden % 2 == 1),
        "many_units": ("more than 64 units", lambda self, x: self.hidden > 64),
        "very_many_units": ("more than 256 units", lambda self, x: self.hidden > 256),
        "many_steps": ("more than 64 steps", lambda self, x: x.shape[0] > 64),
        "very_many_steps": ("more than 256 steps", lambda self, x: x.shape[0] > 256),
        "many_rows": ("more than 16 rows", lambda self, x: x.shape[1] > 16),
        "odd_rows": ("an odd number of rows above 4", lambda self, x: x.shape[1] > 4 and x.shape[1] % 2 == 1),
        "wide_inputs": ("inputs wider than the units", lambda self, x: x.shape[2] > self.hidden),
        "three_layers": ("more than two layers", lambda self, x: self.depth > 2),
        "square_call": ("as many rows as steps", lambda self, x: x.shape[0] == x.shape[1]),
        "even_steps": ("an even number of steps", lambda self, x: x.shape[0] % 2 == 0),
        "float64_only": ("float64", lambda self, x: x.dtype == np.float64),
        "float32_only": ("float32", lambda self, x: x.dtype == np.float32),
        "more_rows_than_units": ("more rows than units", lambda self, x: x.shape[1] > self.hidden),
        "large": ("more than 10^4 inputs", lambda self, x: x.size > 10_000),
    }
    for name, (what, condition) in conditions.items():
        yield from in_kernel(f"wrong_for_{name}", f"outputs are wrong for {what}", "sizes", run=when(condition, worse))
    yield from in_kernel("squeezed", "an axis of size 1 is lost and put back as another", "sizes", outputs=_squeezed)
    yield from in_kernel("chunked_time", "the state is lost every 32 steps", "sizes", carried=_chunked)
    yield from in_kernel("chunked_rows", "rows past the 32nd are left out", "sizes", outputs=_few_rows)
    yield from in_kernel("padded_units", "units past a multiple of 8 are zero", "sizes", outputs=_padded)


def _squeezed(self, outputs, lengths):
    if outputs.shape[1] == 1 and outputs.shape[0] > 1:
        return np.broadcast_to(outputs[-1:], outputs.shape)
    return outputs


def _chunked(self, states, time, backward, layer):
    return [0 * state for state in states] if time % 32 == 31 else states


def _few_rows(self, outputs, lengths):
    return np.concatenate([outputs[:, :32], 0 * outputs[:, 32:]], 1)


def _padded(self, outputs, lengths):
    whole = outputs.shape[2] // 8 * 8
    return np.concatenate([outputs[..., :whole], 0 * outputs[..., whole:]], -1) if whole else outputs


FAULTS = [*precision(), *extremes(), *sizes()]

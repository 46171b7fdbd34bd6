"""Faults of one step's equation: gates, biases, activations."""

from __future__ import annotations

import itertools

import numpy as np

from teeth.fault import MODES, in_kernel
from teeth.kernel import sigmoid

__all__ = ["FAULTS"]

GATES = {"lstm": "ifco", "gru": "rzn"}


def reordered(order, gates):
    """A reader of layers whose gates stand in another order than it thinks."""

    def read(self, weights):
        places = [gates.index(gate) for gate in order]

        def moved(array):
            parts = np.split(np.asarray(array), len(gates))
            return np.concatenate([parts[place] for place in places])

        return [tuple(map(moved, layer)) for layer in weights.layers]

    return read


def swaps():
    for mode, gates in GATES.items():
        for one, other in itertools.combinations(gates, 2):
            order = gates.translate(str.maketrans(one + other, other + one))
            yield from in_kernel(
                f"swap_{one}{other}",
                f"gates {one} and {other} are exchanged",
                modes=[mode],
                read=reordered(order, gates),
            )
    for name, order in (("onnx", "iofc"), ("tf1", "icfo"), ("haiku", "icfo"[::-1])):
        yield from in_kernel(
            f"order_{name}", f"gates are read as {order}", modes=["lstm"], read=reordered(order, "ifco")
        )
    for name, order in (("cyclic", "znr"), ("backwards", "nzr")):
        yield from in_kernel(f"order_{name}", f"gates are read as {order}", modes=["gru"], read=reordered(order, "rzn"))


def biases(change):
    """A reader of layers whose two biases are changed."""

    def read(self, weights):
        layers = [tuple(map(np.asarray, layer)) for layer in weights.layers]
        return [(wi, wh, *change(self, bi, bh)) for wi, wh, bi, bh in layers]

    return read


def of_gate(gate, factor):
    """The bias of one gate times a factor, the others as they are."""

    def change(kernel, bi, bh):
        parts = np.split(bi.copy(), bi.size // kernel.hidden)
        parts[gate] = parts[gate] * factor
        return np.concatenate(parts), bh

    return change


def bias_faults():
    each = {
        "i2h_bias_dropped": ("the inputs' bias is left out", lambda kernel, bi, bh: (0 * bi, bh)),
        "h2h_bias_dropped": ("the recurrent bias is left out", lambda kernel, bi, bh: (bi, 0 * bh)),
        "i2h_bias_doubled": ("the inputs' bias is added twice", lambda kernel, bi, bh: (2 * bi, bh)),
        "h2h_bias_doubled": ("the recurrent bias is added twice", lambda kernel, bi, bh: (bi, 2 * bh)),
    }
    for name, (what, change) in each.items():
        yield from in_kernel(name, what, modes=MODES, read=biases(change))
    for mode, gates in GATES.items():
        for place, gate in enumerate(gates):
            yield from in_kernel(
                f"bias_of_{gate}_dropped", f"the bias of gate {gate}", modes=[mode], read=biases(of_gate(place, 0.0))
            )
    yield from in_kernel(
        "biases_exchanged", "the two biases are exchanged", modes=["gru"], read=biases(lambda kernel, bi, bh: (bh, bi))
    )
    yield from in_kernel(
        "biases_joined",
        "both biases are added to the inputs' share",
        modes=["gru"],
        read=biases(lambda kernel, bi, bh: (bi + bh, 0 * bh)),
    )


def weight_faults():
    def square_transposed(self, weights):
        def turned(array):
            square = array.shape[0] == array.shape[1] * (array.shape[0] // self.hidden)
            parts = np.split(array, array.shape[0] // self.hidden)
            return np.concatenate([part.T for part in parts]) if square else array

        return [(wi, turned(np.asarray(wh)), bi, bh) for wi, wh, bi, bh in weights.layers]

    def reshaped(self, weights):
        def misread(array):
            return np.asarray(array).T.reshape(array.shape)

        return [(misread(wi), misread(wh), bi, bh) for wi, wh, bi, bh in weights.layers]

    yield from in_kernel(
        "h2h_transposed", "each gate's recurrent matrix is transposed", modes=MODES, read=square_transposed
    )
    yield from in_kernel(
        "matrices_reshaped", "matrices are reshaped where they are to be transposed", modes=MODES, read=reshaped
    )
    yield from in_kernel(
        "h2h_ignored",
        "the recurrent product is left out",
        modes=MODES,
        recurrent=lambda self, h, weights: 0 * h @ weights[1].T + weights[3],
    )


def activation_faults():
    def lstm(new_cell, output):
        def step(self, i, f, c, o, cell):
            new = new_cell(i, f, c, o, cell)
            return [output(o, new), new]

        return step

    s, t = sigmoid, np.tanh

    def right(i, f, c, o, cell):
        return s(f) * cell + s(i) * t(c)

    wrong = {
        "forget_bias_again": (
            "1 is added to the forget gate",
            lambda i, f, c, o, cell: right(i, f + 1, c, o, cell),
            None,
        ),
        "candidate_sigmoid": ("the candidate is a sigmoid", lambda i, f, c, o, cell: s(f) * cell + s(i) * s(c), None),
        "candidate_linear": ("the candidate is not squashed", lambda i, f, c, o, cell: s(f) * cell + s(i) * c, None),
        "input_tanh": ("the input gate is a tanh", lambda i, f, c, o, cell: s(f) * cell + t(i) * t(c), None),
        "coupled": ("the input gate is 1 - f", lambda i, f, c, o, cell: s(f) * cell + (1 - s(f)) * t(c), None),
        "cell_not_forgotten": ("the cell state is kept whole", lambda i, f, c, o, cell: cell + s(i) * t(c), None),
        "output_linear": ("the output is o c, without tanh", right, lambda o, new: s(o) * new),
        "output_hard": (
            "the output gate is a hard sigmoid",
            right,
            lambda o, new: np.clip(0.2 * o + 0.5, 0, 1) * t(new),
        ),
    }
    for name, (what, cell, output) in wrong.items():
        given = output or (lambda o, new: s(o) * t(new))
        yield from in_kernel(name, what, modes=["lstm"], lstm=lstm(cell, given))

    def reset_before(self, ar, az, an, gr, gz, gn, h, weights):
        r, z = s(ar + gr), s(az + gz)
        inner = (r * h) @ np.split(weights[1], 3)[2].T + np.split(weights[3], 3)[2]
        return self.mixed(z, t(an + inner), h)

    def reset_all(self, ar, az, an, gr, gz, gn, h, weights):
        r, z = s(ar + gr), s(az + gz)
        return self.mixed(z, t(r * (an + gn)), h)

    def reset_without_bias(self, ar, az, an, gr, gz, gn, h, weights):
        r, z, bias = s(ar + gr), s(az + gz), np.split(weights[3], 3)[2]
        return self.mixed(z, t(an + r * (gn - bias) + bias), h)

    yield from in_kernel("reset_before", "the reset gate acts before the product", modes=["gru"], gru=reset_before)
    yield from in_kernel("reset_inputs", "the reset gate acts on the inputs' share too", modes=["gru"], gru=reset_all)
    yield from in_kernel(
        "reset_bias", "the reset gate leaves the recurrent bias alone", modes=["gru"], gru=reset_without_bias
    )
    yield from in_kernel(
        "z_turned", "z and 1 - z are exchanged", modes=["gru"], mixed=lambda self, z, n, h: z * n + (1 - z) * h
    )
    yield from in_kernel(
        "relu_for_tanh", "relu in the place of tanh", modes=["rnn_tanh"], activation=lambda self, x: np.maximum(x, 0)
    )
    yield from in_kernel(
        "tanh_for_relu", "tanh in the place of relu", modes=["rnn_relu"], activation=lambda self, x: t(x)
    )
    yield from in_kernel(
        "leaky", "relu leaks", modes=["rnn_relu"], activation=lambda self, x: np.where(x < 0, 0.01 * x, x)
    )
    yield from in_kernel("relu6", "relu stops at 6", modes=["rnn_relu"], activation=lambda self, x: np.clip(x, 0, 6))


FAULTS = [*swaps(), *bias_faults(), *weight_faults(), *activation_faults()]

"""The equations of the reference: activations, and one step of each kind of cell, gate by gate.

Everything is written twice in rnnx, here and in its cells, and nothing is shared: a slip in one of them shows. Every
function here also holds for complex numbers and is analytic on both sides of zero, which is what the complex step of
`rnnx.conformance.reference` needs: the sign is that of the real part, and no absolute value is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "ACTIVATIONS",
    "EQUATIONS",
    "GATES",
    "WITH_C",
    "Array",
    "Equation",
    "States",
    "Weights",
    "relu",
    "share",
    "sigmoid",
]

Array = npt.NDArray[Any]
Weights = Mapping[str, Array]
States = list[Array]


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)), which is this and overflows nowhere."""
    half: Array = 0.5 * np.tanh(0.5 * x)
    return half + 0.5


def relu(x: Array) -> Array:
    """Return max(x, 0)."""
    return np.where(x.real < 0, 0.0, x)


def magnitude(x: Array) -> Array:
    """Return abs(x), analytic but in 0."""
    return np.where(x.real < 0, -x, x)


def softplus(x: Array) -> Array:
    """Return log(1 + exp(x)), which is this and overflows nowhere."""
    rest: Array = np.log1p(np.exp(-magnitude(x)))
    return relu(x) + rest


def softsign(x: Array) -> Array:
    """Return x / (1 + abs(x))."""
    softened: Array = x / (1 + magnitude(x))
    return softened


#: MXNet's activations, by its names (``src/operator/nn/activation-inl.h``, 1.9.1).
ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "relu": relu,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "softrelu": softplus,
    "softsign": softsign,
}


# -- cells ------------------------------------------------------------------------------------------------------------

#: A gate's share of the inputs by the gate's place, and of the hidden state, or of what is given in its place.
FromInputs = Callable[[int], Array]
FromHidden = Callable[..., Array]
Equation = Callable[..., States]

#: What is done to each element.
Function = Callable[[Array], Array]


def share(weights: Weights, side: str, gate: int, hidden: int, rows: Array) -> Array:
    """Return one gate's share: the gate's rows of a weight times each vector of `rows` (N, C), plus its bias."""
    own = slice(gate * hidden, (gate + 1) * hidden)
    product: Array = rows @ weights[f"{side}_weight"][own].T
    return product + weights[f"{side}_bias"][own]


def lstm(
    a: FromInputs,
    g: FromHidden,
    states: States,
    weights: Weights,
    gate: Function = sigmoid,
    candidate: Function = np.tanh,
    output: Function = np.tanh,
) -> States:
    """Return h' and c' of an LSTM."""
    c = gate(a(1) + g(1)) * states[1] + gate(a(0) + g(0)) * candidate(a(2) + g(2))
    return [gate(a(3) + g(3)) * output(c), c]


def lstmp(a: FromInputs, g: FromHidden, states: States, weights: Weights, **functions: Function) -> States:
    """Return h' and c' of an LSTM with a projection; `functions` as of `lstm`."""
    wide, c = lstm(a, g, states, weights, **functions)
    return [wide @ weights["h2r_weight"].T, c]


def peephole(a: FromInputs, g: FromHidden, states: States, weights: Weights) -> States:
    """Return h' and c' of an LSTM whose gates see c."""
    p, c = weights["peephole_weight"], states[1]
    new = sigmoid(a(1) + g(1) + p[1] * c) * c + sigmoid(a(0) + g(0) + p[0] * c) * np.tanh(a(2) + g(2))
    return [sigmoid(a(3) + g(3) + p[2] * new) * np.tanh(new), new]


def gru(
    a: FromInputs,
    g: FromHidden,
    states: States,
    weights: Weights,
    gate: Function = sigmoid,
    candidate: Function = np.tanh,
) -> States:
    """Return h' of a GRU that resets after the product."""
    r, z = gate(a(0) + g(0)), gate(a(1) + g(1))
    return [(1 - z) * candidate(a(2) + r * g(2)) + z * states[0]]


def gru_reset_before(
    a: FromInputs,
    g: FromHidden,
    states: States,
    weights: Weights,
    gate: Function = sigmoid,
    candidate: Function = np.tanh,
) -> States:
    """Return h' of a GRU that resets before the product."""
    r, z = gate(a(0) + g(0)), gate(a(1) + g(1))
    return [(1 - z) * candidate(a(2) + g(2, r * states[0])) + z * states[0]]


def rnn(activation: Function) -> Equation:
    """Return the equation of a simple recurrent cell."""
    return lambda a, g, states, weights: [activation(a(0) + g(0))]


#: The equations by mode. Gates stand in a packed weight as i, f, c, o of the LSTM (Hochreiter and Schmidhuber, 1997;
#: with a projection Sak et al., 2014; with peepholes i, f, o Gers and Schmidhuber, 2000), and as r, z, o of the GRU
#: (as in cuDNN; resetting before the product as in Cho et al., 2014).
EQUATIONS: Mapping[str, Equation] = {
    "lstm": lstm,
    "lstmp": lstmp,
    "peephole": peephole,
    "gru": gru,
    "gru_reset_before": gru_reset_before,
    **{f"rnn_{name}": rnn(function) for name, function in ACTIVATIONS.items()},
}

#: How many gates the weights of a mode hold.
GATES: Mapping[str, int] = {
    **dict.fromkeys(EQUATIONS, 1),
    **dict.fromkeys(("lstm", "lstmp", "peephole"), 4),
    **dict.fromkeys(("gru", "gru_reset_before"), 3),
}

#: The modes that have a second state, c.
WITH_C = ("lstm", "lstmp", "peephole")

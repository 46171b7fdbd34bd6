"""The diagnosis of failures: backends with one mistake each, run on rnnx's own cells, and what is said of them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import networks
import rnnx
from networks import RAGGED, leaves, plain, sequential
from rnnx.conformance.diagnosis import Problem, explain, hint
from rnnx.conformance.gradient_diagnosis import FoundGradients, explain_gradients

BATCH, STEPS, WIDTH, HIDDEN = 4, 5, 3, 6

Arrays = dict[str, np.ndarray]


def trees() -> dict[str, Callable[[], rnnx.BaseRNNCell]]:
    """The trees, by name."""
    return {
        **{mode: lambda mode=mode: plain(mode, HIDDEN) for mode in networks.PLAIN_MODES},
        "lstmp": lambda: rnnx.LSTMPCell(HIDDEN, 2, "cell_"),
        "square lstm": lambda: plain("lstm", WIDTH),
        "both lstms": lambda: rnnx.BidirectionalCell(plain("lstm", HIDDEN, "l_"), plain("lstm", HIDDEN, "r_")),
        "stack of lstms": lambda: sequential(*(plain("lstm", HIDDEN, f"{name}_") for name in "ab")),
        "residual": lambda: sequential(plain("gru", 4, "a_"), rnnx.ResidualCell(plain("gru", 4, "b_"))),
        "dropout": lambda: sequential(plain("gru", HIDDEN), rnnx.DropoutCell(0.5)),
        "fused lstm": lambda: rnnx.FusedRNNCell(4, 2, "lstm", True, get_next_state=True, prefix="f_"),
        "fused gru without states": lambda: rnnx.FusedRNNCell(4, 2, "gru", prefix="f_"),
    }


@dataclasses.dataclass(frozen=True)
class Run:
    """A tree with its weights, and what it is run on."""

    spec: rnnx.CellSpec
    weights: Arrays
    inputs: np.ndarray
    begin: list[np.ndarray]
    lengths: tuple[int, ...] | None = RAGGED

    def results(self, **changed: Any) -> list[np.ndarray]:
        """Outputs and final states that rnnx on NumPy gives, with some of this replaced."""
        run = dataclasses.replace(self, **changed)
        cell = rnnx.BaseRNNCell.from_spec(run.spec)
        cell.load_params(run.weights)
        outputs, states = cell.unroll(None, run.inputs, run.begin, merge_outputs=True, valid_length=run.lengths)
        return [outputs, *leaves(states)]

    def problem(self, outputs: np.ndarray, *states: np.ndarray, **more: Any) -> Problem:
        given = Problem(
            self.spec.to_dict(),
            self.weights,
            self.inputs,
            outputs,
            states,
            self.begin,
            self.lengths,
            kernels=("x.lstm",),
        )
        return dataclasses.replace(given, **more)

    def of_one(self, prefix: str, **changed: Any) -> list[np.ndarray]:
        """The results of one of the tree's cells alone."""
        spec = next(each for each in self.spec.walk() if each.fields.get("prefix") == prefix)
        weights = {name: array for name, array in self.weights.items() if name.startswith(prefix)}
        begin = self.begin[:2] if prefix in ("l_", "a_") else self.begin[2:]
        return dataclasses.replace(self, spec=spec, weights=weights, begin=begin).results(**changed)


def run_of(name: str, lengths: tuple[int, ...] | None = RAGGED) -> Run:
    cell = networks.randomized(trees()[name](), WIDTH, scale=0.8)
    rng = np.random.default_rng(3)
    begin = [rng.uniform(-1, 1, [size or BATCH for size in shape]) for shape in cell.state_shape]
    return Run(cell.spec, cell.get_params(), rng.normal(size=(BATCH, STEPS, WIDTH)), begin, lengths)


# -- mistakes --------------------------------------------------------------------------------------------------------


def reweighted(change: Callable[[str, np.ndarray], np.ndarray]) -> Callable[[Run], list[np.ndarray]]:
    """A backend that makes something else of every weight."""
    return lambda run: run.results(weights={name: change(name, array) for name, array in run.weights.items()})


def regated(*order: int, side: str = "") -> Callable[[Run], list[np.ndarray]]:
    def change(name, array):
        gates = np.split(array, len(order))
        return np.concatenate([gates[place] for place in order]) if f"{side}" in name else array

    return reweighted(change)


def scaled(ending: str, factor: float, gate: int = 0, gates: int = 1) -> Callable[[Run], list[np.ndarray]]:
    def change(name, array):
        array = array.copy()
        if name.endswith(ending):
            np.split(array, gates)[gate][...] *= factor
        return array

    return reweighted(change)


def plus_one(name: str, array: np.ndarray) -> np.ndarray:
    return array + np.repeat([0, 1, 0, 0], HIDDEN) if name.endswith("i2h_bias") else array


def squarely_transposed(name: str, array: np.ndarray) -> np.ndarray:
    if not name.endswith("h2h_weight"):
        return array
    return np.concatenate([block.T for block in np.split(array, len(array) // array.shape[1])])


def in_fused(change: Callable[[Arrays], None]) -> Callable[[Run], list[np.ndarray]]:
    def mistaken(run):
        cell = rnnx.BaseRNNCell.from_spec(run.spec)
        unpacked = cell.unpack_weights(run.weights)
        change(unpacked)
        return run.results(weights=cell.pack_weights(unpacked))

    return mistaken


def exchange(one: str, other: str) -> Callable[[Arrays], None]:
    """Exchange one layer's gates."""

    def change(weights):
        for name in [name for name in weights if one in name]:
            twin = name.replace(one, other)
            weights[name], weights[twin] = weights[twin], weights[name]

    return change


def respelled(**fields: Any) -> Callable[[Run], list[np.ndarray]]:
    return lambda run: run.results(spec=rnnx.CellSpec(run.spec.kind, {**run.spec.fields, **fields}))


def with_zeros(*places: int) -> Callable[[Run], list[np.ndarray]]:
    return lambda run: run.results(begin=[state * (place not in places) for place, state in enumerate(run.begin)])


def reverse_as(
    read: Callable[..., Any], write: Callable[..., Any], **changed: Any
) -> Callable[[Run], list[np.ndarray]]:
    """Two directions of which the second reads and writes in another way."""

    def mistaken(run):
        ahead, back = run.of_one("l_"), run.of_one("r_", inputs=read(masked(run, run.inputs), run), **changed)
        outputs = np.concatenate([ahead[0], masked(run, write(back[0], run))], 2)
        return [outputs, *ahead[1:], *back[1:]]

    return mistaken


def masked(run: Run, rows: np.ndarray) -> np.ndarray:
    return rows * (np.arange(STEPS) < np.array(run.lengths)[:, None])[..., None]


def kept(rows, run):
    return rows


def flipped(rows, run):
    return rows[:, ::-1]


def turned(rows, run):
    result = rows.copy()
    for row, length in enumerate(run.lengths):
        result[row, :length] = rows[row, :length][::-1]
    return result


def exchanged_halves(run: Run) -> list[np.ndarray]:
    outputs, *states = run.results()
    return [np.roll(outputs, HIDDEN, 2), *states]


def padded(run: Run) -> list[np.ndarray]:
    """Outputs past the lengths repeat the last one."""
    outputs, *states = run.results()
    for row, length in enumerate(run.lengths):
        outputs[row, length:] = states[0][row]
    return [outputs, *states]


def of_last_step(run: Run) -> list[np.ndarray]:
    outputs, _, *_ = run.results()
    return [outputs, *run.results(lengths=None)[1:]]


def dropped(run: Run) -> list[np.ndarray]:
    outputs, *states = run.results()
    return [outputs * np.random.default_rng(0).integers(0, 2, outputs.shape) * 2.0, *states]


def reordered(*order: int) -> Callable[[Run], list[np.ndarray]]:
    def mistaken(run):
        outputs, *states = run.results()
        return [outputs, *(states[place] for place in order)]

    return mistaken


def residual_as(factor: int) -> Callable[[Run], list[np.ndarray]]:
    """The inputs of the upper cell added so many times."""

    def mistaken(run):
        outputs, *states = run.results()
        weights = {name: array for name, array in run.weights.items() if name.startswith("a_")}
        below = dataclasses.replace(run, spec=run.spec.children[0], weights=weights, begin=run.begin[:1]).results()[0]
        return [outputs + (factor - 1) * below, *states]

    return mistaken


def as_16_bits(run: Run) -> list[np.ndarray]:
    return [array.astype(np.float16).astype(np.float64) for array in run.results()]


#: A tree, what a backend does with it, and what is said of that.
MISTAKES: dict[str, tuple[str, Callable[[Run], list[np.ndarray]], str]] = {
    "i and f": ("lstm", regated(1, 0, 2, 3), "lstm: gates i and f look exchanged"),
    "c and o": ("lstm", regated(0, 1, 3, 2), "lstm: gates c and o look exchanged"),
    "i and o in h2h": ("lstm", regated(3, 1, 2, 0, side="h2h"), "lstm: gates i and o look exchanged in h2h"),
    "cyclic": ("lstm", regated(1, 2, 3, 0), "lstm: gates look to be read as f, c, o, i, not i, f, c, o"),
    "as onnx": ("lstm", regated(0, 3, 1, 2), "lstm: gates look to be read as i, o, f, c, not i, f, c, o"),
    "r and z": ("gru", regated(1, 0, 2), "gru: gates r and z look exchanged"),
    "z and o": ("gru_reset_before", regated(0, 2, 1), "gru_reset_before: gates z and o look exchanged"),
    "no i2h bias": ("lstm", scaled("i2h_bias", 0), "lstm: the i2h bias looks left out"),
    "no h2h bias": ("gru", scaled("h2h_bias", 0), "gru: the h2h bias looks left out"),
    "no bias": ("rnn_tanh", scaled("_bias", 0), "rnn_tanh: both biases look left out"),
    "twice i2h bias": ("lstm", scaled("i2h_bias", 2), "lstm: the i2h bias looks added twice"),
    "twice the bias": ("rnn_relu", scaled("_bias", 2), "rnn_relu: both biases look added twice"),
    "no bias of f": ("lstm", scaled("h2h_bias", 0, 1, 4), "lstm: the h2h bias of gate f looks left out"),
    "twice that of z": ("gru", scaled("i2h_bias", 2, 1, 3), "gru: the i2h bias of gate z looks added twice"),
    "forget bias": ("lstm", reweighted(plus_one), "lstm: 1 looks added to gate f"),
    "1 - z": ("gru", scaled("", -1, 1, 3), "gru: z and 1 - z look exchanged"),
    "reset before": (
        "gru",
        respelled(reset_after=False),
        "the GRU looks to reset before the product, and should after",
    ),
    "reset after": (
        "gru_reset_before",
        respelled(reset_after=True),
        "the GRU looks to reset after the product, and sh",
    ),
    "relu": ("rnn_tanh", respelled(activation="relu"), "the activation looks to be relu"),
    "tanh": ("rnn_softsign", respelled(activation="tanh"), "the activation looks to be tanh"),
    "sigmoid": ("rnn_relu", respelled(activation="sigmoid"), "the activation looks to be sigmoid"),
    "transposed": ("gru", reweighted(squarely_transposed), "gru: gate matrices look transposed in h2h"),
    "transposed rnn": ("rnn_tanh", reweighted(squarely_transposed), "rnn_tanh: gate matrices look transposed in h2h"),
    "no h2h": ("lstm", scaled("h2h_weight", 0), "lstm: h2h_weight looks ignored"),
    "no hidden state": (
        "gru",
        reweighted(lambda name, w: w * ("h2h" not in name)),
        "gru: the hidden state and h2h look",
    ),
    "no initial states": ("lstm", with_zeros(0, 1), "the initial states look ignored"),
    "no initial h": ("lstm", with_zeros(0), "the initial h looks ignored"),
    "no initial c": ("stack of lstms", with_zeros(1, 3), "the initial c looks ignored"),
    "no initial c above": ("stack of lstms", with_zeros(3), "the initial c of 'b_' looks ignored"),
    "layers' begin": (
        "stack of lstms",
        lambda run: run.results(begin=[*run.begin[2:], *run.begin[:2]]),
        "another order: 'a_' and 'b_' exchanged in the initial states",
    ),
    "h and c begin": (
        "lstm",
        lambda run: run.results(begin=run.begin[::-1]),
        "h and c look exchanged in the initial states",
    ),
    "h and c": ("lstm", reordered(1, 0), "h and c look exchanged in the final states"),
    "layers' states": (
        "stack of lstms",
        reordered(2, 3, 0, 1),
        "final states look to be in another order: 'a_' and 'b_'",
    ),
    "initial given back": (
        "lstm",
        lambda run: [run.results()[0], *run.begin],
        "the final states look to be the initial",
    ),
    "not reversed": ("both lstms", reverse_as(kept, kept), "the reverse direction looks to run forward"),
    "not turned back": ("both lstms", reverse_as(turned, kept), "the reverse direction's outputs look not turned back"),
    "over padding": (
        "both lstms",
        reverse_as(flipped, flipped, lengths=None),
        "the reverse direction looks reversed as a whole, and runs over padding",
    ),
    "directions' outputs": ("both lstms", exchanged_halves, "the two directions look exchanged in the outputs"),
    "directions' finals": ("both lstms", reordered(2, 3, 0, 1), "'l_' and 'r_' exchanged"),
    "directions' begin": (
        "both lstms",
        lambda run: run.results(begin=[*run.begin[2:], *run.begin[:2]]),
        "'l_' and 'r_' exchanged in the initial states",
    ),
    "directions' weights": (
        "both lstms",
        lambda run: run.results(
            weights={name: run.weights[{"l": "r", "r": "l"}[name[0]] + name[1:]] for name in run.weights}
        ),
        "the two directions' weights look exchanged",
    ),
    "padding": ("gru", padded, "outputs past a row's valid length are not zero"),
    "last step": ("lstm", of_last_step, "final states look to be those of the last padded step"),
    "lengths": ("gru", lambda run: run.results(lengths=None), "valid lengths look ignored"),
    "no residual": ("residual", residual_as(0), "the residual's inputs look not added"),
    "two residuals": ("residual", residual_as(2), "the residual's inputs look added twice"),
    "dropout": ("dropout", dropped, "dropout looks to act outside training: some outputs are zero, all others 2 times"),
    "late": (
        "rnn_tanh",
        lambda run: [np.concatenate([np.zeros((BATCH, 1, HIDDEN)), run.results()[0][:, :-1]], 1), run.results()[1]],
        "the outputs look late by one step",
    ),
    "lower precision": ("lstm", as_16_bits, r"the differences are of the size of float16 \(or TF32\)'s rounding"),
    "gates of a fused cell": (
        "fused lstm",
        in_fused(exchange("_i_", "_f_")),
        "lstm: gates i and f look exchanged",
    ),
    "gates of one layer": (
        "fused lstm",
        in_fused(exchange("f_r1_i2h_i_", "f_r1_i2h_f_")),
        r"lstm: gates i and f look exchanged in i2h \('f_r1_' alone\)",
    ),
    "gru of a fused cell": (
        "fused gru without states",
        in_fused(exchange("_r_", "_z_")),
        "gru: gates r and z look exchanged",
    ),
    "layer and direction": (
        "fused lstm",
        lambda run: run.results(begin=[state[[0, 2, 1, 3]] for state in run.begin]),
        "another order: 'f_r0_' and 'f_l1_' exchanged in the initial states",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(name):
    tree, mistaken, expected = MISTAKES[name]
    lengths = None if name == "late" else RAGGED
    run = run_of(tree, lengths)
    problem = run.problem(*mistaken(run))
    assert re.search(expected, str(hint(problem))), hint(problem)
    assert re.search(expected, explain(problem))


@pytest.mark.parametrize("output", ["c", "candidate", "gate"])
def test_wrong_functions_in_an_lstm_are_named(output):
    run = run_of("lstm", None)
    weights = {name.removeprefix("cell_"): array for name, array in run.weights.items()}
    h, c = run.begin
    outputs = []

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    for x in run.inputs.swapaxes(0, 1):
        gates = x @ weights["i2h_weight"].T + weights["i2h_bias"] + h @ weights["h2h_weight"].T + weights["h2h_bias"]
        i, f, g, o = np.split(gates, 4, 1)
        if output == "gate":
            i, f, o = (np.clip(0.2 * each + 0.5, 0, 1) for each in (i, f, o))
        else:
            i, f, o = sigmoid(i), sigmoid(f), sigmoid(o)
        c = f * c + i * (sigmoid(g) if output == "candidate" else np.tanh(g))
        h = o * (c if output == "c" else np.tanh(c))
        outputs.append(h)
    said = {
        "c": "lstm: h' looks to be made of c' without tanh",
        "candidate": "lstm: the candidate looks to go through sigmoid in place of tanh",
        "gate": "lstm: the gates look to go through a hard sigmoid, 0.2 x + 0.5",
    }
    assert hint(run.problem(np.stack(outputs, 1), h, c)) == said[output]


def test_a_bias_outside_the_reset_gate_is_named():
    run = run_of("gru")
    candidate = np.repeat([0, 0, 1], HIDDEN)
    moved = run.weights["cell_h2h_bias"] * candidate
    weights = run.weights | {
        "cell_i2h_bias": run.weights["cell_i2h_bias"] + moved,
        "cell_h2h_bias": run.weights["cell_h2h_bias"] - moved,
    }
    expected = "gru: the candidate's h2h bias looks to be added outside the reset gate"
    assert hint(run.problem(*run.results(weights=weights))) == expected


# -- the report ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", trees())
def test_what_is_right_is_not_complained_of(name):
    run = run_of(name)
    said = explain(run.problem(*run.results(), tolerance=1e-12))
    assert said.endswith("nothing differs by more than 1e-12")


@pytest.mark.parametrize("error", [0.25, 1e-3])
@pytest.mark.parametrize("name", ["lstm", "fused lstm", "residual"])
def test_what_no_mistake_explains_has_no_hint(name, error):
    run = run_of(name)
    outputs, *states = run.results()
    outputs[0, 1, 2] += error
    problem = run.problem(outputs, *states)
    assert hint(problem) is None
    assert re.search(r"hint +None", explain(problem))


def test_what_is_merely_within_a_coarse_tolerance_is_no_hint():
    run = run_of("lstm")
    outputs, *states = run.results(weights={name: 0.1 * array for name, array in run.weights.items()})
    run = dataclasses.replace(run, weights={name: 0.1 * array for name, array in run.weights.items()})
    outputs[0, 1, 2] += 0.102
    assert hint(run.problem(outputs, *states, tolerance=0.1)) is None


def test_a_report_says_where_and_how_much():
    run = run_of("both lstms")
    outputs, *states = run.results()
    expected = outputs[2, 4, HIDDEN + 1]
    outputs[2, 4, HIDDEN + 1] += 0.25
    outputs[0, 1, 3] += 0.5
    lines = dict(re.findall(r"^  (\S.*?)  +(.*)$", explain(run.problem(outputs, *states, dtype="float64")), re.M))
    assert lines["array"] == f"outputs (N, T, H), float64 ({BATCH}, {STEPS}, {2 * HIDDEN})"
    # The last step of the longest row is the first that the reverse direction runs.
    assert lines["first difference"] == f"step t=4, row n=2, unit h={HIDDEN + 1}"
    assert float(lines["expected"]) == pytest.approx(expected, rel=1e-8)
    assert float(lines["found"]) == pytest.approx(expected + 0.25, rel=1e-8)
    assert lines["largest difference"] == "0.5 at step t=1, row n=0, unit h=3; 1e-05 passes"
    assert lines["differing"] == f"2 of {outputs.size} numbers"
    assert lines["final states"] == "4 given, none wrong"


def test_a_report_names_cells_kernels_and_states():
    run = run_of("stack of lstms")
    outputs, *states = run.results()
    states[3][1, 2] += 0.1
    said = explain(run.problem(outputs, *states))
    assert said.startswith("SequentialRNNCell of LSTMCell 'a_', LSTMCell 'b_' run by x.lstm\n")
    assert "final c of 'b_' (N, H), float32 (4, 6)" in said
    assert re.search(r"final states +wrong: final c of 'b_'", said)
    assert re.search(r"first difference +row n=1, unit h=2", said)


def test_a_wrong_shape_and_what_is_not_finite_are_reported():
    run = run_of("lstm")
    outputs, *states = run.results()
    said = explain(run.problem(outputs.swapaxes(0, 1), *states))
    assert re.search(r"expected +the shape \(4, 5, 6\)", said)
    assert "the outputs' axes N and T look exchanged" in said
    outputs[0, 2, 3] = np.nan
    said = explain(run.problem(outputs, *states))
    assert re.search(r"found +nan", said)
    assert "step t=2, row n=0, unit h=3" in said
    assert "largest difference  inf" in said


@pytest.mark.parametrize(
    ("name", "wrong", "shapes"),
    [
        ("lstm", lambda states: states[:1], "[(4, 6), (4, 6)]"),
        ("fused lstm", lambda states: [state[:3] for state in states], "[(4, 4, 4), (4, 4, 4)]"),
        ("fused gru without states", lambda states: [np.zeros((2, 4, 4))], "[]"),
    ],
)
def test_states_of_other_shapes_or_number_are_reported(name, wrong, shapes):
    run = run_of(name)
    outputs, *states = run.results()
    said = explain(run.problem(outputs, *wrong(states)))
    assert f"expected  the shapes {shapes}" in said


# -- gradients -------------------------------------------------------------------------------------------------------


def gradients_of(run: Run) -> FoundGradients:
    """The right gradients, as rnnx on NumPy has them."""
    cell = rnnx.BaseRNNCell.from_spec(run.spec)
    cell.load_params(run.weights)
    outputs, states, pullback = cell.vjp(None, run.inputs, run.begin, merge_outputs=True, valid_length=run.lengths)
    rng = np.random.default_rng(8)
    cotangents = [rng.normal(size=array.shape) for array in (outputs, *leaves(states))]
    found = pullback(cotangents[0], nested(states, cotangents[1:]))
    return FoundGradients(cotangents[0], cotangents[1:], found.weights, found.inputs, found.begin_state)


def nested(states: Any, flat: list[np.ndarray]) -> Any:
    """Flat arrays in the nesting of states."""
    left = iter(flat)

    def of(each):
        return [of(part) for part in each] if isinstance(each, list) else next(left)

    return of(states)


def said_of(run: Run, change: Callable[[Arrays], None] = lambda weights: None, **changed: Any) -> str:
    right = gradients_of(run)
    weights = {name: array.copy() for name, array in right.weights.items()}
    change(weights)
    found = dataclasses.replace(right, **{"weights": weights, **changed})
    return explain_gradients(run.problem(*run.results(), tolerance=1e-10, dtype="float64"), found)


@pytest.mark.parametrize("name", ["lstm", "gru_reset_before", "lstmp", "both lstms", "fused lstm", "residual"])
def test_right_gradients_are_not_complained_of(name):
    assert said_of(run_of(name)).endswith("no gradient differs by more than 1e-10")


def scale(name: str, factor: float, gate: int = 0, gates: int = 1) -> Callable[[Arrays], None]:
    def change(weights):
        np.split(weights[name], gates)[gate][...] *= factor

    return change


def replace(name: str, make: Callable[[Arrays], np.ndarray]) -> Callable[[Arrays], None]:
    return lambda weights: weights.update({name: make(weights)})


@pytest.mark.parametrize(
    ("tree", "change", "gradient", "gates", "hint"),
    [
        ("lstm", scale("cell_h2h_bias", 0), "cell_h2h_bias", "i, f, c, o", "it looks missing: zeros"),
        ("lstm", scale("cell_i2h_weight", 2), "cell_i2h_weight", "i, f, c, o", "it looks doubled"),
        ("lstm", scale("cell_i2h_weight", 0, 1, 4), "cell_i2h_weight", "f", "that of gate f looks missing: zeros"),
        ("gru", scale("cell_h2h_weight", 2, 2, 3), "cell_h2h_weight", "o", "that of gate o looks doubled"),
        ("gru", scale("cell_h2h_weight", 0.25), "cell_h2h_weight", "r, z, o", "it looks averaged over rows"),
        (
            "gru",
            replace("cell_h2h_bias", lambda weights: weights["cell_i2h_bias"]),
            "cell_h2h_bias",
            "o",
            "it looks to be that of cell_i2h_bias",
        ),
        (
            "lstm",
            replace("cell_i2h_bias", lambda weights: weights["cell_i2h_bias"].reshape(4, -1)[[1, 0, 2, 3]].ravel()),
            "cell_i2h_bias",
            "i, f",
            "its gates look to be in the order f, i, c, o",
        ),
        (
            "gru",
            replace("cell_h2h_weight", lambda weights: squarely_transposed("h2h_weight", weights["cell_h2h_weight"])),
            "cell_h2h_weight",
            "r, z, o",
            "its gate matrices look transposed",
        ),
        (
            "fused lstm",
            lambda weights: weights["f_parameters"][-16:].__imul__(2),
            "f_r1_h2h_bias",
            "i, f, c, o",
            "it looks doubled",
        ),
    ],
)
def test_a_wrong_gradient_is_named(tree, change, gradient, gates, hint):
    said = said_of(run_of(tree), change)
    lines = dict(re.findall(r"^  (\S.*?)  +(.*)$", said, re.M))
    assert lines["gradient"].startswith(f"of {gradient}, float64 ")
    assert (lines["gates"], lines["hint"], lines["differing"]) == (gates, hint, gradient)


def test_gradients_of_inputs_and_initial_states():
    run = run_of("both lstms")
    right = gradients_of(run)
    said = said_of(run, inputs=right.inputs * 2, begin=[right.begin[0], right.begin[1] * 0, *right.begin[2:]])
    assert "gradient            of the inputs, float64 (4, 5, 3)" in said
    assert "hint                it looks doubled" in said
    assert "differing           the inputs, initial c of 'l_'" in said


def test_gradients_of_the_outputs_alone():
    run = run_of("lstm")
    right = gradients_of(run)
    cell = rnnx.BaseRNNCell.from_spec(run.spec)
    cell.load_params(run.weights)
    pullback = cell.vjp(None, run.inputs, run.begin, merge_outputs=True, valid_length=run.lengths)[2]
    alone = pullback(right.of_outputs)
    said = said_of(run, weights=alone.weights, inputs=alone.inputs, begin=alone.begin_state)
    assert "the final states look to add nothing to it" in said


def test_a_gradient_of_another_shape_and_one_that_is_not_finite():
    run = run_of("lstm")
    said = said_of(run, replace("cell_i2h_bias", lambda weights: weights["cell_i2h_bias"][:4]))
    assert re.search(r"expected +the shape \(24,\)", said)
    said = said_of(run, replace("cell_i2h_bias", lambda weights: weights["cell_i2h_bias"] * np.nan))
    assert re.search(r"found +nan", said)
    assert re.search(r"hint +None", said)

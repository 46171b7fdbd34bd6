"""Mistakes that backends make, each tried on the reference: what comes of it is compared with what was found.

A mistake is a function of what was found, what is right and the setting. It yields pairs: what there seems to be, in
words, and the outcome that it would have. `WRONG_RESULTS` are those that change a right outcome, `WRONG_NETWORKS` those
that run the reference in another way; those of weights are in `rnnx.conformance.wrong_weights`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from rnnx.conformance import reference
from rnnx.conformance.equations import ACTIVATIONS, EQUATIONS, WITH_C, Array, Equation, States, Weights, relu, sigmoid
from rnnx.conformance.reference import Network, Spec, bidirectional, turned, within
from rnnx.conformance.unfusing import Outcome, Setting, labels_of, leaves, valid, with_leaves

__all__ = ["WRONG_NETWORKS", "WRONG_RESULTS", "Found", "Mistake"]

Found = Iterator[tuple[str, Outcome]]
Mistake = Callable[[Outcome, Outcome, Setting], Found]


# -- results ----------------------------------------------------------------------------------------------------------


def padding_not_zero(found: Outcome, right: Outcome, setting: Setting) -> Found:
    """Outputs past the rows' lengths hold something."""
    if found.outputs.shape == right.outputs.shape:
        outputs = np.where(valid(setting), right.outputs, found.outputs)
        yield "outputs past a row's valid length are not zero", dataclasses.replace(right, outputs=outputs)


def states_of_padding(found: Outcome, right: Outcome, setting: Setting) -> Found:
    """The final states are those of the last step there is, and not of the last that counts."""
    for inputs in _with_padding(setting):
        ran = dataclasses.replace(setting, inputs=inputs, lengths=None).run()
        yield "final states look to be those of the last padded step", Outcome(right.outputs, ran.states)


def h_and_c_exchanged(found: Outcome, right: Outcome, setting: Setting) -> Found:
    """A cell gives c for h and h for c."""
    order = _h_and_c(setting.spec)
    if order != sorted(order):
        yield "h and c look exchanged in the final states", _reordered(right, order)


def layers_states_exchanged(found: Outcome, right: Outcome, setting: Setting) -> Found:
    """The final states of layers or directions are in another order."""
    for text, order in _orders_of_cells(setting.spec):
        yield f"final states look to be in another order: {text}", _reordered(right, order)


def outputs_in_another_order(found: Outcome, right: Outcome, setting: Setting) -> Found:
    """The outputs' axes, steps or halves are in another order."""
    outputs, width = right.outputs, right.outputs.shape[2]
    reordered = {
        "the outputs' axes N and T look exchanged": outputs.swapaxes(0, 1),
        "the outputs look reversed in time": outputs[:, ::-1],
        "the outputs look reversed in time, each row within its length": turned(outputs, _counts(setting)),
        "the two directions look exchanged in the outputs": np.roll(outputs, width // 2, 2),
        "the outputs look late by one step": np.concatenate([np.zeros_like(outputs[:, :1]), outputs[:, :-1]], 1),
    }
    for text, wrong in reordered.items():
        if "directions" not in text or width % 2 == 0:
            yield text, dataclasses.replace(right, outputs=wrong)


def outputs_scaled(found: Outcome, right: Outcome, setting: Setting) -> Found:
    """Dropout acts outside training, or all outputs are larger by one factor."""
    alike = found.outputs.shape == right.outputs.shape
    counted = (found.outputs != 0) & (np.abs(right.outputs) > 1e-3) if alike else np.zeros(0, bool)
    if counted.any():
        factor = float(np.median(found.outputs[counted] / right.outputs[counted]))
        scaled = factor * right.outputs
        if factor > 1:
            text = (
                f"dropout looks to act outside training: some outputs are zero, all others {factor:.4g} times as large"
            )
            yield text, dataclasses.replace(right, outputs=np.where(found.outputs == 0, 0, scaled))
        yield f"all outputs look to be {factor:.4g} times as large", dataclasses.replace(right, outputs=scaled)


def states_not_given_back(found: Outcome, right: Outcome, setting: Setting) -> Found:
    """The final states are the initial ones, or zero, of some rows at least."""
    begin = setting.starting()
    yield "the final states look to be the initial ones", Outcome(right.outputs, begin)
    yield "the final states look to be zeros", Outcome(right.outputs, tuple(np.zeros_like(state) for state in begin))
    counts = np.asarray(_counts(setting))
    if not counts.all():
        zeroed = tuple(None if s is None else np.where(counts[:, None] > 0, s, 0) for s in right.states)
        yield "the final states of rows without a valid step look to be zeros", Outcome(right.outputs, zeroed)


# -- networks ---------------------------------------------------------------------------------------------------------


def lengths_ignored(found: Outcome, right: Outcome, setting: Setting) -> Found:
    """Every row runs to the last step."""
    for inputs in _with_padding(setting):
        yield "valid lengths look ignored", dataclasses.replace(setting, inputs=inputs, lengths=None).run()


def initial_states_ignored(found: Outcome, right: Outcome, setting: Setting) -> Found:
    """Some initial states are taken for zeros, or those of h and c, or of layers, for one another."""
    if setting.begin is None:
        return
    names = [name for leaf in leaves(setting.spec) for name in _state_names(leaf)]
    for text, dropped in {"initial states look": "hc", "initial h looks": "h", "initial c looks": "c"}.items():
        begin = [np.zeros_like(s) if n in dropped else s for n, s in zip(names, setting.begin, strict=True)]
        yield f"the {text} ignored", dataclasses.replace(setting, begin=tuple(begin)).run()
    for place, label in enumerate(labels_of(setting.spec)):
        begin = [np.zeros_like(s) if place == other else s for other, s in enumerate(setting.begin)]
        yield f"the initial {label} looks ignored", dataclasses.replace(setting, begin=tuple(begin)).run()


def initial_states_exchanged(found: Outcome, right: Outcome, setting: Setting) -> Found:
    """The initial states are read in another order, and the final ones perhaps given so too."""
    if setting.begin is None:
        return
    orders = [("h and c look exchanged", _h_and_c(setting.spec))]
    orders += [(f"another order: {text}", order) for text, order in _orders_of_cells(setting.spec)]
    for text, order in orders:
        begin = tuple(setting.begin[place] for place in order)
        if order == sorted(order) or [s.shape for s in begin] != [s.shape for s in setting.begin]:
            continue
        outcome = dataclasses.replace(setting, begin=begin).run()
        yield f"{text} in the initial states", outcome
        yield f"{text} in the initial and final states", _reordered(outcome, order)


def directions_mistaken(found: Outcome, right: Outcome, setting: Setting) -> Found:
    """The reverse direction runs in another way, or the two are taken for each other."""
    if _has(setting.spec, "BidirectionalCell"):
        for text, make in _BIDIRECTIONAL.items():
            yield text, setting.with_parts(BidirectionalCell=make).run()


def residual_mistaken(found: Outcome, right: Outcome, setting: Setting) -> Found:
    """Inputs are not added, or twice."""
    if _has(setting.spec, "ResidualCell"):
        yield "the residual's inputs look not added", setting.with_parts(ResidualCell=lambda inner: inner).run()
        doubled = setting.with_parts(ResidualCell=lambda inner: reference.residual(reference.residual(inner)))
        yield "the residual's inputs look added twice", doubled.run()


def equation_mistaken(found: Outcome, right: Outcome, setting: Setting) -> Found:
    """The other GRU, another activation, or other functions of the gates."""
    for text, change in _SPELLINGS.items():
        spec = with_leaves(setting.spec, change)
        if spec != setting.spec:
            yield text, dataclasses.replace(setting, spec=spec).run()
    for mode in sorted({reference.mode_of(leaf) for leaf in leaves(setting.spec)} & _FUNCTIONS.keys()):
        for text, functions in _FUNCTIONS[mode].items():
            equation = functools.partial(EQUATIONS[mode], **functions)
            yield f"{mode}: {text}", setting.with_parts(cell=_cell_with(mode, equation)).run()


#: Those of the outcome alone, the likeliest first.
WRONG_RESULTS: tuple[Mistake, ...] = (
    padding_not_zero,
    states_of_padding,
    h_and_c_exchanged,
    layers_states_exchanged,
    outputs_in_another_order,
    states_not_given_back,
    outputs_scaled,
)

#: Those for which the reference is run in another way.
WRONG_NETWORKS: tuple[Mistake, ...] = (
    lengths_ignored,
    initial_states_ignored,
    initial_states_exchanged,
    directions_mistaken,
    residual_mistaken,
    equation_mistaken,
)


# -- what they are made of --------------------------------------------------------------------------------------------


def _bidirectional(
    read: Callable[..., Array], write: Callable[..., Array], all_steps: bool = False
) -> Callable[[Network, Network], Network]:
    """Return what makes two directions of which the second reads and writes otherwise, and over padding if told."""

    def make(forward: Network, backward: Network) -> Network:
        def network(inputs: Array, begin: Iterator[Array] | None, lengths: Sequence[int]) -> tuple[Array, States]:
            ahead, ahead_states = forward(inputs, begin, lengths)
            counts = [inputs.shape[1]] * len(lengths) if all_steps else lengths
            back, back_states = backward(read(within(inputs, lengths), lengths), begin, counts)
            return np.concatenate([ahead, within(write(back, lengths), lengths)], 2), ahead_states + back_states

        return network

    return make


def _kept(rows: Array, lengths: Sequence[int]) -> Array:
    return rows


def _flipped(rows: Array, lengths: Sequence[int]) -> Array:
    """Return the rows reversed in time as a whole, padding first."""
    return rows[:, ::-1]


def _sides(outputs: bool = False, begin: bool = False, finals: bool = False) -> Callable[[Network, Network], Network]:
    """Return what makes two directions whose outputs or states are taken for each other's."""

    def make(forward: Network, backward: Network) -> Network:
        def network(inputs: Array, states: Iterator[Array] | None, lengths: Sequence[int]) -> tuple[Array, States]:
            def back() -> tuple[Array, States]:
                found, after = backward(turned(inputs, lengths), states, lengths)
                return turned(found, lengths), after

            second = back() if begin else None  # the first to run takes the first of the states
            first = forward(inputs, states, lengths)
            second = second or back()
            halves = [second[0], first[0]] if outputs else [first[0], second[0]]
            after = second[1] + first[1] if finals else first[1] + second[1]
            return np.concatenate(halves, 2), after

        return network

    return make


_BIDIRECTIONAL: Mapping[str, Callable[[Network, Network], Network]] = {
    "the reverse direction looks to run forward": _bidirectional(_kept, _kept),
    "the reverse direction's outputs look not turned back": _bidirectional(turned, _kept),
    "the reverse direction looks reversed as a whole, and runs over padding": _bidirectional(_flipped, _flipped, True),
    "the reverse direction looks reversed as a whole, and reads padding first": _bidirectional(_flipped, _flipped),
    "the two directions look exchanged in every layer's outputs": _sides(outputs=True),
    "the two directions look exchanged in the initial states": _sides(begin=True),
    "the two directions look exchanged in the final states": _sides(finals=True),
    "the two directions look exchanged in the initial and final states": _sides(begin=True, finals=True),
    "the two directions' weights look exchanged": lambda forward, backward: bidirectional(backward, forward),
}


def _respelled(kind: str, **fields: object) -> Callable[[Spec], Spec]:
    return lambda leaf: {**leaf, **fields} if leaf["kind"] == kind else leaf


_SPELLINGS: Mapping[str, Callable[[Spec], Spec]] = {
    "the GRU looks to reset before the product, and should after it": _respelled("GRUCell", reset_after=False),
    "the GRU looks to reset after the product, and should before it": _respelled("GRUCell", reset_after=True),
    **{f"the activation looks to be {name}": _respelled("RNNCell", activation=name) for name in ACTIVATIONS},
}


def _hard_sigmoid(slope: float) -> Callable[[Array], Array]:
    return lambda x: np.clip(slope * x + 0.5, 0, 1)


_OF_GATES: Mapping[str, Mapping[str, Callable[[Array], Array]]] = {
    "the candidate looks to go through sigmoid in place of tanh": {"candidate": sigmoid},
    "the candidate looks to go through relu in place of tanh": {"candidate": relu},
    "the candidate looks to go through no tanh": {"candidate": lambda x: x},
    "the gates look to go through tanh in place of sigmoid": {"gate": np.tanh},
    "the gates look to go through a hard sigmoid, 0.2 x + 0.5": {"gate": _hard_sigmoid(0.2)},
    "the gates look to go through a hard sigmoid, x / 6 + 0.5": {"gate": _hard_sigmoid(1 / 6)},
}

_OF_C: Mapping[str, Mapping[str, Callable[[Array], Array]]] = {
    "h' looks to be made of c' without tanh": {"output": lambda x: x},
    "h' looks to be made of c' with relu in place of tanh": {"output": relu},
    "h' looks to be made of c' with sigmoid in place of tanh": {"output": sigmoid},
    "both tanh look to be relu": {"candidate": relu, "output": relu},
}

_FUNCTIONS: Mapping[str, Mapping[str, Mapping[str, Callable[[Array], Array]]]] = {
    "lstm": {**_OF_GATES, **_OF_C},
    "lstmp": {**_OF_GATES, **_OF_C},
    "gru": _OF_GATES,
    "gru_reset_before": _OF_GATES,
}


def _cell_with(mode: str, equation: Equation) -> Callable[[str, Weights], Network]:
    return lambda own, weights: reference.cell(own, weights, equation if own == mode else None)


def _has(spec: Spec, kind: str) -> bool:
    return spec["kind"] == kind or any(_has(child, kind) for child in spec.get("children", ()))


def _counts(setting: Setting) -> list[int]:
    return [int(count) for count in valid(setting).sum((1, 2))]


def _with_padding(setting: Setting) -> list[Array]:
    """Return the inputs with zeros for padding, and with what is there, if there is padding at all."""
    return [] if valid(setting).all() else [within(setting.inputs, _counts(setting)), setting.inputs]


def _state_names(leaf: Spec) -> tuple[str, ...]:
    return ("h", "c") if reference.mode_of(leaf) in WITH_C else ("h",)


def _places(spec: Spec) -> list[list[int]]:
    """Return the places of each cell's states."""
    count = itertools.count()
    return [[next(count) for _ in _state_names(leaf)] for leaf in leaves(spec)]


def _h_and_c(spec: Spec) -> list[int]:
    return [place for own in _places(spec) for place in reversed(own)]


def _orders_of_cells(spec: Spec) -> Iterator[tuple[str, list[int]]]:
    """Yield orders of the states: cells exchanged in pairs, and all forward ones before all backward ones."""
    places, names = _places(spec), [leaf["prefix"] for leaf in leaves(spec)]
    for one, other in itertools.combinations(range(len(places)), 2):
        if len(places[one]) == len(places[other]):
            order = list(places)
            order[one], order[other] = order[other], order[one]
            yield f"{names[one]!r} and {names[other]!r} exchanged", [place for own in order for place in own]
    if len(places) > 4 and len(places) % 2 == 0:
        yield "by direction first", [place for own in places[::2] + places[1::2] for place in own]


def _reordered(outcome: Outcome, order: Sequence[int]) -> Outcome:
    return Outcome(outcome.outputs, tuple(outcome.states[place] for place in order))

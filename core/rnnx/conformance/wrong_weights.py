"""Mistakes in reading weights: gates taken for one another, biases left out or added twice, matrices transposed."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from rnnx.conformance import reference
from rnnx.conformance.equations import Array
from rnnx.conformance.mistakes import Found
from rnnx.conformance.reference import Spec
from rnnx.conformance.unfusing import Outcome, Setting, leaves

__all__ = ["GATE_NAMES", "changes_of", "regated", "transposed", "weights_mistaken"]

#: Weights of one cell by their own names, which have no prefix.
Groups = Mapping[str, Array]
Change = Callable[[Groups], Groups]

#: Gates in the order in which they stand in a packed weight.
GATE_NAMES: Mapping[str, tuple[str, ...]] = {
    "lstm": ("i", "f", "c", "o"),
    "lstmp": ("i", "f", "c", "o"),
    "gru": ("r", "z", "o"),
    "gru_reset_before": ("r", "z", "o"),
}

#: What is said of one side of the weights, and of both.
SIDES: Mapping[str, tuple[str, ...]] = {"": ("i2h", "h2h"), " in i2h": ("i2h",), " in h2h": ("h2h",)}


def weights_mistaken(found: Outcome, right: Outcome, setting: Setting) -> Found:
    """Yield what comes of weights read wrongly: by every cell of a mode, then by each alone."""
    by_mode: dict[str, list[Spec]] = {}
    for leaf in leaves(setting.spec):
        by_mode.setdefault(reference.mode_of(leaf), []).append(leaf)
    for mode, cells in by_mode.items():
        several = [(f" ({cell['prefix']!r} alone)", [cell]) for cell in cells] if len(cells) > 1 else []
        for (where, chosen), (text, change) in itertools.product([("", cells), *several], changes_of(mode)):
            weights = dict(setting.weights)
            for cell in chosen:
                names = reference.names_of(cell)
                changed = change({own: setting.weights[full] for own, full in names.items()})
                weights.update({names[own]: array for own, array in changed.items()})
            yield f"{mode}: {text}{where}", dataclasses.replace(setting, weights=weights).run()


def changes_of(mode: str) -> Iterator[tuple[str, Change]]:
    """Yield what may be wrong with a cell's weights, in words, and what makes wrong ones of right ones."""
    for kind in (_orders, _biases, _of_one_gate, _matrices):
        yield from kind(GATE_NAMES.get(mode, ("",)))
    if mode == "gru":
        yield "the candidate's h2h bias looks to be added outside the reset gate", _bias_outside_reset


def regated(array: Array, order: Sequence[int]) -> Array:
    """Return a packed array with its gates in another order."""
    gates = np.split(array, len(order))
    return np.concatenate([gates[place] for place in order])


def transposed(matrix: Array, gates: int) -> Array:
    """Return a packed matrix with each gate's transposed where it is square, as it is otherwise."""
    blocks = np.split(matrix, gates)
    return np.concatenate([block.T for block in blocks]) if blocks[0].shape[0] == blocks[0].shape[1] else matrix


def _orders(names: Sequence[str]) -> Iterator[tuple[str, Change]]:
    """Yield every order of the gates: those of two exchanged first."""
    right = tuple(range(len(names)))
    orders = sorted(
        itertools.permutations(right), key=lambda order: sum(a != b for a, b in zip(order, right, strict=True))
    )
    for order in orders[1:]:
        moved = [names[place] for place in right if order[place] != place]
        text = f"gates {moved[0]} and {moved[1]} look exchanged"
        if len(moved) > 2:
            text = f"gates look to be read as {', '.join(names[place] for place in order)}, not {', '.join(names)}"
        for where, sides in SIDES.items():
            yield text + where, functools.partial(_regated, order=order, sides=sides)


def _regated(groups: Groups, order: Sequence[int], sides: Sequence[str]) -> Groups:
    return {name: regated(array, order) if name[:3] in sides else array for name, array in groups.items()}


def _biases(names: Sequence[str]) -> Iterator[tuple[str, Change]]:
    for sides in (("i2h",), ("h2h",), ("i2h", "h2h")):
        which = f"the {sides[0]} bias looks" if len(sides) == 1 else "both biases look"
        yield f"{which} left out", functools.partial(_scaled, factor=0, ending="_bias", sides=sides)
        yield f"{which} added twice", functools.partial(_scaled, factor=2, ending="_bias", sides=sides)
    for one, other in (("i2h", "h2h"), ("h2h", "i2h")):
        yield f"the {one} bias looks to stand in for the {other} bias", functools.partial(_copied, one=one, other=other)


def _of_one_gate(names: Sequence[str]) -> Iterator[tuple[str, Change]]:
    """Yield what may be wrong with one gate of several."""
    for gate, name in enumerate(names if len(names) > 1 else ()):
        for side in ("i2h", "h2h"):
            scaled = functools.partial(_scaled, ending="_bias", sides=(side,), gate=(gate, len(names)))
            yield f"the {side} bias of gate {name} looks left out", functools.partial(scaled, factor=0)
            yield f"the {side} bias of gate {name} looks added twice", functools.partial(scaled, factor=2)
    if "f" in names:
        yield "1 looks added to gate f: a forget bias that acts when the cell runs", _with_forget_bias
    if "z" in names:
        negated = functools.partial(_scaled, factor=-1, ending="", sides=("i2h", "h2h"), gate=(names.index("z"), 3))
        yield "z and 1 - z look exchanged", negated


def _matrices(names: Sequence[str]) -> Iterator[tuple[str, Change]]:
    for where, sides in list(SIDES.items())[::-1]:  # one side first: the other may not be square
        yield f"gate matrices look transposed{where}", functools.partial(_transposed, gates=len(names), sides=sides)
        yield f"matrices look read column by column{where}", functools.partial(_by_column, sides=sides)
    for side, read in {"i2h": "inputs", "h2h": "hidden state"}.items():
        yield f"the {read} and {side} look ignored", functools.partial(_scaled, factor=0, ending="", sides=(side,))
        yield f"{side}_weight looks ignored", functools.partial(_scaled, factor=0, ending="_weight", sides=(side,))


def _scaled(
    groups: Groups, factor: float, ending: str, sides: Sequence[str], gate: tuple[int, int] | None = None
) -> Groups:
    """Return the groups of some sides and of one ending times a factor; of one gate of so many alone."""
    changed = dict(groups)
    for name, array in groups.items():
        if name[:3] in sides and name.endswith(ending):
            place, count = gate or (0, 1)
            scale = np.ones(len(array))
            np.split(scale, count)[place][:] = factor
            changed[name] = (array.T * scale).T
    return changed


def _copied(groups: Groups, one: str, other: str) -> Groups:
    return {**groups, f"{other}_bias": groups[f"{one}_bias"]}


def _with_forget_bias(groups: Groups) -> Groups:
    forget = np.repeat([0.0, 1.0, 0.0, 0.0], len(groups["i2h_bias"]) // 4)
    return {**groups, "i2h_bias": groups["i2h_bias"] + forget}


def _bias_outside_reset(groups: Groups) -> Groups:
    candidate = np.repeat([0.0, 0.0, 1.0], len(groups["h2h_bias"]) // 3)
    moved = groups["h2h_bias"] * candidate
    return {**groups, "i2h_bias": groups["i2h_bias"] + moved, "h2h_bias": groups["h2h_bias"] - moved}


def _transposed(groups: Groups, gates: int, sides: Sequence[str]) -> Groups:
    changed = {f"{side}_weight": transposed(groups[f"{side}_weight"], gates) for side in sides}
    return {**groups, **changed}


def _by_column(groups: Groups, sides: Sequence[str]) -> Groups:
    """Return matrices as they are where columns are taken for rows."""
    matrices = {name: groups[name] for name in (f"{side}_weight" for side in sides)}
    return {**groups, **{name: array.reshape(array.shape[::-1]).T for name, array in matrices.items()}}

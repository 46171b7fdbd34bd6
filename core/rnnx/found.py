"""`Found`: a recurrent part that was found in a foreign file, and why it is taken for what it is said to be."""

from __future__ import annotations

import dataclasses
import itertools
import os.path
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from rnnx.cells import BaseRNNCell
from rnnx.errors import RNNXError, UnsupportedError, WeightFormatError, nearest
from rnnx.spec import CellSpec
from rnnx.weights.stored import Stored

__all__ = [
    "NOTHING",
    "Assumptions",
    "Found",
    "built",
    "joined",
    "layered",
    "leaf_prefixes",
    "name_of",
    "named",
    "natural",
    "renamed_apart",
    "stack_of",
]

#: Most layers of fused cells that are read from a file: far more than any has, and few enough to list their names.
MAX_LAYERS = 4096

#: A dataclass with a name.
Named = TypeVar("Named", bound=Any)

_NUMBER = re.compile(r"[0-9]{1,9}")

#: A name that numbers a layer.
_LAYER = re.compile(r"(?s)(.*(?:_l|layer_))([0-9]{1,9})")


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """What a user says that a file may not tell.

    Parameters
    ----------
    activation : str, optional
        Activation of the plain recurrent cells.
    forget_bias : float, optional
        What is added to the forget gates of TensorFlow 1's cells when they run, and stands in no checkpoint.
    """

    activation: str | None = None
    forget_bias: float | None = None

    def activation_of(self, part: str) -> str:
        """Return the activation of a part's plain cells.

        Raises
        ------
        WeightFormatError
            If the user did not say it.
        """
        if self.activation is None:
            raise WeightFormatError(
                f"part {part!r} is of plain recurrent cells, and weights do not tell their activation: give it as "
                "activation='tanh' or activation='relu', or the tree as cell="
            )
        return self.activation

    def forget_bias_of(self, part: str) -> float:
        """Return what a part's cells add to their forget gates when they run.

        Raises
        ------
        WeightFormatError
            If the user did not say it.
        """
        if self.forget_bias is None:
            raise WeightFormatError(
                f"part {part!r} is of TensorFlow 1's LSTM cells, which add a constant to the forget gate when they run "
                "and do not store it: give it as forget_bias=1.0 (their default) or forget_bias=0.0"
            )
        return self.forget_bias


#: Nothing is said.
NOTHING = Assumptions()


@dataclasses.dataclass(frozen=True)
class Found:
    """A recurrent part of a file.

    Parameters
    ----------
    name : str
        What a user selects the part by: the prefix that its cells have in common, such as ``"lstm_"``, or its place in
        a larger model, such as ``"encoder.lstm"``.
    spec : CellSpec
        The cell tree.
    evidence : tuple of str
        A sentence for each decision, naming what was seen.
    input_size : int
        The width of its inputs.
    output_size : int
        The width of its outputs.
    stored : tuple of Stored
        How the file's tensors are made of the tree's weights.
    """

    name: str
    spec: CellSpec
    evidence: tuple[str, ...]
    input_size: int
    output_size: int
    stored: tuple[Stored, ...]


def built(spec: CellSpec) -> BaseRNNCell:
    """Build a tree that a file describes; what no constructor takes is the file's fault."""
    layers = sum(node.fields.get("num_layers", 0) for node in spec.walk())
    if layers > MAX_LAYERS:
        raise WeightFormatError(f"the cell tree has {layers} layers, more than the {MAX_LAYERS} that are read")
    try:
        return BaseRNNCell.from_spec(spec)
    except UnsupportedError:
        raise
    except RNNXError as error:
        raise WeightFormatError(f"the cell tree cannot be built: {error}") from error


def stack_of(cells: Sequence[CellSpec]) -> CellSpec:
    """Return the cells, first to last, as one: a single cell is not wrapped."""
    return cells[0] if len(cells) == 1 else CellSpec("SequentialRNNCell", {}, tuple(cells))


def leaf_prefixes(spec: CellSpec) -> list[str]:
    """Return the prefixes of the cells with weights, in order."""
    return [cell.fields["prefix"] for cell in spec.walk() if "num_hidden" in cell.fields]


def name_of(spec: CellSpec) -> str:
    """Return what the prefixes of a tree have in common, up to an underscore if there is one; or else all of them."""
    prefixes = leaf_prefixes(spec)
    if len(set(prefixes)) == 1:
        return prefixes[0]
    common = os.path.commonprefix(prefixes)  # noqa: RUF071 - letter by letter is what is wanted of prefixes
    common = common[: common.rfind("_") + 1] or common
    return common or "+".join(dict.fromkeys(prefixes))


def renamed_apart(parts: Sequence[Named]) -> list[Named]:
    """Return the parts with a number behind every name that an earlier one has: ``"lstm_#2"``."""
    seen: Counter[str] = Counter()
    apart = []
    for part in parts:
        seen[part.name] += 1
        again = f"#{seen[part.name]}" if seen[part.name] > 1 else ""
        apart.append(dataclasses.replace(part, name=part.name + again))
    return apart


def named(parts: Sequence[Found], name: str) -> Found:
    """Return the part of that name.

    Raises
    ------
    WeightFormatError
        If there is none; the message lists those that there are.
    """
    for part in parts:
        if part.name == name:
            return part
    names = [part.name for part in parts]
    raise WeightFormatError(
        f"there is no recurrent part {name!r}{nearest(name, names)}; there are {', '.join(map(repr, names)) or 'none'}"
    )


def joined(parts: Sequence[Found]) -> list[Found]:
    """Return the parts in natural order of their names, those put together that only a stack explains.

    Parts make a stack where their names are the same but for a number that counts up, and each is as wide as the next
    one reads; or where that is so for all of them in one order only, that of their names.
    """
    groups: dict[tuple[str, ...], list[Found]] = {}
    for part in sorted(parts, key=lambda part: natural(part.name)):
        groups.setdefault(tuple(_NUMBER.split(part.name)), []).append(part)
    numbered: list[Found] = []
    for group in groups.values():
        if _count_up([part.name for part in group]) and _fit(group):
            numbered.append(_stacked(group, "their names count up, and each is as wide as the next one reads"))
        else:
            numbered += group
    return _joined_by_width(sorted(numbered, key=lambda part: natural(part.name)))


def layered(parts: Sequence[Found]) -> list[Found]:
    """Return the parts in natural order of their names, those put together whose names number the layers of a stack.

    Such names end in ``_l0``, ``_l1``, … or ``layer_0``, ``layer_1``, …; each has to be as wide as the next one reads.
    """
    stacks: dict[str, list[tuple[int, Found]]] = {}
    alone: list[Found] = []
    for part in sorted(parts, key=lambda part: natural(part.name)):
        numbered = _LAYER.fullmatch(part.name)
        if numbered:
            stacks.setdefault(numbered[1], []).append((int(numbered[2]), part))
        else:
            alone.append(part)
    for group in stacks.values():
        layers = [part for _, part in group]
        if len(group) > 1 and [number for number, _ in group] == list(range(len(group))) and _fit(layers):
            alone.append(_stacked(layers, "their names number its layers"))
        else:
            alone += layers
    return sorted(alone, key=lambda part: natural(part.name))


def natural(text: str) -> list[tuple[str, int]]:
    """Return a key that sorts numbers in names by what they count: ``l2_`` before ``l10_``."""
    words, numbers = _NUMBER.split(text), [int(number) for number in _NUMBER.findall(text)]
    return list(zip(words, [*numbers, -1], strict=True))


def _count_up(names: Sequence[str]) -> bool:
    columns = zip(*([int(number) for number in _NUMBER.findall(name)] for name in names), strict=True)
    counting = [column for column in columns if len(set(column)) > 1]
    return len(counting) == 1 and list(counting[0]) == list(range(counting[0][0], counting[0][0] + len(names)))


def _joined_by_width(parts: list[Found]) -> list[Found]:
    """Join all parts if each reads what the one before it makes, and what no other makes."""
    outputs = Counter(part.output_size for part in parts)
    makers = [outputs[part.input_size] - (part.output_size == part.input_size) for part in parts]
    if len(parts) < 2 or makers != [0] + [1] * (len(parts) - 1) or not _fit(parts):
        return parts
    return [_stacked(parts, "no other order fits their widths")]


def _fit(parts: Sequence[Found]) -> bool:
    return all(lower.output_size == upper.input_size for lower, upper in itertools.pairwise(parts))


def _stacked(parts: Sequence[Found], why: str) -> Found:
    spec = stack_of([cell for part in parts for cell in _flat(part.spec)])
    names = ", ".join(repr(part.name) for part in parts)
    return Found(
        name_of(spec),
        spec,
        (*itertools.chain.from_iterable(part.evidence for part in parts), f"{names} are a stack: {why}"),
        parts[0].input_size,
        parts[-1].output_size,
        tuple(itertools.chain.from_iterable(part.stored for part in parts)),
    )


def _flat(spec: CellSpec) -> Iterator[CellSpec]:
    yield from spec.children if spec.kind == "SequentialRNNCell" else (spec,)

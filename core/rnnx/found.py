"""`Found`: a recurrent part that was found in a foreign file, and why it is taken for what it is said to be."""

from __future__ import annotations

import dataclasses
import os.path
from collections.abc import Mapping, Sequence

from rnnx.spec import CellSpec

__all__ = ["Assumptions", "Found", "leaf_prefixes", "name_of", "renamed_apart", "stack_of"]


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """What a user says that a file may not tell.

    Parameters
    ----------
    activation : str, optional
        Activation of the plain recurrent cells.
    """

    activation: str | None = None


@dataclasses.dataclass(frozen=True)
class Found:
    """A recurrent part of a file.

    Parameters
    ----------
    name : str
        What a user selects the part by: the prefix that its cells have in common, such as ``"lstm_"``.
    spec : CellSpec
        The cell tree.
    evidence : tuple of str
        A sentence for each decision, naming what was seen.
    gate_order : mapping of str to tuple of str
        For each prefix of weights whose packed gates do not stand in the order of `rnnx.spec.GATES`: the suffixes of
        the gates in the order stored. It says nothing of weights stored gate by gate, whose names tell.
    renames : mapping of str to str
        Weights that are not called what the cell calls them: the name stored to the name wanted.
    """

    name: str
    spec: CellSpec
    evidence: tuple[str, ...]
    gate_order: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    renames: Mapping[str, str] = dataclasses.field(default_factory=dict)


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


def renamed_apart(parts: Sequence[Found]) -> list[Found]:
    """Return the parts with a number behind every name that an earlier one has: ``"lstm_#2"``."""
    seen: dict[str, int] = {}
    apart = []
    for part in parts:
        seen[part.name] = seen.get(part.name, 0) + 1
        again = f"#{seen[part.name]}" if seen[part.name] > 1 else ""
        apart.append(dataclasses.replace(part, name=part.name + again))
    return apart

"""What there is to say of a file and its recurrent parts, as plain dicts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rnnx.archive import Archive, Part
from rnnx.cells import BaseRNNCell, placement
from rnnx.plan import Plan

__all__ = ["Facts", "describe", "describe_arrays", "facts_of", "plan_of"]

Facts = dict[str, Any]


def describe(file: Path, archive: Archive) -> Facts:
    """Return all that a file holds but the numbers."""
    return {
        "file": str(file),
        "parts": [{"name": name, **_described(part)} for name, part in archive.parts.items()],
        "arrays": describe_arrays(archive.extra),
        "files": {name: len(data) for name, data in archive.files.items()},
        "notes": {key: text for key, text in archive.notes.items() if key != "parts"},
    }


def facts_of(cell: BaseRNNCell) -> Facts:
    """Return the sizes of a cell tree: number and dtype of its weights, widths of inputs and outputs."""
    weights = cell.get_params()
    width = placement.input_size_of(cell, {name: array.shape for name, array in weights.items()})
    return {
        "dtype": ", ".join(sorted({str(array.dtype) for array in weights.values()})),
        "parameters": sum(math.prod(array.shape) for array in weights.values()),
        "input_size": width,
        "output_size": None if width is None else cell.output_size(width),
    }


def describe_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, Facts]:
    """Return shape and dtype of each array."""
    return {name: {"shape": list(array.shape), "dtype": str(array.dtype)} for name, array in arrays.items()}


def plan_of(cell: BaseRNNCell) -> Plan:
    """Return how NumPy runs a cell tree whose weights are there."""
    facts = facts_of(cell)
    return cell.explain(np.zeros((1, 1, facts["input_size"]), next(iter(cell.get_params().values())).dtype))


def _described(part: Part) -> Facts:
    return {
        **facts_of(part.cell),
        "cell": part.cell.spec.to_dict(),
        "weights": describe_arrays(part.cell.get_params()),
        "evidence": list(part.evidence),
        "plan": plan_of(part.cell).to_dict(),
    }

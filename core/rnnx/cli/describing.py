"""What there is to say of a file and its recurrent parts, as plain dicts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rnnx.archive import Archive, Part
from rnnx.plan import Plan
from rnnx.remembering import STORED

__all__ = ["Facts", "describe", "describe_arrays", "facts_of", "plan_of"]

Facts = dict[str, Any]


def describe(file: Path, archive: Archive, plans: bool = True) -> Facts:
    """Return all that a file holds but the numbers, and unless it is not wanted how NumPy runs it."""
    return {
        "file": str(file),
        "parts": [{"name": name, **_described(part, plans)} for name, part in archive.parts.items()],
        "arrays": describe_arrays(archive.extra),
        "files": {name: len(data) for name, data in archive.files.items()},
        "notes": {key: text for key, text in archive.notes.items() if key not in ("parts", STORED)},
    }


def facts_of(part: Part) -> Facts:
    """Return the sizes of a part: number and dtype of its weights, widths of inputs and outputs."""
    cell = part.tree()
    width = part.input_size
    return {
        "dtype": part.weight_dtype,
        "parameters": sum(map(math.prod, part.shapes.values())),
        "input_size": width,
        "output_size": cell.output_size(width),
    }


def describe_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, Facts]:
    """Return shape and dtype of each array."""
    return {name: {"shape": list(array.shape), "dtype": str(array.dtype)} for name, array in arrays.items()}


def plan_of(part: Part) -> Plan:
    """Return how NumPy runs a part."""
    dtype = next((array.dtype for array in part.weights.values()), np.dtype(np.float32))
    return part.cell.explain(np.zeros((1, 1, facts_of(part)["input_size"]), dtype))


def _described(part: Part, plans: bool) -> Facts:
    return {
        **facts_of(part),
        "cell": part.spec.to_dict(),
        "weights": describe_arrays(part.cell.get_params() if plans else part.weights),
        "evidence": list(part.evidence),
        **({"plan": plan_of(part).to_dict()} if plans else {}),
    }

"""Numbers that other frameworks computed, kept beside this module in ``golden.safetensors``.

They judge a backend, and the reference too, with no other framework installed. MXNet 1.9.1, PyTorch, Keras and ONNX
Runtime each computed some cases, from random weights of which no two gates' are alike and no bias is zero.

The file's tensors are ``<case>/inputs``, ``<case>/weights/<name>``, ``<case>/begin/<place>``, ``<case>/lengths``,
``<case>/outputs`` and ``<case>/states/<place>``, with ``<case>`` a number; its metadata are ``format`` ``rnnx-golden``,
``format_version`` ``1``, and ``cases``, a JSON list of every case's ``name``, ``producer`` and ``spec``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
from safetensors import safe_open

__all__ = ["FORMAT", "FORMAT_VERSION", "PATH", "Golden", "cases", "read"]

Array = npt.NDArray[Any]

PATH = Path(__file__).with_name("golden.safetensors")

FORMAT, FORMAT_VERSION = "rnnx-golden", "1"


@dataclasses.dataclass(frozen=True)
class Golden:
    """One cell tree, what it was run on, and what came out.

    Parameters
    ----------
    name : str
        Begins with the framework's name, and is no other case's.
    producer : str
        The framework and its version, such as ``"torch 2.13.0"``.
    spec : mapping
        The cell tree, as ``CellSpec.to_dict()`` returns it.
    weights : mapping of str to array
        The packed weights, as ``load_params`` takes them, in the dtype that the framework computed in.
    inputs : array
        (N, T, I).
    begin : tuple of array
        The initial states, flat.
    lengths : array of int or None
        (N,), the valid steps of every row; None for all.
    outputs : array
        (N, T, H); zeros past a row's length.
    states : tuple of array
        The final states, flat.
    """

    name: str
    producer: str
    spec: Mapping[str, Any]
    weights: Mapping[str, Array]
    inputs: Array
    begin: tuple[Array, ...]
    lengths: Array | None
    outputs: Array
    states: tuple[Array, ...]

    def arrays(self) -> dict[str, Array]:
        """Return every array by the name that it has in the file, less the case's number."""
        lengths = {} if self.lengths is None else {"lengths": self.lengths}
        return {
            "inputs": self.inputs,
            "outputs": self.outputs,
            **lengths,
            **{f"weights/{name}": array for name, array in self.weights.items()},
            **{f"begin/{place}": array for place, array in enumerate(self.begin)},
            **{f"states/{place}": array for place, array in enumerate(self.states)},
        }


def cases() -> list[Golden]:
    """Return all cases of the file in the wheel."""
    return read(PATH)


def read(path: Path) -> list[Golden]:
    """Return all cases of a file.

    Raises
    ------
    ValueError
        If it is of another format or version.
    """
    with safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- the file is no mapping
    if (metadata.get("format"), metadata.get("format_version")) != (FORMAT, FORMAT_VERSION):
        raise ValueError(f"{path} is not a file of format {FORMAT!r}, version {FORMAT_VERSION}: install rnnx anew")
    return [_case(tensors, number, **about) for number, about in enumerate(json.loads(metadata["cases"]))]


def _case(tensors: Mapping[str, Array], number: int, name: str, producer: str, spec: Mapping[str, Any]) -> Golden:
    start = f"{number}/"
    own = {key.removeprefix(start): array for key, array in tensors.items() if key.startswith(start)}
    weights = {key.removeprefix("weights/"): array for key, array in own.items() if key.startswith("weights/")}
    begin, states = _numbered(own, "begin/"), _numbered(own, "states/")
    return Golden(name, producer, spec, weights, own["inputs"], begin, own.get("lengths"), own["outputs"], states)


def _numbered(arrays: Mapping[str, Array], start: str) -> tuple[Array, ...]:
    return tuple(arrays[f"{start}{place}"] for place in range(sum(key.startswith(start) for key in arrays)))

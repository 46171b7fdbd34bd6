"""What another framework computed from a checkpoint, kept in a file beside it: the numbers to be reproduced.

Beside ``model-0010.params`` stands ``model-0010.reference.safetensors``. For a batch of N sequences of T steps its
tensors are

======================  ==========  ============================================================
``inputs``              (N, T, C)   what the recurrent part reads
``begin_state_0`` …                 its initial states, in the order of the cell's ``state_info``
``outputs``             (N, T, H)   what it returned
``state_0`` …                       its final states
``tokens``, ``labels``  (N, T)      optional integers: the words before embedding, the words to be predicted
======================  ==========  ============================================================

and its metadata are ``format`` ``rnnx-reference``, ``format_version`` ``1``, ``layout`` ``NTC``, ``produced_by``, and
optionally ``part`` (which recurrent part it is of), ``embedding`` (the array that the tokens index), and for language
models ``perplexity``, ``decoder_weight``, ``decoder_bias`` and ``ignore_label``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from rnnx.errors import WeightFormatError, nearest

__all__ = ["Embedding", "Reference", "Scoring", "read_reference", "reference_path"]

FORMAT, FORMAT_VERSION, LAYOUT = "rnnx-reference", "1", "NTC"

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Embedding:
    """The inputs as words: ``array[tokens]``, with `array` the name of one of the checkpoint's arrays."""

    tokens: Array
    array: str

    def vectors(self, arrays: Mapping[str, Array]) -> Array:
        """Return the words as vectors (N, T, C).

        Raises
        ------
        WeightFormatError
            If the array is missing, or has no row for a token.
        """
        rows, last = _array(arrays, self.array), int(self.tokens.max())
        if self.tokens.min() < 0 or last >= len(rows):
            raise WeightFormatError(
                f"the reference's tokens go from {self.tokens.min()} to {last}, and {self.array!r} has {len(rows)} rows"
            )
        vectors: Array = rows[self.tokens]
        return vectors


@dataclasses.dataclass(frozen=True)
class Scoring:
    """A perplexity, and what it is computed from.

    Parameters
    ----------
    perplexity : float
        The one recorded.
    labels : array of int
        (N, T), the words to be predicted.
    ignore_label : int or None
        The label that does not count.
    weight, bias : str
        Names of the checkpoint's arrays W (V, H) and b (V,) by which outputs become scores of V words.
    """

    perplexity: float
    labels: Array
    ignore_label: int | None
    weight: str
    bias: str

    def score(self, outputs: Array, arrays: Mapping[str, Array]) -> float:
        """Return the perplexity of outputs (N, T, H), as ``mx.metric.Perplexity`` computes it.

        That is exp(-mean(log(max(1e-10, p)))) over the labels that count, with p the label's probability in
        softmax(outputs W^T + b). Source: ``python/mxnet/metric.py`` of MXNet 1.9.1.

        Raises
        ------
        WeightFormatError
            If W or b is missing or does not fit the outputs.
        """
        weight, bias = _array(arrays, self.weight), _array(arrays, self.bias)
        if weight.shape[1:] != outputs.shape[2:] or bias.shape != weight.shape[:1]:
            raise WeightFormatError(
                f"{self.weight!r} {weight.shape} and {self.bias!r} {bias.shape} make no scores of outputs "
                f"{outputs.shape[2]} wide: expected (V, {outputs.shape[2]}) and (V,)"
            )
        costs = [
            -np.log(np.maximum(1e-10, _probabilities(row @ weight.T + bias, labels)[labels != self.ignore_label]))
            for row, labels in zip(outputs.astype(np.float64), self.labels, strict=True)
        ]
        return float(np.exp(np.concatenate(costs).mean()))


@dataclasses.dataclass(frozen=True)
class Reference:
    """A recorded run of a recurrent part; arrays as the module's page says."""

    source: str
    part: str | None
    inputs: Array
    begin_states: tuple[Array, ...]
    outputs: Array
    states: tuple[Array, ...]
    embedding: Embedding | None = None
    scoring: Scoring | None = None


def reference_path(checkpoint: Path) -> Path:
    """Return where the reference of a checkpoint stands: ``x.reference.safetensors`` beside ``x.params``."""
    return checkpoint.with_name(f"{checkpoint.stem}.reference.safetensors")


def read_reference(path: Path) -> Reference:
    """Read a reference file.

    Raises
    ------
    WeightFormatError
        If it is damaged, of another format or version, or its arrays do not fit each other.
    """
    file = _File(path, *_read(path))
    file.require_text("format", FORMAT)
    file.require_text("format_version", FORMAT_VERSION)
    file.require_text("layout", LAYOUT)
    inputs, outputs = file.tensor("inputs", 3, "f"), file.tensor("outputs", 3, "f")
    file.require_shape("outputs", outputs.shape[:2], inputs.shape[:2])
    begin, final = file.numbered("begin_state_"), file.numbered("state_")
    if [state.shape for state in begin] != [state.shape for state in final]:
        raise file.error("initial and final states differ in number or shape")
    return Reference(
        file.text("produced_by"),
        file.metadata.get("part"),
        inputs,
        begin,
        outputs,
        final,
        _embedding(file, inputs),
        _scoring(file, inputs),
    )


def _array(arrays: Mapping[str, Array], name: str) -> Array:
    if name not in arrays:
        raise WeightFormatError(
            f"the reference needs array {name!r}{nearest(name, arrays)}, which the checkpoint does not have"
        )
    return arrays[name]


def _probabilities(scores: Array, labels: Array) -> Array:
    """Return that of each step's label; a label out of range is read as the nearest, as ``mx.nd.pick`` does."""
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    places = np.clip(labels, 0, scores.shape[1] - 1)
    found: Array = odds[np.arange(len(odds)), places] / odds.sum(axis=1)
    return found


@dataclasses.dataclass(frozen=True)
class _File:
    """What was read, and how to complain of it."""

    path: Path
    tensors: Mapping[str, Array]
    metadata: Mapping[str, str]

    def error(self, problem: str) -> WeightFormatError:
        return WeightFormatError(f"reference file {self.path}: {problem}; write it anew or remove it")

    def text(self, key: str) -> str:
        if key not in self.metadata:
            raise self.error(f"metadata {key!r} is missing")
        return self.metadata[key]

    def require_text(self, key: str, expected: str) -> None:
        if self.text(key) != expected:
            raise self.error(f"metadata {key!r} is {self.text(key)!r}, expected {expected!r}")

    def tensor(self, name: str, axes: int | None, kind: str) -> Array:
        if name not in self.tensors:
            raise self.error(f"tensor {name!r} is missing")
        found = self.tensors[name]
        if found.dtype.kind not in kind or axes not in (None, found.ndim) or not found.size:
            wanted = "floats" if kind == "f" else "integers"
            shape = "any shape" if axes is None else f"{axes} axes"
            raise self.error(f"tensor {name!r} holds {found.dtype} {found.shape}, expected {wanted} with {shape}")
        return found

    def require_shape(self, name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if found != expected:
            raise self.error(f"tensor {name!r} has N, T = {found}, and the inputs have {expected}")

    def numbered(self, stem: str) -> tuple[Array, ...]:
        """Return the tensors ``stem0``, ``stem1`` and so on; at least the first."""
        count = 1
        while f"{stem}{count}" in self.tensors:
            count += 1
        return tuple(self.tensor(f"{stem}{number}", None, "f") for number in range(count))


def _read(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, TypeError) as error:  # TypeError: a dtype that NumPy does not have
        raise WeightFormatError(f"reference file {path} is damaged: {error}; write it anew or remove it") from error


def _embedding(file: _File, inputs: Array) -> Embedding | None:
    if "tokens" not in file.tensors or "embedding" not in file.metadata:
        return None
    tokens = file.tensor("tokens", 2, "iu")
    file.require_shape("tokens", tokens.shape, inputs.shape[:2])
    return Embedding(tokens, file.text("embedding"))


def _scoring(file: _File, inputs: Array) -> Scoring | None:
    if "perplexity" not in file.metadata:
        return None
    labels = file.tensor("labels", 2, "iu")
    file.require_shape("labels", labels.shape, inputs.shape[:2])
    ignored = file.metadata.get("ignore_label")
    try:
        perplexity, ignore_label = float(file.text("perplexity")), None if ignored is None else int(ignored)
    except ValueError as error:
        raise file.error(f"metadata holds no number: {error}") from error
    if not np.isfinite(perplexity) or perplexity <= 0:
        raise file.error(f"the perplexity recorded is {perplexity}")
    if ignore_label is not None and np.all(labels == ignore_label):
        raise file.error(f"every label is {ignore_label}, which does not count: there is nothing to score")
    return Scoring(perplexity, labels, ignore_label, file.text("decoder_weight"), file.text("decoder_bias"))

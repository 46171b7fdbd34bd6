"""Training runs that MXNet wrote down, for any framework to repeat; see ``tests/oracle/make_sgd.py``.

A framework's own part is a `Trainer`: the model of a `Run`, and one step of stochastic gradient descent on it.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Protocol

import numpy as np

import rnnx

GOLDEN = Path(__file__).parent / "golden" / "mxnet-sgd.npz"

#: The largest relative difference of a loss from MXNet's.
TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of MXNet's: what it started from, and the loss before each step.

    The model is an embedding (``embed_weight``), the `cell`, an output layer (``pred_weight``, ``pred_bias``) and the
    mean cross-entropy of the words that follow, `padding` left out. A step adds ``momentum * (the step before) - rate *
    gradient`` to each weight. `batches` holds, for each step, words and following words (N, T).
    """

    name: str
    mode: str
    rate: float
    momentum: float
    layers: int
    hidden: int
    padding: int
    prefix: str
    weights: dict[str, np.ndarray]
    batches: list[tuple[np.ndarray, np.ndarray]]
    losses: np.ndarray

    @property
    def width(self) -> int:
        """Width of the embedding."""
        return self.weights["embed_weight"].shape[1]

    def cell(self) -> rnnx.FusedRNNCell:
        """Return the recurrent part with the weights it starts from, copies on NumPy."""
        cell = rnnx.FusedRNNCell(self.hidden, self.layers, self.mode, prefix=self.prefix)
        cell.load_params(self.weights, ignore_extra=True)
        return cell


class Trainer(Protocol):
    """A framework's model of a run."""

    def kernels(self, words: np.ndarray) -> set[str]:
        """Return the names of the kernels that run the recurrent part in training."""
        ...

    def step(self, words: np.ndarray, following: np.ndarray) -> float:
        """Return the loss of a batch, and take a step down its gradient."""
        ...


def runs() -> dict[str, Run]:
    """Return every run of the golden file by name."""
    with np.load(GOLDEN, allow_pickle=False) as held:
        arrays = {name: held[name] for name in held.files}
    batches = [
        (words[:, :length].astype(np.int64), following[:, :length].astype(np.int64))
        for words, following, length in zip(arrays["words"], arrays["following"], arrays["buckets"], strict=True)
    ]
    names = [name.partition(":")[0] for name in arrays if name.endswith(":settings")]
    return {name: _run(name, arrays, batches) for name in names}


def _run(name: str, arrays: dict[str, np.ndarray], batches: list[tuple[np.ndarray, np.ndarray]]) -> Run:
    named = f"{name}:weights:"
    weights = {key.removeprefix(named): array for key, array in arrays.items() if key.startswith(named)}
    settings = json.loads(str(arrays[f"{name}:settings"]))
    return Run(name, weights=weights, batches=batches, losses=arrays[f"{name}:losses"], **settings)


def assert_same_curve(trainer: Trainer, run: Run, kernel: str) -> None:
    """Assert that a trainer runs on a kernel and comes down MXNet's curve."""
    assert trainer.kernels(run.batches[0][0]) == {kernel}
    found = np.array([trainer.step(*batch) for batch in run.batches])
    np.testing.assert_allclose(found, run.losses, rtol=TOLERANCE, err_msg=run.name)

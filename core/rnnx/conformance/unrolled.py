"""Trials unrolled on the backend under test."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rnnx.cells import BaseRNNCell
from rnnx.conformance.networks import Trial, numpy_dtype
from rnnx.conformance.subject import Subject

__all__ = ["Derived", "Found", "bits", "cast", "differentiate", "leaves", "placed", "run"]

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Found:
    """What a backend gave for a trial, in its own arrays.

    Parameters
    ----------
    outputs : array
        (N, T, H).
    states : list of array
        Final states, flat.
    kernels : tuple of str
        What ran.
    """

    outputs: Any
    states: list[Any]
    kernels: tuple[str, ...]

    def arrays(self) -> list[Any]:
        """Return the outputs and the states."""
        return [self.outputs, *self.states]


@dataclasses.dataclass(frozen=True)
class Derived:
    """What `vjp` gave for a trial.

    Parameters
    ----------
    found : Found
        Outputs and states.
    pull : callable
        Takes cotangents of outputs and of the flat states, as NumPy arrays, or None for either; returns the gradients,
        in the backend's arrays. Those of the inputs are called ``inputs``, of the initial states ``state 0``,
        ``state 1`` and so on, of weights as they are.
    """

    found: Found
    pull: Callable[[Array | None, Sequence[Array] | None], dict[str, Any]]


def leaves(nested: Any) -> Iterator[Any]:
    """Yield the arrays of nested lists, in order."""
    if isinstance(nested, list | tuple):
        for part in nested:
            yield from leaves(part)
    else:
        yield nested


def cast(subject: Subject, arrays: Iterable[Array], dtype: str) -> list[Any]:
    """Return NumPy arrays as the backend's, in a dtype."""
    return [subject.array(array.astype(numpy_dtype(dtype))) for array in arrays]


def placed(subject: Subject, trial: Trial) -> BaseRNNCell:
    """Return the trial's cell with its weights, if it has any, in the backend."""
    return subject.placed(trial.cell(), trial.dtype) if trial.weights else trial.tree.build()


def run(
    subject: Subject,
    trial: Trial,
    *,
    fuse: bool = True,
    training: bool = False,
    seed: int | None = None,
    cell: BaseRNNCell | None = None,
) -> Found:
    """Unroll the trial's cell, or another of its kind, over what the trial holds."""
    runs = placed(subject, trial) if cell is None else cell
    inputs, begin = _arguments(subject, trial)
    outputs, states = runs.unroll(
        None, inputs, begin, merge_outputs=True, valid_length=trial.lengths, training=training, seed=seed, fuse=fuse
    )
    return Found(outputs, list(leaves(states)), _kernels(runs, inputs, trial, training, fuse))


def differentiate(
    subject: Subject, trial: Trial, *, fuse: bool = True, training: bool = False, seed: int | None = None
) -> Derived:
    """Unroll the trial's cell with `vjp`."""
    cell = placed(subject, trial)
    inputs, begin = _arguments(subject, trial)
    outputs, states, pullback = cell.vjp(
        None, inputs, begin, merge_outputs=True, valid_length=trial.lengths, training=training, seed=seed, fuse=fuse
    )

    def pull(of_outputs: Array | None, of_states: Sequence[Array] | None) -> dict[str, Any]:
        given = None if of_outputs is None else cast(subject, [of_outputs], trial.dtype)[0]
        gradients = pullback(given, None if of_states is None else cast(subject, of_states, trial.dtype))
        by_place = {f"state {place}": gradient for place, gradient in enumerate(gradients.begin_state)}
        return {"inputs": gradients.inputs, **by_place, **gradients.weights}

    found = Found(outputs, list(leaves(states)), _kernels(cell, inputs, trial, training, fuse))
    return Derived(found, pull)


def _arguments(subject: Subject, trial: Trial) -> tuple[Any, Any]:
    begin = None if trial.begin is None else cast(subject, trial.begin, trial.dtype)
    return cast(subject, [trial.inputs], trial.dtype)[0], begin


def _kernels(cell: BaseRNNCell, inputs: Any, trial: Trial, training: bool, fuse: bool) -> tuple[str, ...]:
    return cell.explain(inputs, valid_length=trial.lengths, training=training, fuse=fuse).kernels


def bits(subject: Subject, arrays: Iterable[Any]) -> list[tuple[str, tuple[int, ...], bytes]]:
    """Return dtype, shape and bytes of every array: what may not change."""
    found = [np.array(subject.backend.to_numpy(array)) for array in arrays]
    return [(str(array.dtype), array.shape, array.tobytes()) for array in found]

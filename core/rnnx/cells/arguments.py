"""What callers pass to a cell, checked, and brought to the one form that plans run on: time-major (T, N, C)."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rnnx.backend import Array, Backend
from rnnx.cells import sizes
from rnnx.errors import BackendMismatchError, ShapeError
from rnnx.registry import backend_of

__all__ = [
    "Arrangement",
    "call_with_shape",
    "checked_length",
    "checked_states",
    "flat",
    "read_inputs",
    "read_step",
    "require_floating",
]

#: Layouts of a sequence held in one array, and the axis of time in each.
LAYOUTS = {"NTC": 1, "TNC": 0}

FLOATING = ("float32", "float64", "float16", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """How a caller holds a sequence: in one array with time on an axis, or in a list of one array a step."""

    time_axis: int
    merged: bool

    def to_time_major(self, ops: Backend, sequence: Any) -> Array:
        """Return the sequence as one array (T, N, C)."""
        if not self.merged:
            return ops.stack(list(sequence))
        return ops.swapaxes(sequence, 0, 1) if self.time_axis else sequence

    def from_time_major(self, ops: Backend, array: Array) -> Any:
        """Return (T, N, C) as the caller holds it."""
        if not self.merged:
            return list(ops.unstack(array))
        return ops.swapaxes(array, 0, 1) if self.time_axis else array


def read_inputs(
    length: int | None, inputs: Any, layout: str, explicit: str | None
) -> tuple[Backend, Arrangement, Array]:
    """Return the inputs' backend, their arrangement, and the inputs themselves, time-major.

    Raises
    ------
    ShapeError
        For an unknown layout, a wrong rank, steps that differ in shape, or a length that is not the inputs'. Of a graph
        the batch size and the number of steps may be unknown, the width may not.
    BackendMismatchError
        For arrays of several frameworks or devices, or of a dtype that is no float.
    """
    if layout not in LAYOUTS:
        raise ShapeError(f"layout is {layout!r}, expected one of {', '.join(map(repr, LAYOUTS))}")
    if inputs is None:
        raise ShapeError("inputs is None: pass an array (N, T, C) or (T, N, C), or a list of one array (N, C) a step")
    merged = not isinstance(inputs, list | tuple)
    steps = [inputs] if merged else list(inputs)
    backend = backend_of(steps, explicit)
    arrangement = Arrangement(LAYOUTS[layout], merged)
    shape = _common_shape(backend, steps, layout if merged else "NC")
    dtypes = dict.fromkeys(require_floating(backend, step, "inputs") for step in steps)
    if len(dtypes) > 1:
        raise BackendMismatchError(f"inputs differ from step to step: {' and '.join(dtypes)}")
    found = shape[arrangement.time_axis] if merged else len(steps)
    if isinstance(found, int) and (found == 0 or length not in (None, found)):
        raise ShapeError(
            f"inputs have {found} steps, expected {'at least 1' if length is None else f'length={length}'}"
        )
    return backend, arrangement, arrangement.to_time_major(backend, inputs)


def read_step(inputs: Array) -> tuple[Backend, tuple[Any, ...]]:
    """Return the backend and the shape of one step's inputs (N, C); raises as `read_inputs` does."""
    backend = backend_of([inputs])
    shape = _common_shape(backend, [inputs], "NC")
    require_floating(backend, inputs, "inputs")
    return backend, shape


def require_floating(backend: Backend, array: Array, what: str) -> str:
    """Return the array's dtype; `BackendMismatchError` if it is no float."""
    dtype = backend.dtype(array)
    if dtype not in FLOATING:
        raise BackendMismatchError(f"{what} have dtype {dtype}, expected one of {', '.join(FLOATING)}")
    return dtype


def flat(states: Any) -> Iterator[Array]:
    """Yield the arrays of arbitrarily nested lists of states, in order."""
    for state in states:
        if isinstance(state, list | tuple):
            yield from flat(state)
        else:
            yield state


def checked_states(
    backend: Backend, states: Any, expected: Sequence[tuple[int, ...]], inputs: Array, names: str, batch_axis: int = 0
) -> list[Array]:
    """Return the states as a flat list with the batch size filled in.

    A state whose batch size is 0, as `begin_state` makes without one, is read as zeros, just as MXNet infers it.

    Parameters
    ----------
    backend : Backend
        Who must own them.
    states : nested list of array, or None
        None means zeros.
    expected : sequence of tuple of int
        The shapes, with 0 for the batch size.
    inputs : array
        One step of the inputs, (N, C), or all: gives batch size, dtype and device.
    names : str
        What to call them in an error.
    batch_axis : int
        Where the inputs have the batch size.
    """
    batch = backend.shape(inputs)[batch_axis]
    if states is None:
        return [backend.zeros(sizes.filled(shape, batch), inputs) for shape in expected]
    found = list(flat(states if isinstance(states, list | tuple) else [states]))
    if len(found) != len(expected):
        raise ShapeError(f"{names} holds {len(found)} arrays, expected {len(expected)} of shapes {list(expected)}")
    backend_of(found, backend.name)
    return [
        _checked_state(backend, state, shape, batch, inputs, f"{names}[{index}]")
        for index, (state, shape) in enumerate(zip(found, expected, strict=True))
    ]


def _checked_state(
    backend: Backend, state: Array, shape: tuple[int, ...], batch: Any, inputs: Array, name: str
) -> Array:
    found, expected = sizes.known(backend.shape(state)), sizes.known(sizes.filled(shape, batch))
    if found == shape and 0 in shape and found != expected:
        return backend.zeros(sizes.filled(shape, batch), inputs)
    if not sizes.agree(found, expected):
        raise ShapeError(f"{name} has shape {found}, expected {expected}")
    for what, mine, theirs in (
        ("dtype", backend.dtype(state), backend.dtype(inputs)),
        ("device", backend.device(state), backend.device(inputs)),
    ):
        if mine != theirs and None not in (mine, theirs):
            raise BackendMismatchError(f"{name} has {what} {mine}, and the inputs have {theirs}")
    return state


def checked_length(backend: Backend, valid_length: Any, inputs: Array) -> Array | None:
    """Return `valid_length` as the backend's int64 array (N,), or None; one of a graph stays as it is.

    Raises
    ------
    ShapeError
        If it is not one whole number a row, from 0 to the number of steps.
    """
    if valid_length is None:
        return None
    steps, batch = sizes.known(backend.shape(inputs))[:2]
    if backend.owns(valid_length) and not backend.known(valid_length):
        _check_one_a_row(sizes.known(backend.shape(valid_length)), batch)
        if not backend.dtype(valid_length).startswith("int"):
            raise ShapeError(f"valid_length has dtype {backend.dtype(valid_length)}, expected int32 or int64")
        return valid_length
    values = np.asarray(backend.to_numpy(valid_length) if backend.owns(valid_length) else valid_length)
    _check_one_a_row(values.shape, batch)
    fits = values.dtype.kind in "iuf" and bool(((values >= 0) & (values <= (np.inf if steps is None else steps))).all())
    if not fits or not np.array_equal(values, values.astype(np.int64)):
        limit = "the number of steps" if steps is None else steps
        raise ShapeError(f"valid_length holds {values.tolist()}, expected whole numbers from 0 to {limit}")
    return backend.from_numpy(values.astype(np.int64), backend.device(inputs))


def _check_one_a_row(found: tuple[int | None, ...], batch: int | None) -> None:
    if not sizes.agree(found, (batch,)):
        raise ShapeError(f"valid_length has shape {found}, expected {(batch,)}: one length a row of the batch")


def call_with_shape(
    func: Callable[..., Array], shape: tuple[int, ...], described: Mapping[str, Any], kwargs: Mapping[str, Any]
) -> Array:
    """Call a maker of states with its shape, and with what else describes the state if its signature takes that.

    MXNet's own makers take ``name=`` and ``shape=``; those of NumPy, PyTorch and the rest take the shape alone.
    """
    try:
        accepted = inspect.signature(func).parameters
    except (TypeError, ValueError):  # a function written in C has no signature to look at
        return func(shape, **kwargs)
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    extra = {name: value for name, value in described.items() if takes_all or name in accepted}
    if "shape" in accepted or takes_all:
        return func(shape=shape, **extra, **kwargs)
    return func(shape, **extra, **kwargs)


def _common_shape(backend: Backend, steps: Sequence[Array], axes: str) -> tuple[Any, ...]:
    """Return the shape that all the steps have, checked; () where there is no step."""
    shapes = [backend.shape(step) for step in steps]
    for number, found in enumerate(map(sizes.known, shapes)):
        if len(found) != len(axes):
            raise ShapeError(f"inputs have shape {found}, expected {len(axes)} axes: {', '.join(axes)}")
        if number and not sizes.agree(found, shapes[0]):
            raise ShapeError(f"inputs differ from step to step: {sizes.known(shapes[0])} and {found}")
        if found[-1] is None:
            raise ShapeError(f"inputs have shape {found}: the last size, their width, has to be known in a graph")
    return shapes[0] if shapes else ()

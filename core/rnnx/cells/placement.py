"""The weights of a whole cell tree: which there are, their first values, and where they live."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from rnnx.backend import Array, Backend
from rnnx.cells.arguments import FLOATING, require_floating
from rnnx.errors import (
    BackendMismatchError,
    RNNXError,
    ShapeError,
    UnsupportedError,
    WeightFormatError,
    nearest,
)
from rnnx.params import Parameter, Shape
from rnnx.registry import backend_of

__all__ = [
    "backend_of_weights",
    "cast",
    "check_fit",
    "create",
    "gate_shapes",
    "initialize",
    "input_size_of",
    "load",
    "move",
    "parameters",
    "values",
]


#: Held while weights are created, so that two threads' first calls create them once.
_creating = threading.Lock()


class Tree(Protocol):
    """What is needed of a cell tree to find and place its weights."""

    def leaves(self) -> Iterator[Tree]:
        """Yield the cells without children, in order."""
        ...

    def sized_leaves(self, input_size: int) -> Iterator[tuple[Tree, int]]:
        """Yield the leaves with the width of the inputs that each reads."""
        ...

    def first_leaves(self) -> Iterator[Tree]:
        """Yield the leaves that read the tree's own inputs."""
        ...

    def own_parameters(self) -> tuple[Parameter, ...]:
        """Return a leaf's weights."""
        ...

    def gate_shapes(self, input_size: int) -> dict[str, Shape]:
        """Return the shapes of a leaf's weights of single gates by name."""
        ...

    def input_size_of(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """Return the input size that fits the shapes of a leaf's weights, or None if they do not tell."""
        ...


def parameters(cell: Tree) -> dict[str, Parameter]:
    """Return every weight of the tree by name, in order.

    Raises
    ------
    RNNXError
        If two cells hold different weights under one name.
    """
    found: dict[str, Parameter] = {}
    for leaf in cell.leaves():
        for parameter in leaf.own_parameters():
            if found.setdefault(parameter.name, parameter) is not parameter:
                raise RNNXError(
                    f"two cells of the tree each have a weight of their own called {parameter.name!r}: give one of "
                    "them another prefix=, or share the weights with params="
                )
    return found


def values(cell: Tree) -> dict[str, Array]:
    """Return the value of every weight of the tree by name."""
    return {name: parameter.value for name, parameter in parameters(cell).items()}


def input_size_of(cell: Tree, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Return the size of the inputs that fits weights of these shapes, or None if they do not tell."""
    for leaf in cell.first_leaves():
        size = leaf.input_size_of(shapes)
        if size is not None:
            return size
    return None


def gate_shapes(cell: Tree, input_size: int) -> dict[str, Shape]:
    """Return the shape of every weight of a single gate by name, for inputs of a width."""
    return {
        name: shape for leaf, size in cell.sized_leaves(input_size) for name, shape in leaf.gate_shapes(size).items()
    }


def create(
    cell: Tree,
    input_size: int,
    backend: Backend,
    dtype: str,
    device: str | None,
    rng: np.random.Generator | None = None,
) -> None:
    """Give a value to every weight of the tree that has none, drawn from the system's entropy without `rng`."""
    leaves = list(cell.sized_leaves(input_size))  # all sizes fit before anything is created
    with _creating:
        for leaf, size in leaves:
            for parameter in leaf.own_parameters():
                if parameter.value is None:
                    rng = rng or np.random.default_rng()
                    initial = parameter.init(rng, parameter.shape(size))
                    parameter.value = backend.from_numpy(cast(initial, dtype), device)


def initialize(
    cell: Tree, input_size: int, backend: Backend, dtype: str, device: str | None, rng: np.random.Generator
) -> None:
    """Give every weight of the tree a first value anew; on an error all keep the values they had."""
    known = parameters(cell).values()
    before = [parameter.value for parameter in known]
    try:
        for parameter in known:
            parameter.value = None
        create(cell, input_size, backend, dtype, device, rng)
    except BaseException:
        for parameter, value in zip(known, before, strict=True):
            parameter.value = value
        raise


def check_fit(cell: Tree, input_size: int, backend: Backend, dtype: str, device: str | None) -> None:
    """Raise unless every weight of the tree fits inputs of this size, dtype and device."""
    for leaf, size in cell.sized_leaves(input_size):
        for parameter in leaf.own_parameters():
            parameter.check(parameter.value.shape, size)
            found = backend.dtype(parameter.value), backend.device(parameter.value)
            if found != (dtype, device):
                _refuse_misfit(parameter.name, found, (dtype, device))


def _refuse_misfit(name: str, found: tuple[str | None, ...], wanted: tuple[str | None, ...]) -> None:
    """Raise unless what differs is not known yet."""
    for what, weight, inputs in zip(("dtype", "device"), found, wanted, strict=True):
        if weight != inputs and None not in (weight, inputs):
            raise BackendMismatchError(
                f"weight {name!r} has {what} {weight} and the inputs have {inputs}: "
                f"use cell.to(..., {what}={inputs!r}), or convert the inputs"
            )


def load(cell: Tree, packed: Mapping[str, Array], ignore_extra: bool) -> None:
    """Set every weight of the tree from arrays by packed name: all of them, or, on an error, none."""
    known = parameters(cell)
    missing = [name for name in known if name not in packed]
    extra = [] if ignore_extra else [name for name in packed if name not in known]
    if missing or extra:
        raise WeightFormatError(_strictness(missing, extra, known, packed))
    fresh = {name: packed[name] for name in known}
    here, owner = backend_of_weights(cell), backend_of(fresh.values())
    _check_shapes(cell, {name: tuple(array.shape) for name, array in fresh.items()})
    dtypes = {require_floating(owner, array, "the weights") for array in fresh.values()}
    if len(dtypes) > 1:
        raise BackendMismatchError(f"the weights have several dtypes: {', '.join(sorted(dtypes))}; expected one")
    beside = None if here is None else here.device(next(_present(known.values())))
    placed = {name: _placed(array, owner, here, beside) for name, array in fresh.items()}
    for name, parameter in known.items():
        parameter.value = placed[name]


def _placed(array: Array, owner: Backend, here: Backend | None, device: str | None) -> Array:
    """Return a new array beside the weights that are there, or where the given one is; one of a graph as it is."""
    if not owner.known(array) and here in (None, owner):
        return array
    if here is None:
        return owner.from_numpy(owner.to_numpy(array), owner.device(array))
    return here.from_numpy(owner.to_numpy(array), device)


def move(cell: Tree, backend: Backend, device: str | None, dtype: str | None) -> None:
    """Move every weight of the tree that has a value."""
    here = backend_of_weights(cell)
    if here is None:
        raise RNNXError("the cell has no weights yet: call initialize() or load_params() before to()")
    placed = [parameter for parameter in parameters(cell).values() if parameter.value is not None]
    moved = [
        backend.from_numpy(cast(here.to_numpy(each.value), dtype or here.dtype(each.value)), device) for each in placed
    ]
    for parameter, value in zip(placed, moved, strict=True):
        parameter.value = value


def backend_of_weights(cell: Tree) -> Backend | None:
    """Return the backend that owns the tree's weights, or None if none has a value."""
    present = list(_present(parameters(cell).values()))
    return backend_of(present) if present else None


def _present(found: Iterable[Parameter]) -> Iterator[Array]:
    return (parameter.value for parameter in found if parameter.value is not None)


def _check_shapes(cell: Tree, shapes: Mapping[str, tuple[int, ...]]) -> None:
    input_size = input_size_of(cell, shapes)
    if input_size is None:
        for parameter in parameters(cell).values():
            parameter.check_fixed(shapes[parameter.name])
        return
    for leaf, size in cell.sized_leaves(input_size):
        for parameter in leaf.own_parameters():
            parameter.check(shapes[parameter.name], size)


def _strictness(
    missing: list[str], extra: list[str], known: Mapping[str, Parameter], given: Mapping[str, Array]
) -> str:
    lines = [f"weight {name!r} is missing{nearest(name, given)}" for name in missing]
    lines += [f"weight {name!r} is none of this cell's{nearest(name, known)}" for name in extra]
    return "; ".join(lines[:8]) + (f"; and {len(lines) - 8} more" if len(lines) > 8 else "")


def cast(array: Any, dtype: str) -> Any:
    """Return the array in a dtype given by name; bfloat16 comes from ml_dtypes."""
    if dtype in np.sctypeDict and dtype not in FLOATING:
        raise ShapeError(f"dtype is {dtype}, expected one of {', '.join(FLOATING)}")
    if dtype == "bfloat16":
        return array.astype(_bfloat16())
    try:
        return np.asarray(array).astype(np.dtype(dtype))
    except TypeError as error:
        raise ShapeError(f"no dtype is called {dtype!r}") from error


def _bfloat16() -> Any:
    try:
        import ml_dtypes  # NumPy itself has no bfloat16, and few need it
    except ImportError as error:
        raise UnsupportedError("NumPy has no bfloat16 of its own: pip install 'rnnx[bfloat16]'") from error
    return ml_dtypes.bfloat16

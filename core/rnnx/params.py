"""`RNNParams`: the weights of a cell, and the way two cells share them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

from rnnx.errors import RNNXError, ShapeError, WeightFormatError, nearest
from rnnx.initializers import Initializer, default_initializer

__all__ = ["Parameter", "RNNParams", "Shape", "ShapeRule"]

Shape = tuple[int, ...]

#: Gives the shape of a weight for an input size.
ShapeRule = Callable[[int], Shape]


@dataclasses.dataclass(eq=False)
class Parameter:
    """One weight: its name, the rule for its shape, its initial value, and its value once it has one.

    `declared` is the shape as it was declared, in which 0 stands for the input size, or None where the shape follows
    another rule.
    """

    name: str
    shape: ShapeRule
    declared: Shape | None
    init: Initializer
    value: Any = None

    def check(self, shape: Shape, input_size: int) -> None:
        """Raise `WeightFormatError` unless `shape` is this weight's for the input size."""
        expected = self.shape(input_size)
        if tuple(shape) != expected:
            raise WeightFormatError(
                f"weight {self.name!r} has shape {tuple(shape)}, expected {expected} for inputs of size {input_size}"
            )

    def check_fixed(self, shape: Shape) -> None:
        """Raise `WeightFormatError` unless `shape` is this weight's for some input size."""
        declared = self.declared
        if declared is None:
            return
        fits = len(shape) == len(declared) and all(
            size in (0, found) for size, found in zip(declared, shape, strict=True)
        )
        if not fits:
            expected = ", ".join(str(size or "C") for size in declared) + ("," if len(declared) == 1 else "")
            raise WeightFormatError(f"weight {self.name!r} has shape {tuple(shape)}, expected ({expected})")

    def check_declared(self, rule: ShapeRule) -> None:
        """Raise `ShapeError` unless a further cell declares the weight as this one is."""
        if self.shape(1) != rule(1):
            raise ShapeError(
                f"weight {self.name!r} is shared by cells that differ: for inputs of size 1, one needs shape "
                f"{self.shape(1)} and the other {rule(1)}"
            )


class RNNParams:
    """Container of a cell's weights; cells that are given the same container share them.

    By full name it reads and sets the values, ``params["lstm_i2h_bias"] -= step``; iterating gives the names of the
    weights that have one. `get` declares a weight, as in MXNet; it is not a look-up.

    Parameters
    ----------
    prefix : str
        Put before the name of every weight declared here.
    shared : RNNParams, optional
        A container whose weights are taken where they have the names asked for, and which gets what is declared here.
    """

    def __init__(self, prefix: str = "", shared: RNNParams | None = None) -> None:
        self._prefix = prefix
        self._params: dict[str, Parameter] = {}
        self.shared = shared

    @property
    def prefix(self) -> str:
        """What stands before every weight's own name."""
        return self._prefix

    def get(self, name: str, shape: Shape | ShapeRule | None = None, init: Initializer | None = None) -> Parameter:
        """Return the weight called `name` here, declared now if it was not before.

        Parameters
        ----------
        name : str
            Name without the prefix.
        shape : tuple of int, or callable
            0 stands for the input size; a callable gets the input size and returns the shape. Needed the first time.
        init : callable, optional
            ``init(rng, shape)`` returns the initial value. MXNet's default otherwise: zeros for a name that ends in
            ``bias``, U(-0.01, 0.01) for the rest.

        Raises
        ------
        ShapeError
            If a weight of that name is there, and has another shape.
        """
        full = self._prefix + name
        if full not in self._params:
            known = None if self.shared is None else self.shared._params.get(full)
            self.share(known or _declared(full, shape, init))
        parameter = self._params[full]
        if shape is not None:
            parameter.check_declared(_rule(shape))
        return parameter

    def share(self, parameter: Parameter) -> None:
        """Hold a weight that another container declared, here and in the container that this one shares."""
        self._params[parameter.name] = parameter
        if self.shared is not None:
            self.shared.share(parameter)

    def parameters(self) -> tuple[Parameter, ...]:
        """Return all that was declared here, in order, with a value or without."""
        return tuple(self._params.values())

    def __getitem__(self, name: str) -> Any:
        parameter = self._known(name)
        if parameter.value is None:
            raise RNNXError(f"weight {name!r} has no value yet: call initialize() or load_params() on the cell")
        return parameter.value

    def __setitem__(self, name: str, value: Any) -> None:
        parameter = self._known(name)
        if parameter.value is not None and tuple(value.shape) != tuple(parameter.value.shape):
            raise WeightFormatError(
                f"weight {name!r} has shape {tuple(parameter.value.shape)}, found {tuple(value.shape)}"
            )
        parameter.value = value

    def __iter__(self) -> Iterator[str]:
        return (name for name, parameter in self._params.items() if parameter.value is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return any(name == known for known in self)

    def items(self) -> Iterator[tuple[str, Any]]:
        """Yield each weight that has a value, with its full name."""
        return ((name, self[name]) for name in self)

    def _known(self, name: str) -> Parameter:
        if name not in self._params:
            raise KeyError(f"no weight is called {name!r}{nearest(name, self._params)}")
        return self._params[name]


def _declared(name: str, shape: Shape | ShapeRule | None, init: Initializer | None) -> Parameter:
    if shape is None:
        raise ShapeError(f"weight {name!r} is declared without a shape: give shape=, with 0 for the input size")
    return Parameter(name, _rule(shape), None if callable(shape) else tuple(shape), init or default_initializer(name))


def _rule(shape: Shape | ShapeRule) -> ShapeRule:
    """Return the rule that puts the input size where `shape` has 0."""
    return shape if callable(shape) else functools.partial(_filled_in, tuple(shape))


def _filled_in(shape: Shape, input_size: int) -> Shape:
    return tuple(size or input_size for size in shape)

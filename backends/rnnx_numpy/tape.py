"""Reverse-mode differentiation over the backend's operations: what gives gradients to any cell that can be stepped.

`TapeBackend` does what the NumPy backend does, on `Variable` in the place of arrays, and writes down each operation
with its vector-Jacobian product; going through that list backwards gives the gradients (Linnainmaa, 1970).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rnnx.backend import Backend, Call, Kernel, KernelWeights, Pullback, Recurrence, Unsupported
from rnnx.errors import UnsupportedError
from rnnx_numpy import functions
from rnnx_numpy.operations import NumpyOperations

__all__ = ["TapeBackend", "Variable", "record"]

Array = npt.NDArray[Any]

#: Takes the gradients of an operation's results and returns those of what it read.
Rule = Callable[[Sequence[Array]], Sequence[Array]]


#: What an ndarray on the left of an operator leaves to a `Variable` on its right.
_REFLECTED: dict[Any, str] = {
    np.add: "__radd__",
    np.subtract: "__rsub__",
    np.multiply: "__rmul__",
    np.true_divide: "__rtruediv__",
}


class Variable:
    """An array whose gradient is wanted, or that depends on one."""

    def __init__(self, tape: TapeBackend, value: Array) -> None:
        self.tape = tape
        self.value = value
        self.gradient: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return tuple(self.value.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the array."""
        return self.value.dtype

    def __add__(self, other: Any) -> Variable:
        return self.tape.note(self.value + _value(other), (self, other), lambda g: (g, g))

    def __sub__(self, other: Any) -> Variable:
        return self.tape.note(self.value - _value(other), (self, other), lambda g: (g, -g))

    def __rsub__(self, other: Any) -> Variable:
        return self.tape.note(_value(other) - self.value, (self, other), lambda g: (-g, g))

    def __mul__(self, other: Any) -> Variable:
        one, two = self.value, _value(other)
        return self.tape.note(one * two, (self, other), lambda g: (g * two, g * one))

    def __truediv__(self, other: Any) -> Variable:
        one, two = self.value, _value(other)
        return self.tape.note(one / two, (self, other), lambda g: (g / two, -g * one / (two * two)))

    def __rtruediv__(self, other: Any) -> Variable:
        one, two = _value(other), self.value
        return self.tape.note(one / two, (self, other), lambda g: (-g * one / (two * two), g / two))

    def __neg__(self) -> Variable:
        return self.tape.note(-self.value, (self,), lambda g: (-g,))

    __radd__ = __add__
    __rmul__ = __mul__

    def __array_ufunc__(self, function: np.ufunc, method: str, *operands: Any, **options: Any) -> Any:
        """Take an operator with an ndarray on its left; refuse every other function of NumPy's."""
        name = _REFLECTED.get(function)
        if name is None or method != "__call__" or options or operands[-1] is not self:
            raise UnsupportedError(
                f"numpy.{function.__name__} has no gradient here: write the equation in arithmetic, or name one of "
                "rnnx's activations"
            )
        return getattr(self, name)(operands[0])

    def __getitem__(self, index: Any) -> Variable:
        def rule(gradient: Array) -> tuple[Array]:
            whole = np.zeros_like(self.value)
            np.add.at(whole, index, gradient)
            return (whole,)

        return self.tape.note(self.value[index], (self,), rule)


class TapeBackend(Backend):
    """The operations of NumPy's backend, recorded."""

    name = "numpy"

    def __init__(self, numpy: NumpyOperations) -> None:
        self._numpy = numpy
        self._entries: list[tuple[Sequence[Variable], Sequence[Any], Rule]] = []

    def note(self, value: Array, read: Sequence[Any], rule: Callable[[Array], Sequence[Array]]) -> Variable:
        """Write down an operation of one result."""
        return self.note_all([value], read, lambda gradients: rule(gradients[0]))[0]

    def note_all(self, values: Sequence[Array], read: Sequence[Any], rule: Rule) -> list[Variable]:
        """Write down an operation; what was read and is no `Variable` is a constant."""
        results = [Variable(self, value) for value in values]
        self._entries.append((results, read, rule))
        return results

    def clear(self) -> None:
        """Forget the gradients of an earlier pass."""
        for results, read, _ in self._entries:
            for variable in (*results, *read):
                if isinstance(variable, Variable):
                    variable.gradient = None

    def back(self) -> None:
        """Go through the tape from its end, adding to the gradients of what each operation read."""
        for results, read, rule in reversed(self._entries):
            if all(result.gradient is None for result in results):
                continue
            gradients = [_or_zeros(result) for result in results]
            for argument, gradient in zip(read, rule(gradients), strict=True):
                if isinstance(argument, Variable):
                    _add(argument, gradient)

    # -- operations -----------------------------------------------------------------------------------------------

    def owns(self, array: object) -> bool:
        """See `Backend.owns`."""
        return isinstance(array, Variable)

    def from_numpy(self, array: Array, device: str | None = None) -> Any:
        """See `Backend.from_numpy`; a constant."""
        return self._numpy.from_numpy(array, device)

    def to_numpy(self, array: Any) -> Array:
        """See `Backend.to_numpy`."""
        found: Array = _value(array)
        return found

    def devices(self) -> tuple[str, ...]:
        """See `Backend.devices`."""
        return self._numpy.devices()

    def affine(self, inputs: Any, weight: Any, bias: Any) -> Any:
        """See `Backend.affine`."""
        x, w = _value(inputs), _value(weight)

        def rule(gradient: Array) -> tuple[Array, Array, Array]:
            rows = gradient.reshape(-1, w.shape[0])
            return gradient @ w, rows.T @ x.reshape(-1, w.shape[1]), rows.sum(0)

        value = self._numpy.affine(x, w, None if bias is None else _value(bias))
        return self.note(value, (inputs, weight, bias), rule)

    def sigmoid(self, array: Any) -> Any:
        """See `Backend.sigmoid`."""
        value = functions.sigmoid(_value(array))
        return self.note(value, (array,), lambda g: (g * value * (1 - value),))

    def tanh(self, array: Any) -> Any:
        """See `Backend.tanh`."""
        value = np.tanh(_value(array))
        return self.note(value, (array,), lambda g: (g * (1 - value * value),))

    def relu(self, array: Any) -> Any:
        """See `Backend.relu`; the derivative at 0 is 0."""
        x = _value(array)
        return self.note(np.maximum(x, 0), (array,), lambda g: (g * (x > 0),))

    def softplus(self, array: Any) -> Any:
        """See `Backend.softplus`."""
        x = _value(array)
        return self.note(functions.softplus(x), (array,), lambda g: (g * functions.sigmoid(x),))

    def split(self, array: Any, parts: int | Sequence[int], axis: int = -1) -> Sequence[Any]:
        """See `Backend.split`."""
        values = self._numpy.split(_value(array), parts, axis)
        return self.note_all(values, (array,), lambda gradients: (np.concatenate(gradients, axis),))

    def concat(self, arrays: Sequence[Any], axis: int = -1) -> Any:
        """See `Backend.concat`."""
        values = [_value(array) for array in arrays]
        cuts = np.cumsum([value.shape[axis] for value in values[:-1]]).tolist()
        return self.note(np.concatenate(values, axis), arrays, lambda g: np.split(g, cuts, axis))

    def stack(self, arrays: Sequence[Any]) -> Any:
        """See `Backend.stack`."""
        return self.note(np.stack([_value(array) for array in arrays]), tuple(arrays), list)

    def unstack(self, array: Any) -> Sequence[Any]:
        """See `Backend.unstack`."""
        return self.note_all(list(_value(array)), (array,), lambda gradients: (np.stack(gradients),))

    def reshape(self, array: Any, shape: tuple[int, ...]) -> Any:
        """See `Backend.reshape`."""
        x = _value(array)
        return self.note(x.reshape(shape), (array,), lambda g: (g.reshape(x.shape),))

    def swapaxes(self, array: Any, first: int, second: int) -> Any:
        """See `Backend.swapaxes`."""
        return self.note(
            np.swapaxes(_value(array), first, second), (array,), lambda g: (np.swapaxes(g, first, second),)
        )

    def reverse(self, array: Any, valid_length: Any) -> Any:
        """See `Backend.reverse`, which undoes itself."""
        value = functions.reverse(_value(array), valid_length)
        return self.note(value, (array,), lambda g: (functions.reverse(g, valid_length),))

    def where(self, condition: Any, one: Any, other: Any) -> Any:
        """See `Backend.where`."""
        holds = _value(condition)
        value = np.where(holds, _value(one), _value(other))
        return self.note(value, (condition, one, other), lambda g: (g, np.where(holds, g, 0), np.where(holds, 0, g)))

    def zeros(self, shape: tuple[int, ...], like: Any) -> Any:
        """See `Backend.zeros`; a constant."""
        return np.zeros(shape, like.dtype)

    def bernoulli(self, seed: int, probability: float, shape: tuple[int, ...], like: Any) -> Any:
        """See `Backend.bernoulli`; a constant."""
        return self._numpy.bernoulli(seed, probability, shape, like)

    def steps_before(self, valid_length: Any, length: int) -> Any:
        """See `Backend.steps_before`; a constant."""
        return self._numpy.steps_before(valid_length, length)

    # -- kernels --------------------------------------------------------------------------------------------------

    def plan(self, recurrence: Recurrence, call: Call) -> Kernel | Unsupported:
        """See `Backend.plan`."""
        return self._numpy.plan(recurrence, call)

    def run(
        self,
        kernel: Kernel,
        weights: KernelWeights,
        inputs: Any,
        states: Sequence[Any],
        valid_length: Any,
        seeds: Sequence[int],
    ) -> tuple[Any, list[Any]]:
        """Run NumPy's kernel and write down its own vector-Jacobian product."""
        layers = tuple((_value(wi), _value(wh), _value(bi), _value(bh)) for wi, wh, bi, bh in weights.layers)
        outputs, final, pull = self._numpy.run_recorded(
            kernel, KernelWeights(layers), _value(inputs), [_value(state) for state in states], valid_length, seeds
        )

        def rule(gradients: Sequence[Array]) -> list[Array]:
            of_inputs, of_states, of_weights = pull(gradients[0], gradients[1:])
            return [of_inputs, *of_states, *of_weights]

        read = [inputs, *states, *(weight for layer in weights.layers for weight in layer)]
        results = self.note_all([outputs, *final], read, rule)
        return results[0], results[1:]


def record(
    numpy: NumpyOperations,
    function: Callable[[Backend, Sequence[Any]], Sequence[Any]],
    arguments: Sequence[Array],
) -> tuple[list[Array], Pullback]:
    """Return what `function` gives for the arguments, and its vector-Jacobian product; see `Backend.differentiate`."""
    tape = TapeBackend(numpy)
    variables = [Variable(tape, argument) for argument in arguments]
    results = list(function(tape, variables))

    def pullback(cotangents: Sequence[Array]) -> list[Array]:
        tape.clear()
        for result, cotangent in zip(results, cotangents, strict=True):
            if isinstance(result, Variable):
                _add(result, np.asarray(cotangent))
        tape.back()
        return [_or_zeros(variable) for variable in variables]

    return [_value(result) for result in results], pullback


def _value(array: Any) -> Any:
    return array.value if isinstance(array, Variable) else array


def _or_zeros(variable: Variable) -> Array:
    return np.zeros_like(variable.value) if variable.gradient is None else variable.gradient


def _add(variable: Variable, gradient: Array) -> None:
    """Add to a variable's gradient, summed over the axes along which its array was broadcast."""
    extra = gradient.ndim - variable.value.ndim
    gradient = gradient.sum(tuple(range(extra))) if extra > 0 else gradient
    wide = tuple(axis for axis, size in enumerate(variable.shape) if size == 1 and gradient.shape[axis] != 1)
    gradient = gradient.sum(wide, keepdims=True) if wide else gradient
    variable.gradient = gradient if variable.gradient is None else variable.gradient + gradient

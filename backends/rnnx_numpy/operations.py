"""The operations and the fused kernels of the NumPy backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rnnx.backend import Array, Backend, Call, Kernel, KernelWeights, Recurrence, Unsupported
from rnnx.errors import UnsupportedError
from rnnx_numpy import functions
from rnnx_numpy.kernels import Dropper, KernelPull, run_kernel

__all__ = ["NumpyOperations"]

#: What BLAS multiplies; NumPy's own loops for other dtypes are slower than stepping them is.
FUSED_DTYPES = ("float32", "float64")


class NumpyOperations(Backend):
    """All of the backend but gradients, which are recorded over this."""

    name = "numpy"

    def owns(self, array: object) -> bool:
        """See `Backend.owns`."""
        return isinstance(array, np.ndarray)

    def from_numpy(self, array: npt.NDArray[Any], device: str | None = None) -> Array:
        """See `Backend.from_numpy`."""
        if device not in (None, *self.devices()):
            raise UnsupportedError(f"NumPy has no device {device!r}, only 'cpu'")
        return np.array(array)

    def to_numpy(self, array: Array) -> npt.NDArray[Any]:
        """Return the array itself."""
        found: npt.NDArray[Any] = array
        return found

    def devices(self) -> tuple[str, ...]:
        """Return ``("cpu",)``."""
        return ("cpu",)

    def affine(self, inputs: Array, weight: Array, bias: Array | None) -> Array:
        """See `Backend.affine`; bfloat16 is refused, since NumPy would return float32."""
        if inputs.dtype.name == "bfloat16":
            raise UnsupportedError("NumPy does not compute in bfloat16: use float32, or another backend")
        product = inputs @ weight.T
        return product if bias is None else product + bias

    def sigmoid(self, array: Array) -> Array:
        """See `Backend.sigmoid`."""
        return functions.sigmoid(array)

    def tanh(self, array: Array) -> Array:
        """See `Backend.tanh`."""
        return np.tanh(array)

    def relu(self, array: Array) -> Array:
        """See `Backend.relu`."""
        return np.maximum(array, 0)

    def softplus(self, array: Array) -> Array:
        """See `Backend.softplus`."""
        return functions.softplus(array)

    def split(self, array: Array, parts: int | Sequence[int], axis: int = -1) -> Sequence[Array]:
        """See `Backend.split`; the parts are views."""
        return np.split(array, functions.cuts(parts, array.shape[axis]), axis)

    def concat(self, arrays: Sequence[Array], axis: int = -1) -> Array:
        """See `Backend.concat`."""
        return np.concatenate(arrays, axis)

    def stack(self, arrays: Sequence[Array]) -> Array:
        """See `Backend.stack`."""
        return np.stack(arrays)

    def reshape(self, array: Array, shape: tuple[int, ...]) -> Array:
        """See `Backend.reshape`."""
        return array.reshape(shape)

    def swapaxes(self, array: Array, first: int, second: int) -> Array:
        """See `Backend.swapaxes`; the result is a view."""
        return np.swapaxes(array, first, second)

    def reverse(self, array: Array, valid_length: Array | None) -> Array:
        """See `Backend.reverse`."""
        return functions.reverse(array, valid_length)

    def where(self, condition: Array, one: Array, other: Array) -> Array:
        """See `Backend.where`."""
        return np.where(condition, one, other)

    def zeros(self, shape: tuple[int, ...], like: Array) -> Array:
        """See `Backend.zeros`."""
        return np.zeros(shape, like.dtype)

    def bernoulli(self, seed: int, probability: float, shape: tuple[int, ...], like: Array) -> Array:
        """See `Backend.bernoulli`."""
        return np.random.default_rng(seed).random(shape, np.float32) < probability

    def steps_before(self, valid_length: Array, length: int) -> Array:
        """See `Backend.steps_before`."""
        return np.arange(length)[:, None] < valid_length

    def plan(self, recurrence: Recurrence, call: Call) -> Kernel | Unsupported:
        """Return the fused kernel of the mode, or say that the dtype has none."""
        if call.dtype not in FUSED_DTYPES:
            return Unsupported(f"the NumPy kernels take {' and '.join(FUSED_DTYPES)}, not {call.dtype}")
        return Kernel(f"numpy.{recurrence.mode}", recurrence)

    def run(
        self,
        kernel: Kernel,
        weights: KernelWeights,
        inputs: Array,
        states: Sequence[Array],
        valid_length: Array | None,
        seeds: Sequence[int],
    ) -> tuple[Array, list[Array]]:
        """See `Backend.run`."""
        outputs, final, _ = self.run_recorded(kernel, weights, inputs, states, valid_length, seeds, record=False)
        return outputs, final

    def run_recorded(
        self,
        kernel: Kernel,
        weights: KernelWeights,
        inputs: Array,
        states: Sequence[Array],
        valid_length: Array | None,
        seeds: Sequence[int],
        record: bool = True,
    ) -> tuple[Array, list[Array], KernelPull]:
        """Do as `run`, and return the kernel's vector-Jacobian product as well."""
        mask = None if valid_length is None else self.steps_before(valid_length, inputs.shape[0])
        return run_kernel(kernel, weights, inputs, states, mask, self._dropper(kernel.recurrence, seeds), record)

    def _dropper(self, recurrence: Recurrence, seeds: Sequence[int]) -> Dropper:
        """Return what drops a layer's outputs, drawing over (T, N, C) as dropout outside a kernel does."""

        def factor(layer: int, outputs: Array) -> Array | None:
            if not seeds:
                return None
            features, length, batch = outputs.shape
            keep = self.bernoulli(seeds[layer], 1.0 - recurrence.dropout, (length, batch, features), outputs)
            scale = 0.0 if recurrence.dropout == 1 else 1.0 / (1.0 - recurrence.dropout)
            return np.moveaxis(np.where(keep, scale, 0.0).astype(outputs.dtype), 2, 0)

        return factor

"""The JAX backend: its operations, and the door to its kernels."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.backend
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array

from rnnx.backend import Backend, Call, Kernel, KernelWeights, Pullback, Recurrence, ScanStep
from rnnx.errors import UnsupportedError
from rnnx_jax.kernels import run_kernel

__all__ = ["JaxBackend"]


class JaxBackend(Backend):
    """Arrays are `jax.Array`, on any device of this process, or traced by a transformation of JAX."""

    name = "jax"

    def owns(self, array: object) -> bool:
        """See `Backend.owns`."""
        return isinstance(array, Array)

    def known(self, array: Array) -> bool:
        """See `Backend.known`: False for what is traced."""
        return not isinstance(array, jax.core.Tracer)

    def from_numpy(self, array: npt.NDArray[Any], device: str | None = None) -> Array:
        """See `Backend.from_numpy`; the array is never traced, so that weights may be made within `jax.jit`.

        Raises
        ------
        UnsupportedError
            If JAX would hold other values, as it does of float64 unless it is told otherwise; or has no such device.
        """
        held = array.astype(jax.dtypes.canonicalize_dtype(array.dtype))
        if held.dtype != array.dtype and (held.dtype.kind == "f" or (held != array).any()):
            raise UnsupportedError(
                f"JAX would make {held.dtype} of {array.dtype}: switch its 64 bits on, by JAX_ENABLE_X64=1 in the "
                "environment or jax.config.update('jax_enable_x64', True), or convert the array yourself"
            )
        with jax.ensure_compile_time_eval():
            placed: Array = jax.device_put(held, None if device is None else _device(device))
        return placed

    def to_numpy(self, array: Array) -> npt.NDArray[Any]:
        """See `Backend.to_numpy`; an array on the CPU shares its memory with the result, which is read-only."""
        if not self.known(array):
            raise UnsupportedError(f"{array} is traced and has no values yet: read it outside of the transformation")
        return np.asarray(array)

    def devices(self) -> tuple[str, ...]:
        """Return JAX's default devices, and then those of its other platforms: the processor, where there is a GPU."""
        return tuple(_devices())

    def device(self, array: Array) -> str | None:
        """Return ``"cpu:0"`` or ``"gpu:0"``, or None for what is traced, or spread over several devices."""
        if not self.known(array) or len(array.devices()) > 1:
            return None
        return _name(*array.devices())

    def affine(self, inputs: Array, weight: Array, bias: Array | None) -> Array:
        """See `Backend.affine`."""
        product = inputs @ weight.T
        return product if bias is None else product + bias

    def sigmoid(self, array: Array) -> Array:
        """See `Backend.sigmoid`."""
        return jax.nn.sigmoid(array)

    def tanh(self, array: Array) -> Array:
        """See `Backend.tanh`."""
        return jnp.tanh(array)

    def relu(self, array: Array) -> Array:
        """See `Backend.relu`."""
        return jax.nn.relu(array)

    def softplus(self, array: Array) -> Array:
        """See `Backend.softplus`."""
        return jax.nn.softplus(array)

    def split(self, array: Array, parts: int | Sequence[int], axis: int = -1) -> Sequence[Array]:
        """See `Backend.split`."""
        return jnp.split(array, parts if isinstance(parts, int) else np.cumsum(parts[:-1]), axis)

    def concat(self, arrays: Sequence[Array], axis: int = -1) -> Array:
        """See `Backend.concat`."""
        return jnp.concatenate(arrays, axis)

    def stack(self, arrays: Sequence[Array]) -> Array:
        """See `Backend.stack`."""
        return jnp.stack(arrays)

    def unstack(self, array: Array) -> Sequence[Array]:
        """See `Backend.unstack`."""
        return jnp.unstack(array)

    def reshape(self, array: Array, shape: tuple[int, ...]) -> Array:
        """See `Backend.reshape`."""
        return array.reshape(shape)

    def swapaxes(self, array: Array, first: int, second: int) -> Array:
        """See `Backend.swapaxes`."""
        return array.swapaxes(first, second)

    def reverse(self, array: Array, valid_length: Array | None) -> Array:
        """See `Backend.reverse`."""
        if valid_length is None:
            return jnp.flip(array, 0)
        times = jnp.arange(array.shape[0])[:, None]
        source = jnp.where(times < valid_length, valid_length - 1 - times, times)
        return jnp.take_along_axis(array, source.reshape(source.shape + (1,) * (array.ndim - 2)), 0)

    def where(self, condition: Array, one: Array, other: Array) -> Array:
        """See `Backend.where`."""
        return jnp.where(condition, one, other)

    def zeros(self, shape: tuple[int, ...], like: Array) -> Array:
        """See `Backend.zeros`."""
        with self._beside(like):
            return jnp.zeros(shape, like.dtype)

    def bernoulli(self, seed: Any, probability: float, shape: tuple[int, ...], like: Array) -> Array:
        """See `Backend.bernoulli`; the same with JAX's 64 bits and without."""
        with self._beside(like):
            return jax.random.bernoulli(_key(seed), jnp.float32(probability), shape)

    def steps_before(self, valid_length: Array, length: int) -> Array:
        """See `Backend.steps_before`."""
        return jnp.arange(length)[:, None] < valid_length

    def scan(self, step: ScanStep, inputs: Array, carry: list[Array]) -> tuple[Array, list[Array]]:
        """See `Backend.scan`; within `jax.jit` one `jax.lax.scan`, which would be compiled at each call outside."""
        if self.known(jnp.zeros(())):  # while JAX makes a graph, not even a constant is
            return super().scan(step, inputs, carry)

        def advance(before: list[Array], given: tuple[Array, Array]) -> tuple[list[Array], Array]:
            output, after = step(*given, before)
            return after, output

        final, outputs = jax.lax.scan(advance, carry, (jnp.arange(inputs.shape[0]), inputs))
        return outputs, final

    def fold(self, seed: Any, number: Any) -> Array:
        """Return a key, by `jax.random.fold_in`."""
        return jax.random.fold_in(_key(seed), number & 0xFFFFFFFF if isinstance(number, int) else number)

    def plan(self, recurrence: Recurrence, call: Call) -> Kernel:
        """Return the kernel of the mode: there is one for every call."""
        return Kernel(f"jax.{recurrence.mode}", recurrence)

    def run(
        self,
        kernel: Kernel,
        weights: KernelWeights,
        inputs: Array,
        states: Sequence[Array],
        valid_length: Array | None,
        seeds: Sequence[Any],
    ) -> tuple[Array, list[Array]]:
        """See `Backend.run`."""
        return run_kernel(self, kernel.recurrence, weights.layers, inputs, states, valid_length, seeds)

    def differentiate(
        self, function: Callable[[Backend, Sequence[Array]], Sequence[Array]], arguments: Sequence[Array]
    ) -> tuple[list[Array], Pullback]:
        """See `Backend.differentiate`; by `jax.vjp`."""
        results, pullback = jax.vjp(lambda *given: list(function(self, given)), *arguments)
        return results, lambda cotangents: list(pullback(list(cotangents)))

    def _beside(self, like: Array) -> contextlib.AbstractContextManager[Any]:
        """Return the scope of an array's one device; what is traced is placed by JAX."""
        free: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        return free if self.device(like) is None else jax.default_device(*like.devices())


def _name(device: jax.Device) -> str:
    return f"{device.platform}:{device.id}"


def _devices() -> dict[str, jax.Device]:
    """Return this process's devices by name, the default one first."""
    others = [device for client in jax.extend.backend.backends().values() for device in client.local_devices()]
    return {_name(device): device for device in [*jax.local_devices(), *others]}


def _device(name: str) -> jax.Device:
    found = _devices()
    if name not in found:
        raise UnsupportedError(f"JAX has no device {name!r}, only {', '.join(map(repr, found))}")
    return found[name]


def _key(seed: Any) -> Array:
    """Return JAX's key of an integer below 2^64, of an integer that is traced, or of a key."""
    if isinstance(seed, Array):
        return jax.random.key(seed) if seed.ndim == 0 and jnp.issubdtype(seed.dtype, jnp.integer) else seed
    halves = jnp.array([seed >> 32, seed & 0xFFFFFFFF], jnp.uint32)  # JAX itself may have no 64 bits for it
    key: Array = jax.random.wrap_key_data(halves, impl="threefry2x32")
    return key

"""The PyTorch backend: its operations, and the door to its kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rnnx.backend import Backend, Call, Kernel, KernelWeights, Pullback, Recurrence, Unsupported
from rnnx_torch.kernels import kernel_name, run_kernel

__all__ = ["TorchBackend"]


class TorchBackend(Backend):
    """Arrays are `torch.Tensor`, on any device that torch names. Gradients also flow through torch's own autograd."""

    name = "torch"

    def owns(self, array: object) -> bool:
        """See `Backend.owns`."""
        return isinstance(array, Tensor)

    def from_numpy(self, array: npt.NDArray[Any], device: str | None = None) -> Tensor:
        """See `Backend.from_numpy`."""
        copied = np.array(array)
        if copied.dtype.name == "bfloat16":
            return torch.from_numpy(copied.view(np.int16)).view(torch.bfloat16).to(device)
        return torch.from_numpy(copied).to(device)

    def to_numpy(self, array: Tensor) -> npt.NDArray[Any]:
        """See `Backend.to_numpy`; a tensor on the CPU shares its memory with the result."""
        held = array.detach().cpu()
        if held.dtype == torch.bfloat16:
            import ml_dtypes  # NumPy itself has no bfloat16

            return held.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        found: npt.NDArray[Any] = held.numpy()
        return found

    def devices(self) -> tuple[str, ...]:
        """Return the processor, and every accelerator there is."""
        cuda = tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
        return ("cpu", *cuda, *(("mps",) if torch.backends.mps.is_available() else ()))

    def dtype(self, array: Tensor) -> str:
        """See `Backend.dtype`."""
        return str(array.dtype).removeprefix("torch.")

    def device(self, array: Tensor) -> str:
        """See `Backend.device`."""
        return str(array.device)

    def affine(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See `Backend.affine`."""
        return torch.nn.functional.linear(inputs, weight, bias)

    def sigmoid(self, array: Tensor) -> Tensor:
        """See `Backend.sigmoid`."""
        return torch.sigmoid(array)

    def tanh(self, array: Tensor) -> Tensor:
        """See `Backend.tanh`."""
        return torch.tanh(array)

    def relu(self, array: Tensor) -> Tensor:
        """See `Backend.relu`."""
        return torch.relu(array)

    def softplus(self, array: Tensor) -> Tensor:
        """See `Backend.softplus`; torch's own is the identity past a threshold."""
        return torch.logaddexp(array, torch.zeros_like(array))

    def split(self, array: Tensor, parts: int | Sequence[int], axis: int = -1) -> Sequence[Tensor]:
        """See `Backend.split`; the parts are views."""
        if isinstance(parts, int):
            return torch.split(array, array.shape[axis] // parts, axis)
        return torch.split_with_sizes(array, parts, axis)

    def concat(self, arrays: Sequence[Tensor], axis: int = -1) -> Tensor:
        """See `Backend.concat`."""
        return torch.cat(list(arrays), axis)

    def stack(self, arrays: Sequence[Tensor]) -> Tensor:
        """See `Backend.stack`."""
        return torch.stack(list(arrays))

    def unstack(self, array: Tensor) -> Sequence[Tensor]:
        """See `Backend.unstack`; the entries are views."""
        return torch.unbind(array)

    def reshape(self, array: Tensor, shape: tuple[int, ...]) -> Tensor:
        """See `Backend.reshape`."""
        return array.reshape(shape)

    def swapaxes(self, array: Tensor, first: int, second: int) -> Tensor:
        """See `Backend.swapaxes`; the result is a view."""
        return array.swapaxes(first, second)

    def reverse(self, array: Tensor, valid_length: Tensor | None) -> Tensor:
        """See `Backend.reverse`."""
        if valid_length is None:
            return array.flip(0)
        times = torch.arange(array.shape[0], device=array.device)[:, None]
        source = torch.where(times < valid_length, valid_length - 1 - times, times)
        shape = source.shape + (1,) * (array.dim() - 2)
        return array.gather(0, source.reshape(shape).expand_as(array))

    def where(self, condition: Tensor, one: Tensor, other: Tensor) -> Tensor:
        """See `Backend.where`."""
        return torch.where(condition, one, other)

    def zeros(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """See `Backend.zeros`."""
        return like.new_zeros(shape)

    def bernoulli(self, seed: int, probability: float, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """See `Backend.bernoulli`; torch's global generator is left alone."""
        generator = torch.Generator(like.device).manual_seed(seed)
        return torch.rand(shape, generator=generator, device=like.device) < probability

    def steps_before(self, valid_length: Tensor, length: int) -> Tensor:
        """See `Backend.steps_before`."""
        return torch.arange(length, device=valid_length.device)[:, None] < valid_length

    def plan(self, recurrence: Recurrence, call: Call) -> Kernel | Unsupported:
        """Return torch's kernel, named for the library that runs it on the call's device."""
        name = kernel_name(recurrence.mode, call)
        return name if isinstance(name, Unsupported) else Kernel(name, recurrence)

    def run(
        self,
        kernel: Kernel,
        weights: KernelWeights,
        inputs: Tensor,
        states: Sequence[Tensor],
        valid_length: Tensor | None,
        seeds: Sequence[int],
    ) -> tuple[Tensor, list[Tensor]]:
        """See `Backend.run`."""
        return run_kernel(self, kernel.recurrence, weights, inputs, list(states), valid_length, seeds)

    def differentiate(
        self, function: Callable[[Backend, Sequence[Tensor]], Sequence[Tensor]], arguments: Sequence[Tensor]
    ) -> tuple[list[Tensor], Pullback]:
        """See `Backend.differentiate`; through torch's autograd."""
        variables = [argument.detach().requires_grad_() for argument in arguments]
        with torch.enable_grad():
            results = list(function(self, variables))

        def pullback(cotangents: Sequence[Tensor]) -> list[Tensor]:
            pairs = [(result, given) for result, given in zip(results, cotangents, strict=True) if result.requires_grad]
            found = torch.autograd.grad(
                [result for result, _ in pairs],
                variables,
                [given for _, given in pairs],
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            return list(found)

        return [result.detach() for result in results], pullback

"""The NumPy backend: its operations and kernels, with gradients through a tape."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rnnx.backend import Array, Backend, Pullback
from rnnx_numpy.operations import NumpyOperations
from rnnx_numpy.tape import record

__all__ = ["NumpyBackend"]


class NumpyBackend(NumpyOperations):
    """Arrays are `numpy.ndarray`, on the CPU."""

    def differentiate(
        self, function: Callable[[Backend, Sequence[Array]], Sequence[Array]], arguments: Sequence[Array]
    ) -> tuple[list[Array], Pullback]:
        """See `Backend.differentiate`."""
        return record(self, function, arguments)

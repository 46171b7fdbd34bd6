"""Initial weights, as MXNet gives them.

Sources: ``python/mxnet/initializer.py`` and the default of ``Module.init_params`` in MXNet 1.9.1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Initializer", "LSTMBias", "Uniform", "default_initializer", "zeros"]

Array = npt.NDArray[Any]

#: Fills a new float64 array of the given shape; the dtype of the weight is applied afterwards. The generator's type is
#: written as text because naming it would import `numpy.random` with rnnx.
Initializer = Callable[["np.random.Generator", tuple[int, ...]], Array]


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Draw from U(-scale, scale). ``Module.init_params`` takes ``Uniform(0.01)`` where the user gives nothing."""

    scale: float = 0.01

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Return a new array of `shape`."""
        return rng.uniform(-self.scale, self.scale, shape)


def zeros(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return zeros: the initial value of every bias but the forget gate's."""
    return np.zeros(shape)


@dataclasses.dataclass(frozen=True)
class LSTMBias:
    """Zeros, but `forget_bias` in the second quarter: the forget gate of i, f, c, o (Jozefowicz et al., 2015)."""

    forget_bias: float = 1.0

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Return a new array of `shape`, ``(4H,)``."""
        bias = zeros(rng, shape)
        hidden = shape[0] // 4
        bias[hidden : 2 * hidden] = self.forget_bias
        return bias


def default_initializer(name: str) -> Initializer:
    """Return MXNet's default for a weight of this name: zeros for ``*bias``, uniform for all else."""
    return zeros if name.endswith("bias") else Uniform()

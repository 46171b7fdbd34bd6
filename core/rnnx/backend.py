"""The contract of a backend: a few array operations, and fused kernels where it has them.

A backend subclasses `Backend`. Tier 1 is the methods marked abstract: with them every cell and modifier runs, step by
step. Tier 2 is `plan` and `run`: fused kernels for whole recurrences, which say `Unsupported` when they are asked,
before anything runs.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy.typing as npt

from rnnx.errors import UnsupportedError
from rnnx.seeds import folded
from rnnx.spec import GATES

__all__ = [
    "API_VERSION",
    "CAPABILITIES",
    "Array",
    "Backend",
    "BackendInfo",
    "Call",
    "Kernel",
    "KernelWeights",
    "Pullback",
    "Recurrence",
    "ScanStep",
    "Unsupported",
]

#: Version of this contract; a backend made for another one is refused with a reason.
API_VERSION = 1

#: An array of whatever framework the backend is for.
Array = Any

#: What a backend can declare that it does, and the conformance suite then holds it to.
CAPABILITIES: Mapping[str, str] = MappingProxyType(
    {
        "float64": "computes in float64 on its first device",
        "float32": "computes in float32 on its first device",
        "float16": "computes in float16 on its first device",
        "bfloat16": "computes in bfloat16 on its first device",
        "gradients": "has `Backend.differentiate`",
        **{
            f"fused.{mode}": f"has a float32 kernel for {mode}: layers, directions, masks, dropout between layers"
            for mode in GATES
        },
        "threads": "can be called from several threads at once",
    }
)

#: Takes a step's number, its inputs and what is carried; returns its output and what is carried on.
ScanStep = Callable[[Any, Array, list[Array]], tuple[Array, list[Array]]]

#: Takes the cotangents of a function's results and returns those of its arguments.
Pullback = Callable[[Sequence[Array]], list[Array]]


@dataclasses.dataclass(frozen=True)
class BackendInfo:
    """What is known of a backend without importing it: strings only.

    Parameters
    ----------
    name : str
        The name that users type.
    api_version : int
        The `API_VERSION` it was written for.
    framework : str
        The module to import for it, such as ``"torch"``.
    array_types : tuple of str
        Its arrays' classes, as ``"module.Class"``: an array is its own if a class in its type's MRO is named here. For
        classes that have no public name, such as those of arrays that are traced, `Backend.owns` is asked.
    target : str
        ``"module:Class"`` of the `Backend`, imported when the backend is first used.
    install_hint : str
        What to type if the framework is missing.
    capabilities : tuple of str
        What it declares that it can do, of `CAPABILITIES`, for the conformance suite.
    """

    name: str
    api_version: int
    framework: str
    array_types: tuple[str, ...]
    target: str
    install_hint: str
    capabilities: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Recurrence:
    """Layers of one kind that a fused kernel may run in one call.

    Layer k reads the outputs of layer k-1, of width ``D * hidden_size`` with D directions; `dropout` is applied between
    layers, in training only. The equations are those of `rnnx.LSTMCell`, `rnnx.GRUCell` and `rnnx.RNNCell`.
    """

    mode: str
    input_size: int
    hidden_size: int
    num_layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.0

    @property
    def directions(self) -> int:
        """D: 2 if bidirectional, 1 otherwise."""
        return 2 if self.bidirectional else 1

    @property
    def gates(self) -> int:
        """G: 4 for lstm, 3 for gru, 1 for the plain RNN."""
        return len(GATES[self.mode])

    @property
    def num_states(self) -> int:
        """2 for lstm (h and c), 1 otherwise."""
        return 2 if self.mode == "lstm" else 1

    def layer_input_size(self, layer: int) -> int:
        """Width of what layer `layer` reads."""
        return self.input_size if layer == 0 else self.directions * self.hidden_size


@dataclasses.dataclass(frozen=True)
class Call:
    """The kind of call a plan is made for."""

    dtype: str
    device: str | None = None
    training: bool = False
    masked: bool = False


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A fused kernel that a backend has agreed to run. A backend may subclass it to carry what its `run` needs.

    Parameters
    ----------
    name : str
        Shown by `explain`.
    recurrence : Recurrence
        What it runs.
    reads_flat : bool
        Whether it takes a fused cell's vector as it is. `KernelWeights.layers` is empty then, since cutting the vector
        up costs a copy in some frameworks.
    """

    name: str
    recurrence: Recurrence
    reads_flat: bool = False


@dataclasses.dataclass(frozen=True)
class Unsupported:
    """A kernel's no, given before anything runs, with its reason."""

    reason: str


@dataclasses.dataclass(frozen=True)
class KernelWeights:
    """The weights of a `Recurrence`.

    Parameters
    ----------
    layers : tuple of tuple of array
        For each layer and, within it, each direction: ``i2h_weight (G*H, in)``, ``h2h_weight (G*H, H)``,
        ``i2h_bias (G*H,)``, ``h2h_bias (G*H,)``, gates in the order of `rnnx.spec.GATES`. Empty for a kernel that reads
        the flat vector, where there is one.
    flat : array or None
        The one vector of which they are views, in cuDNN's canonical order, where the cell holds its weights so.
    """

    layers: tuple[tuple[Array, Array, Array, Array], ...]
    flat: Array | None = None


class Backend(abc.ABC):
    """Base of every backend. Arrays are the framework's own throughout; nothing is converted silently."""

    #: The name that users type.
    name: str

    # -- Tier 1: arrays -------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def owns(self, array: object) -> bool:
        """Say whether `array` is one of this framework's."""

    @abc.abstractmethod
    def from_numpy(self, array: npt.NDArray[Any], device: str | None = None) -> Array:
        """Return a new array of the framework with the same values and dtype."""

    @abc.abstractmethod
    def to_numpy(self, array: Array) -> npt.NDArray[Any]:
        """Return the values as a NumPy array of the same dtype."""

    @abc.abstractmethod
    def devices(self) -> tuple[str, ...]:
        """Return the names of the devices that can be used, the default one first."""

    def dtype(self, array: Array) -> str:
        """Return the name of the array's dtype as NumPy spells it, such as ``"float32"``."""
        return str(getattr(array.dtype, "name", None) or str(array.dtype).rpartition(".")[2])

    def device(self, array: Array) -> str | None:
        """Return the name of the array's device, or None where there is only one, or a graph has chosen none yet."""
        return None

    def known(self, array: Array) -> bool:
        """Say whether the array's values can be read: not those of a graph that is being made."""
        return True

    def shape(self, array: Array) -> tuple[Any, ...]:
        """Return the array's sizes: integers, or the framework's scalars where a graph is made before they are known.

        `zeros`, `bernoulli`, `reshape` and `steps_before` are given such sizes.
        """
        return tuple(array.shape)

    # -- Tier 1: operations ---------------------------------------------------------------------------------------

    @abc.abstractmethod
    def affine(self, inputs: Array, weight: Array, bias: Array | None) -> Array:
        """Return ``inputs @ weight.T + bias`` for inputs (..., I), weight (O, I) and bias (O,)."""

    @abc.abstractmethod
    def sigmoid(self, array: Array) -> Array:
        """Return 1 / (1 + exp(-x)), without overflow."""

    @abc.abstractmethod
    def tanh(self, array: Array) -> Array:
        """Return tanh(x)."""

    @abc.abstractmethod
    def relu(self, array: Array) -> Array:
        """Return max(x, 0), with NaN kept."""

    @abc.abstractmethod
    def softplus(self, array: Array) -> Array:
        """Return log(1 + exp(x)), without overflow."""

    @abc.abstractmethod
    def split(self, array: Array, parts: int | Sequence[int], axis: int = -1) -> Sequence[Array]:
        """Cut along `axis` into so many equal parts, or into parts of the given sizes."""

    @abc.abstractmethod
    def concat(self, arrays: Sequence[Array], axis: int = -1) -> Array:
        """Join along an axis they have; the result is always a new array."""

    @abc.abstractmethod
    def stack(self, arrays: Sequence[Array]) -> Array:
        """Join along a new first axis."""

    def unstack(self, array: Array) -> Sequence[Array]:
        """Return the entries along the first axis: the reverse of `stack`."""
        return [array[index] for index in range(array.shape[0])]

    @abc.abstractmethod
    def reshape(self, array: Array, shape: tuple[int, ...]) -> Array:
        """Return the same values, row-major, in another shape; one size may be -1."""

    @abc.abstractmethod
    def swapaxes(self, array: Array, first: int, second: int) -> Array:
        """Exchange two axes."""

    @abc.abstractmethod
    def reverse(self, array: Array, valid_length: Array | None) -> Array:
        """Reverse (T, N, ...) in time: all of it, or of each row n only the first ``valid_length[n]`` steps."""

    @abc.abstractmethod
    def where(self, condition: Array, one: Array, other: Array) -> Array:
        """Return `one` where the boolean `condition` holds and `other` elsewhere, with broadcasting."""

    @abc.abstractmethod
    def zeros(self, shape: tuple[int, ...], like: Array) -> Array:
        """Return zeros with the dtype and device of `like`."""

    @abc.abstractmethod
    def bernoulli(self, seed: Any, probability: float, shape: tuple[int, ...], like: Array) -> Array:
        """Return booleans that are true with `probability`, the same ones for the same seed; device of `like`.

        The seed is an integer below 2^63, or what `fold` returns.
        """

    @abc.abstractmethod
    def steps_before(self, valid_length: Array, length: int) -> Array:
        """Return the boolean mask (length, N) that is true at step t of row n where ``t < valid_length[n]``."""

    def scan(self, step: ScanStep, inputs: Array, carry: list[Array]) -> tuple[Array, list[Array]]:
        """Step through inputs (T, ...) from the first on.

        ``step(t, inputs[t], carry)`` returns an output and what is carried on. A framework that makes graphs calls it
        once, in a loop of its own, with a scalar of its own for t.

        Returns
        -------
        outputs : array
            (T, ...), every step's.
        carry : list of array
            What the last step carries on.
        """
        outputs = []
        for time, current in enumerate(self.unstack(inputs)):
            output, carry = step(time, current, carry)
            outputs.append(output)
        return self.stack(outputs), carry

    def fold(self, seed: Any, number: Any) -> Any:
        """Return the seed of a number, such as a step of `scan`: another for another, the same for the same.

        A framework that makes graphs returns whatever its `bernoulli` takes. Its seed is an integer below 2^63, what it
        returned itself, or what its users have for a seed; the number is such an integer, or a scalar of its own.
        """
        return folded(int(seed), int(number))

    # -- Tier 2: fused kernels and gradients ----------------------------------------------------------------------

    def plan(self, recurrence: Recurrence, call: Call) -> Kernel | Unsupported:
        """Return the kernel that will run the recurrence in such a call, or why none can."""
        return Unsupported(f"backend {self.name!r} has no fused kernels")

    def run(
        self,
        kernel: Kernel,
        weights: KernelWeights,
        inputs: Array,
        states: Sequence[Array],
        valid_length: Array | None,
        seeds: Sequence[Any],
    ) -> tuple[Array, list[Array]]:
        """Run a kernel that `plan` returned.

        Parameters
        ----------
        kernel : Kernel
            What `plan` returned.
        weights : KernelWeights
            The layers' weights.
        inputs : array
            (T, N, I), zero past each row's valid length.
        states : sequence of array
            h and, for lstm, c: each (L*D, N, H), direction running fastest.
        valid_length : array or None
            (N,) integers from 0 to T.
        seeds : sequence of int, or of what `fold` returns
            In training with dropout, one seed for each boundary between layers; empty otherwise.

        Returns
        -------
        outputs : array
            (T, N, D*H), zero past each row's valid length.
        states : list of array
            As given, at the last valid step of each row; a row of length 0 keeps its own.
        """
        raise UnsupportedError(f"backend {self.name!r} has no fused kernels")

    def differentiate(
        self, function: Callable[[Backend, Sequence[Array]], Sequence[Array]], arguments: Sequence[Array]
    ) -> tuple[list[Array], Pullback]:
        """Return ``function(ops, arguments)`` and its vector-Jacobian product with respect to every argument.

        `ops` is this backend, or one that records what it does.
        """
        raise UnsupportedError(f"backend {self.name!r} does not give gradients")

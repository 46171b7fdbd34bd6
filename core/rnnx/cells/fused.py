"""`FusedRNNCell`: all layers and directions in one cell, one kernel and one vector of weights."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from rnnx.backend import Array, Recurrence
from rnnx.cells.base import BaseRNNCell
from rnnx.checks import finite, fraction, whole
from rnnx.errors import UnsupportedError, WeightFormatError, nearest
from rnnx.fusion import unfused_spec
from rnnx.initializers import LSTMBias, default_initializer
from rnnx.ops import Ops, Stepped, Weights
from rnnx.params import RNNParams, Shape
from rnnx.registry import backend_of, get_backend
from rnnx.spec import GATES, MODES
from rnnx.weights.layout import (
    GROUPS,
    flat_size,
    input_size_of_flat,
    join_flat,
    layer_names,
    merge_gates,
    split_flat,
    split_gates,
    take,
)

if TYPE_CHECKING:
    from rnnx.plan import Planner
    from rnnx.stages import Stage

__all__ = ["FusedRNNCell"]


class FusedRNNCell(BaseRNNCell):
    """Layers of one kind of cell, fused.

    The equations are those of `LSTMCell`, `GRUCell` and `RNNCell`. With D directions, layer k reads the D * H outputs
    of layer k-1, forward and backward side by side. States are h and, for lstm, c, each (L * D, N, H), with the
    direction running fastest. The weights are one vector, ``parameters``, in cuDNN's canonical order (see
    `rnnx.weights.layout`).

    Parameters
    ----------
    num_hidden : int
        H, the number of units of a layer and direction.
    num_layers : int
        L, the number of layers.
    mode : {"lstm", "gru", "rnn_tanh", "rnn_relu"}
        The kind of cell.
    bidirectional : bool
        Whether each layer also runs backward in time; outputs are then 2 * H wide.
    dropout : float
        Fraction of each layer's outputs, but the last layer's, dropped out in training; with one layer, none.
    get_next_state : bool
        Whether `unroll` returns the final states; an empty list otherwise.
    forget_bias : float
        Initial value of the forget gate in **both** biases, as in MXNet, so 2 in effect for the default of 1.
    prefix : str, optional
        Put before the weights' names; ``"lstm_"``, ``"gru_"``, ``"rnn_tanh_"``, ``"rnn_relu_"`` by default.
    params : RNNParams, optional
        Weights to share with another cell.
    """

    def __init__(
        self,
        num_hidden: int,
        num_layers: int = 1,
        mode: str = "lstm",
        bidirectional: bool = False,
        dropout: float = 0.0,
        get_next_state: bool = False,
        forget_bias: float = 1.0,
        prefix: str | None = None,
        params: RNNParams | None = None,
    ) -> None:
        if mode not in MODES:
            raise UnsupportedError(f"no mode is called {mode!r}{nearest(mode, MODES)}; there are {', '.join(MODES)}")
        super().__init__(f"{mode}_" if prefix is None else prefix, params)
        sizes = whole("num_hidden", num_hidden), whole("num_layers", num_layers)
        self._recurrence = Recurrence(mode, 1, *sizes, bool(bidirectional), fraction("dropout", dropout))
        self._get_next_state = get_next_state
        self._forget_bias = finite("forget_bias", forget_bias)
        self._params.get("parameters", shape=self._flat_shape, init=self._initial)

    @property
    def state_info(self) -> list[dict[str, Any]]:
        """The states h and, for lstm, c: each (L * D, N, H)."""
        layers = self._recurrence.num_layers * self._recurrence.directions
        info = {"shape": (layers, 0, self._recurrence.hidden_size), "__layout__": "LNC"}
        return [dict(info) for _ in range(self._recurrence.num_states)]

    @property
    def _gate_names(self) -> Sequence[str]:
        return GATES[self._recurrence.mode]

    def output_size(self, input_size: int) -> int:
        """Return D * H."""
        return self._recurrence.directions * self._recurrence.hidden_size

    def __call__(self, inputs: Array, states: Any, training: bool = False, seed: int | None = None) -> NoReturn:
        """Refuse: as in MXNet, a fused cell runs whole sequences only."""
        raise UnsupportedError("FusedRNNCell cannot be stepped: use unroll(), or step the cells of unfuse()")

    def unfuse(self) -> BaseRNNCell:
        """Return the `SequentialRNNCell` of plain cells that this is equal to, with the weights it has."""
        return self.converted(unfused_spec(self.spec))

    # -- running --------------------------------------------------------------------------------------------------

    def stage(self, planner: Planner, input_size: int) -> Stage:
        """Return the kernel's stage, or where the backend has none the unfused cells'."""
        recurrence = self._sized(input_size)

        def unfused() -> Stage:
            return BaseRNNCell.from_spec(unfused_spec(self.spec)).stage(planner, input_size)

        return planner.fused(recurrence, self._params.prefix + "parameters", self._prefix, unfused)

    def stepper(self, ops: Ops, weights: Weights) -> Stepped:
        """Refuse: a fused cell runs whole sequences only."""
        raise UnsupportedError("FusedRNNCell cannot be stepped: use unfuse() first")

    def merges(self, inputs_merged: bool) -> bool:
        """Say True: a fused cell's outputs are one array."""
        return True

    def nest(self, states: list[Any]) -> list[Any]:
        """Return the final states if they were asked for, and none otherwise."""
        return states if self._get_next_state else []

    # -- weights --------------------------------------------------------------------------------------------------

    def input_size_of(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """Return the input size for which the vector has its length."""
        name = self._params.prefix + "parameters"
        if name not in shapes:
            return None
        if len(shapes[name]) != 1:
            raise WeightFormatError(f"weight {name!r} has shape {shapes[name]}, expected one axis")
        return input_size_of_flat(shapes[name][0], self._recurrence)

    def accepted_names(self) -> Iterator[str]:
        """Yield the flat vector's name, each layer's packed ones, and those of each gate."""
        yield from super().accepted_names()
        for _, prefix in layer_names(self._prefix, self._recurrence):
            yield from (prefix + group for group in GROUPS)

    def unpack_own(self, args: MutableMapping[str, Array]) -> None:
        """Replace the flat vector by each layer's weights, one a gate."""
        flat = take(args, self._params.prefix + "parameters")
        ops = backend_of([flat])
        recurrence = self._sized(input_size_of_flat(flat.shape[0], self._recurrence))
        layers = split_flat(ops, flat, recurrence).layers
        unpacked: dict[str, Array] = {}
        for (_, prefix), layer in zip(layer_names(self._prefix, recurrence), layers, strict=True):
            unpacked.update(zip((prefix + group for group in GROUPS), layer, strict=True))
            split_gates(ops, unpacked, prefix, self._gate_names)
        # In the vector's order, which is MXNet's too: every weight, then every bias.
        for kind in ("weight", "bias"):
            args.update({name: array for name, array in unpacked.items() if name.endswith(kind)})

    def pack_own(self, args: MutableMapping[str, Array]) -> None:
        """Replace each layer's weights of each gate by the flat vector."""
        first = f"{self._prefix}l0_i2h{self._gate_names[0]}_weight"
        if first not in args:
            raise WeightFormatError(f"weight {first!r} is missing{nearest(first, args)}")
        ops, recurrence = backend_of([args[first]]), self._sized(args[first].shape[1])
        layers = []
        for layer, prefix in layer_names(self._prefix, recurrence):
            merge_gates(ops, args, prefix, self._gate_names)
            weights = [take(args, prefix + group) for group in GROUPS]
            self._check_layer(prefix, recurrence.layer_input_size(layer), weights)
            layers.append((weights[0], weights[1], weights[2], weights[3]))
        args[self._params.prefix + "parameters"] = join_flat(ops, layers)

    def pack_present(self, args: MutableMapping[str, Array]) -> None:
        """Pack the layers' weights if any is there, one a gate or packed by layer."""
        for _, prefix in layer_names(self._prefix, self._recurrence):
            if f"{prefix}i2h_weight" in args:
                split_gates(backend_of([args[f"{prefix}i2h_weight"]]), args, prefix, self._gate_names)
        if any(name in args for name in self._unpacked_names()):
            self.pack_own(args)

    def gate_weights(self) -> dict[str, tuple[str, ...]]:
        """Return the names of the weights of single gates in the order in which the vector holds them."""
        return {self._params.prefix + "parameters": tuple(self._unpacked_names())}

    def gate_shapes(self, input_size: int) -> dict[str, Shape]:
        """Return the shape of every weight of a single gate for inputs of a width; see `Node.gate_shapes`."""
        hidden, recurrence = self._recurrence.hidden_size, self._sized(input_size)
        widths = {prefix: recurrence.layer_input_size(layer) for layer, prefix in layer_names(self._prefix, recurrence)}
        shapes: dict[str, Shape] = {}
        for kind in ("weight", "bias"):
            for prefix, width in widths.items():
                for role, columns in (("i2h", width), ("h2h", hidden)):
                    shape = (hidden, columns) if kind == "weight" else (hidden,)
                    shapes.update({f"{prefix}{role}{gate}_{kind}": shape for gate in self._gate_names})
        return shapes

    def _unpacked_names(self) -> Iterator[str]:
        return iter(self.gate_shapes(1))

    def _check_layer(self, prefix: str, width: int, weights: Sequence[Array]) -> None:
        hidden = self._recurrence.hidden_size
        rows = self._recurrence.gates * hidden
        for group, weight, shape in zip(
            GROUPS, weights, ((rows, width), (rows, hidden), (rows,), (rows,)), strict=True
        ):
            if tuple(weight.shape) != shape:
                raise WeightFormatError(
                    f"weight {prefix + group!r}, all gates together, has shape {tuple(weight.shape)}, expected {shape}"
                )

    def _sized(self, input_size: int) -> Recurrence:
        return _sized(self._recurrence, input_size)

    def _flat_shape(self, input_size: int) -> Shape:
        return (flat_size(self._sized(input_size)),)

    def _initial(self, rng: np.random.Generator, shape: Shape) -> Any:
        """Return a first vector: MXNet's ``init.FusedRNN``, which fills each gate by its name."""
        numpy = get_backend("numpy")
        layers = split_flat(numpy, np.zeros(shape), self._sized(input_size_of_flat(shape[0], self._recurrence))).layers
        bias = LSTMBias(self._forget_bias) if self._recurrence.mode == "lstm" else default_initializer("bias")
        weight = default_initializer("weight")
        for layer in layers:
            for group, array in zip(GROUPS, layer, strict=True):
                array[...] = (bias if group.endswith("bias") else weight)(rng, array.shape)
        return join_flat(numpy, layers)

    def _fields(self) -> dict[str, Any]:
        return {
            "num_hidden": self._recurrence.hidden_size,
            "num_layers": self._recurrence.num_layers,
            "mode": self._recurrence.mode,
            "bidirectional": self._recurrence.bidirectional,
            "dropout": self._recurrence.dropout,
            "get_next_state": bool(self._get_next_state),
            "forget_bias": self._forget_bias,
            "prefix": self._prefix,
        }


@functools.lru_cache(maxsize=256)
def _sized(recurrence: Recurrence, input_size: int) -> Recurrence:
    """Return a recurrence with its input size filled in; kept, since every call asks for it several times."""
    return dataclasses.replace(recurrence, input_size=input_size)

"""Where each gate's weights stand: packed, per gate, and in one flat vector.

A cell with G gates holds four packed weights, ``i2h_weight (G*H, in)``, ``h2h_weight (G*H, H)``, ``i2h_bias (G*H,)``
and ``h2h_bias (G*H,)``. Unpacked, each gate has its own: ``i2h_f_weight (H, in)``. A fused cell holds all layers in
one vector, in cuDNN's canonical order: every matrix by layer, direction and i2h before h2h, then every bias likewise.

Everything here works on arrays of any backend, through its operations, and moves bits without changing them.

Sources: ``python/mxnet/rnn/rnn_cell.py`` of MXNet 1.9.1 (``pack_weights``, ``_slice_weights``); cuDNN's
``cudnnGetRNNWeightParams`` for the order of layers, directions and gates.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, MutableMapping, Sequence

from rnnx.backend import Array, Backend, KernelWeights, Recurrence
from rnnx.errors import WeightFormatError, nearest

__all__ = [
    "DIRECTIONS",
    "GROUPS",
    "flat_size",
    "input_size_of_flat",
    "join_flat",
    "layer_names",
    "merge_gates",
    "reorder_gates",
    "split_flat",
    "split_gates",
    "take",
]

#: The four packed weights of a layer, in the order in which kernels are given them.
GROUPS = ("i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias")

#: Letters of the forward and the backward direction in a fused cell's names.
DIRECTIONS = ("l", "r")


def take(args: MutableMapping[str, Array], name: str) -> Array:
    """Remove a weight from a dict of weights and return it; `WeightFormatError` if it is not there."""
    if name not in args:
        raise WeightFormatError(f"weight {name!r} is missing{nearest(name, args)}")
    return args.pop(name)


def split_gates(ops: Backend, args: MutableMapping[str, Array], prefix: str, gates: Sequence[str]) -> None:
    """Replace a cell's four packed weights in `args` by one weight a gate, which go to the end as MXNet orders them."""
    for role in ("i2h", "h2h"):
        parts = {kind: _gates(ops, args, f"{prefix}{role}_{kind}", len(gates)) for kind in ("weight", "bias")}
        for index, gate in enumerate(gates):
            for kind, each in parts.items():
                args[f"{prefix}{role}{gate}_{kind}"] = ops.concat([each[index]], 0)


def _gates(ops: Backend, args: MutableMapping[str, Array], name: str, count: int) -> Sequence[Array]:
    packed = take(args, name)
    if packed.shape[0] % count:
        raise WeightFormatError(f"weight {name!r} has shape {tuple(packed.shape)}, expected rows for {count} gates")
    return ops.split(packed, count, 0)


def merge_gates(ops: Backend, args: MutableMapping[str, Array], prefix: str, gates: Sequence[str]) -> None:
    """Replace a cell's weights of each gate in `args` by its four packed ones: the reverse of `split_gates`."""
    if gates == ("",):
        return
    for group in GROUPS:
        name, kind = group.split("_")
        parts = [take(args, f"{prefix}{name}{gate}_{kind}") for gate in gates]
        args[f"{prefix}{group}"] = ops.concat(parts, 0)


def reorder_gates(ops: Backend, packed: Array, stored: Sequence[str], wanted: Sequence[str]) -> Array:
    """Return a packed weight whose gates stand in the order `wanted`, given one in the order `stored`."""
    parts = dict(zip(stored, ops.split(packed, len(stored), 0), strict=True))
    return ops.concat([parts[gate] for gate in wanted], 0)


def layer_names(prefix: str, recurrence: Recurrence) -> Iterator[tuple[int, str]]:
    """Yield each layer's number and the prefix of its weights, direction running fastest: ``(0, "lstm_l0_")``."""
    for layer in range(recurrence.num_layers):
        for direction in DIRECTIONS[: recurrence.directions]:
            yield layer, f"{prefix}{direction}{layer}_"


def flat_size(recurrence: Recurrence) -> int:
    """Return the length of a fused cell's vector: ``sum over layers of G*H*D*(in + H + 2)``."""
    return sum(_parts(recurrence)[0])


def input_size_of_flat(size: int, recurrence: Recurrence) -> int:
    """Return the input size for which a fused cell's vector has `size` elements; `recurrence.input_size` is ignored.

    Raises
    ------
    WeightFormatError
        If there is none.
    """
    hidden, directions, gates = recurrence.hidden_size, recurrence.directions, recurrence.gates
    upper = (recurrence.num_layers - 1) * (hidden + directions * hidden + 2)
    quotient, remainder = divmod(size, directions * hidden * gates)
    found = quotient - upper - hidden - 2
    if remainder or found < 1:
        raise WeightFormatError(
            f"a vector of {size} elements is no {recurrence.mode} of {recurrence.num_layers} layers, {directions} "
            f"directions and {hidden} hidden units, whatever the input size"
        )
    return found


def split_flat(ops: Backend, flat: Array, recurrence: Recurrence) -> KernelWeights:
    """Return every layer's weights as parts of the flat vector (views, where the framework has them)."""
    sizes, shapes = _parts(recurrence)
    parts = ops.split(flat, sizes, 0)
    matrices = [ops.reshape(part, shape) for part, shape in zip(parts, shapes, strict=False)]
    vectors = parts[len(shapes) :]
    layers = zip(matrices[::2], matrices[1::2], vectors[::2], vectors[1::2], strict=True)
    return KernelWeights(tuple(layers), flat)


def join_flat(ops: Backend, layers: Sequence[tuple[Array, Array, Array, Array]]) -> Array:
    """Return the flat vector of all layers' weights: the reverse of `split_flat`."""
    ordered = itertools.chain((m for layer in layers for m in layer[:2]), (v for layer in layers for v in layer[2:]))
    return ops.concat([ops.reshape(array, (-1,)) for array in ordered], 0)


@functools.lru_cache(maxsize=256)
def _parts(recurrence: Recurrence) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    """Return the length of each part of the flat vector, and the shapes of those that are matrices, the first ones.

    Kept, since every call asks for them.
    """
    hidden, rows = recurrence.hidden_size, recurrence.gates * recurrence.hidden_size
    widths = [recurrence.layer_input_size(layer) for layer, _ in layer_names("", recurrence)]
    shapes = tuple((rows, columns) for width in widths for columns in (width, hidden))
    return (*(rows * columns for _, columns in shapes), *(rows for _ in shapes)), shapes

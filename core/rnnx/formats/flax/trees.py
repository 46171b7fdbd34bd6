"""The recurrent cells in a tree of flax's parameters, told by the names and shapes of their arrays.

`MODULES` says how the arrays of each cell class are called and which gates each holds: the one table by which files are
read and written. Kernels are transposed, ``(I, H)`` where MXNet has ``(H, I)``. A cell has one bias a gate, which is
read into ``i2h``; only the candidate of a GRU may have one on each side of its product.

=================================  ===================================================================
``linen.LSTMCell``                 ``ii if ig io`` kernel; ``hi hf hg ho`` kernel and bias
``linen.OptimizedLSTMCell``        the same arrays
``linen.GRUCell``                  ``ir iz in`` kernel and bias; ``hr hz`` kernel; ``hn`` kernel and bias
``linen.SimpleCell``               ``i`` kernel and bias; ``h`` kernel
``nnx.LSTMCell``                   as linen's, but for ``if_``
``nnx.OptimizedLSTMCell``          ``dense_i`` kernel; ``dense_h`` kernel and bias; columns i f g o
``nnx.GRUCell``                    ``dense_i`` kernel and bias; ``dense_h`` kernel; columns r z n
``nnx.SimpleCell``                 ``dense_i`` kernel and bias; ``dense_h`` kernel
=================================  ===================================================================

``RNN`` puts its cell at ``cell``, ``Bidirectional`` its two at ``forward_rnn/cell`` and ``backward_rnn/cell``. Nothing
tells a cell's activations, nor whether a ``SimpleCell`` adds its state to what it activates (``residual=True``): the
activation of plain cells is asked for, and everything else is taken to be as flax has it by default.

Source: ``flax/linen/recurrent.py`` and ``flax/nnx/nn/recurrent.py`` of flax 0.12.8.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence

from rnnx.building import plain_cell, two_directions
from rnnx.errors import UnsupportedError
from rnnx.found import Assumptions, Found, layered, renamed_apart
from rnnx.spec import CellSpec
from rnnx.weights.stored import Block, Shape, Stored, gates, merged_biases

__all__ = ["BACKWARD", "CELL", "FORWARD", "LINEN", "Module", "cell_tensors", "parts_of_tree"]

#: What flax calls the cell of an ``RNN``, and the two of a ``Bidirectional``.
CELL, FORWARD, BACKWARD = "cell", "forward_rnn", "backward_rnn"

#: Where optimisers keep moments, which are called as the parameters are.
_OPTIMISER = "opt_state"

#: A place that is called as the forward layers of a fused cell are.
_LAYER = re.compile(r"(?s)((?:.*[_/])?)l(\d+)")


@dataclasses.dataclass(frozen=True)
class _Dense:
    """A dense layer of a cell: its name, the product it makes, the gates in its columns, and whether it has a bias."""

    name: str
    role: str
    gates: tuple[str, ...]
    bias: bool


@dataclasses.dataclass(frozen=True)
class Module:
    """A class of cells.

    Parameters
    ----------
    title : str
        What flax calls it.
    mode : str
        What it computes, as of `rnnx.building.plain_cell`.
    layers : tuple
        Its dense layers.
    """

    title: str
    mode: str
    layers: tuple[_Dense, ...]

    @property
    def hidden(self) -> _Dense:
        """The first layer that reads the state."""
        return next(layer for layer in self.layers if layer.role == "h2h")

    def fits(self, layers: Mapping[str, Mapping[str, Shape]]) -> bool:
        """Say whether the arrays of a module's layers are called as this class's are, and shaped like its."""
        if layers.keys() != {layer.name for layer in self.layers}:
            return False
        wanted = {layer.name: {"kernel": 2, "bias": 1} if layer.bias else {"kernel": 2} for layer in self.layers}
        if any({leaf: len(shape) for leaf, shape in layers[name].items()} != ndims for name, ndims in wanted.items()):
            return False
        width, _ = layers[self.layers[0].name]["kernel"]
        rows, columns = layers[self.hidden.name]["kernel"]
        return width > 0 and rows > 0 and columns == rows * len(self.hidden.gates)


def _apart(order: Sequence[str], inputs: str, states: str, biased: str) -> tuple[_Dense, ...]:
    """Return one dense layer a gate, of the inputs and of the state; those whose names are in `biased` have a bias."""
    named = (("i2h", inputs.split()), ("h2h", states.split()))
    return tuple(
        _Dense(name, role, (gate,), name in biased.split())
        for role, names in named
        for name, gate in zip(names, order, strict=True)
    )


def _together(order: tuple[str, ...], biased: str) -> tuple[_Dense, ...]:
    """Return a dense layer for the inputs and one for the state, of which `biased` has a bias."""
    return tuple(_Dense(name, role, order, name == biased) for name, role in (("dense_i", "i2h"), ("dense_h", "h2h")))


_LSTM, _GRU, _RNN = ("_i", "_f", "_c", "_o"), ("_r", "_z", "_o"), ("",)

#: The cells of linen by the mode that each computes; `OptimizedLSTMCell` has the arrays of `LSTMCell`.
LINEN: Mapping[str, Module] = {
    "lstm": Module("linen.LSTMCell", "lstm", _apart(_LSTM, "ii if ig io", "hi hf hg ho", "hi hf hg ho")),
    "gru": Module("linen.GRUCell", "gru", _apart(_GRU, "ir iz in", "hr hz hn", "ir iz in hn")),
    "rnn": Module("linen.SimpleCell", "rnn", _apart(_RNN, "i", "h", "i")),
}

#: Every class of cells whose arrays are known.
MODULES = (
    *LINEN.values(),
    Module("nnx.LSTMCell", "lstm", _apart(_LSTM, "ii if_ ig io", "hi hf hg ho", "hi hf hg ho")),
    Module("nnx.OptimizedLSTMCell", "lstm", _together(_LSTM, "dense_h")),
    Module("nnx.GRUCell", "gru", _together(_GRU, "dense_i")),
    Module("nnx.SimpleCell", "rnn", _together(_RNN, "dense_i")),
)

#: The dense layers of linen's minimal gated unit, which rnnx has no cell for.
_MGU = {"if", "in", "hf", "hn"}


def cell_tensors(module: Module, stem: str, prefix: str, input_size: int, num_hidden: int) -> tuple[Stored, ...]:
    """Return how the arrays of a cell are made of weights.

    Parameters
    ----------
    module : Module
        The cell's class.
    stem : str
        What the names of its arrays begin with, such as ``"params/encoder/cell/"``.
    prefix : str
        What the names of its weights begin with.
    input_size, num_hidden : int
        The width of its inputs and the number of its units.
    """
    tensors = []
    for layer in module.layers:
        shape = (input_size if layer.role == "i2h" else num_hidden, len(layer.gates) * num_hidden)
        held = gates(prefix, f"{layer.role}_weight", layer.gates)
        tensors.append(Stored(f"{stem}{layer.name}/kernel", shape, held, transposed=True))
        if layer.bias:
            tensors.append(Stored(f"{stem}{layer.name}/bias", shape[1:], _biases(module.mode, prefix, layer)))
    return tuple(tensors)


def _biases(mode: str, prefix: str, layer: _Dense) -> tuple[Block, ...]:
    """Return the blocks of a layer's bias: of each gate the only one, but for a GRU's candidate, which has two."""
    alone = gates(prefix, f"{layer.role}_bias", layer.gates)
    merged = merged_biases(prefix, layer.gates)
    return tuple(
        one if (mode, gate) == ("gru", "_o") else both
        for gate, one, both in zip(layer.gates, alone, merged, strict=True)
    )


def parts_of_tree(shapes: Mapping[str, Shape], assume: Assumptions) -> list[Found]:
    """Return the recurrent parts among arrays, given the shape of every array by name.

    Raises
    ------
    UnsupportedError
        If there is a cell that rnnx has nothing for.
    WeightFormatError
        If there are plain cells and nobody said what their activation is.
    """
    placed = {each.stem: each for each in _placed(shapes)}
    parts = []
    for stem, cell in placed.items():
        other = placed.get(_opposite(stem, BACKWARD, FORWARD) or _opposite(stem, FORWARD, BACKWARD) or "")
        if other is None or other is cell:
            parts.append(_alone(cell, assume))
        elif _opposite(stem, FORWARD, BACKWARD):
            parts.append(_both(cell, other, assume))
    return renamed_apart(layered(parts))


def _opposite(stem: str, one: str, other: str) -> str | None:
    """Return the stem of a layer's other direction, where a stem is of the direction `one`."""
    ending = f"/{one}/{CELL}/"
    if not f"/{stem}".endswith(ending):
        return None
    return f"{stem.removesuffix(ending[1:])}{other}/{CELL}/"


@dataclasses.dataclass(frozen=True)
class _Placed:
    """A cell in the tree: its class, the names before its arrays', and its place in the model without ``cell``."""

    module: Module
    stem: str
    place: str
    input_size: int
    num_hidden: int

    def tensors(self, prefix: str) -> tuple[Stored, ...]:
        return cell_tensors(self.module, self.stem, prefix, self.input_size, self.num_hidden)

    def cell(self, prefix: str, part: str, assume: Assumptions) -> CellSpec:
        activation = assume.activation_of(part) if self.module.mode == "rnn" else None
        return plain_cell(self.module.mode, self.num_hidden, prefix, activation=activation)

    def evidence(self, assume: Assumptions) -> Iterator[str]:
        names = ", ".join(layer.name for layer in self.module.layers)
        optimized = " or linen.OptimizedLSTMCell" if self.module is LINEN["lstm"] else ""
        yield (
            f"{self.stem!r} has the arrays of {self.module.title}{optimized}, {names}, for {self.input_size} inputs "
            f"and {self.num_hidden} units"
        )
        if self.module.mode == "rnn":
            yield f"the activation is not in the file: {assume.activation} is what was given"
            yield "residual=True of a SimpleCell does not show in a file: it is taken to be False, as it is by default"
        else:
            yield "activations are not in the file: they are taken to be sigmoid and tanh, as they are by default"


def _placed(shapes: Mapping[str, Shape]) -> Iterator[_Placed]:
    """Yield every cell, in the order of the file."""
    modules: dict[str, dict[str, dict[str, Shape]]] = {}
    for name, shape in shapes.items():
        path, _, leaf = name.rpartition("/")
        stem = path[: path.rfind("/") + 1]
        modules.setdefault(stem, {}).setdefault(path[len(stem) :], {})[leaf] = shape
    for stem, layers in modules.items():
        if f"/{_OPTIMISER}/" in f"/{stem}":
            continue
        if layers.keys() == _MGU and all("kernel" in layer for layer in layers.values()):
            raise UnsupportedError(
                f"{stem!r} has the arrays of linen.MGUCell, if, in, hf, hn: a unit of two gates, which rnnx has no "
                "cell for: write a class for it, as docs/cells.md shows, and load its weights with load_params()"
            )
        for module in MODULES:
            if module.fits(layers):
                widths = [layers[layer.name]["kernel"][0] for layer in (module.layers[0], module.hidden)]
                yield _Placed(module, stem, _place(stem), *widths)


def _place(stem: str) -> str:
    """Return where in the model a cell is: without the collection of parameters, and without an RNN's ``cell``."""
    place = f"/{stem.removeprefix('params/')}".removesuffix("/")
    return place.removesuffix(f"/{CELL}").removeprefix("/")


def _alone(cell: _Placed, assume: Assumptions) -> Found:
    prefix = f"{cell.place or cell.module.mode}_"
    name = prefix[:-1]
    spec = cell.cell(prefix, name, assume)
    return Found(name, spec, tuple(cell.evidence(assume)), cell.input_size, cell.num_hidden, cell.tensors(prefix))


def _both(forward: _Placed, backward: _Placed, assume: Assumptions) -> Found:
    """Return the part of two cells that are called as the directions of one layer."""
    name = forward.place.removesuffix(FORWARD).removesuffix("/") or forward.module.mode
    ahead, back, outputs = _direction_prefixes(name)
    backward = dataclasses.replace(backward, input_size=forward.input_size)
    cells = (forward.cell(ahead, name, assume), backward.cell(back, name, assume))
    seen = f"{forward.stem!r} and {backward.stem!r} are called as the directions of a Bidirectional are"
    return Found(
        name,
        two_directions(cells, outputs),
        (*forward.evidence(assume), *backward.evidence(assume), seen),
        forward.input_size,
        forward.num_hidden + backward.num_hidden,
        (*forward.tensors(ahead), *backward.tensors(back)),
    )


def _direction_prefixes(place: str) -> tuple[str, str, str]:
    """Return the prefixes of a layer's forward cell, its backward cell and its outputs, as a fused cell has them."""
    layer = _LAYER.fullmatch(place)
    before, number = layer.groups() if layer else (f"{place}_", "0")
    return f"{before}l{number}_", f"{before}r{number}_", f"{before}bi_l{number}_"

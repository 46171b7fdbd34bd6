"""PyTorch's recurrent modules in a state dict: told by names and shapes, and how their tensors are made of weights.

With H hidden units, G gates (4, 3 or 1) and inputs I wide, a module called ``<place>`` has for layer k

=======================================  ===============  =============================================
``<place>.weight_ih_l{k}``               ``(G*H, I)``     the gates one under the other: LSTM i f g o,
``<place>.weight_hh_l{k}``               ``(G*H, H)``     GRU r z n, which are i f c o and r z o here
``<place>.bias_ih_l{k}``, ``bias_hh``    ``(G*H,)``       neither is there with ``bias=False``
``<place>.weight_hr_l{k}``               ``(P, H)``       LSTM with ``proj_size=P``; then weight_hh is
                                                          ``(G*H, P)``
=======================================  ===============  =============================================

and of the backward direction the same with ``_reverse`` behind. ``nn.LSTMCell``, ``nn.GRUCell`` and ``nn.RNNCell`` have
no ``_l{k}``. The activation of ``nn.RNN`` is told by neither name nor shape.

Source: ``torch/nn/modules/rnn.py`` of PyTorch 2.13.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence

from rnnx.building import fused_cell, plain_cell, two_directions
from rnnx.cells import placement
from rnnx.errors import WeightFormatError, nearest
from rnnx.found import MAX_LAYERS, Assumptions, Found, built, natural, renamed_apart, stack_of
from rnnx.fusion import running_layers
from rnnx.spec import GATES, CellSpec
from rnnx.weights.stored import Shape, Stored, blocks, gates

__all__ = ["GATE_ORDER", "Place", "module_tensors", "parts_of_state_dict"]

#: The gates of each kind of cell, in the order in which a tensor holds them.
GATE_ORDER: Mapping[str, tuple[str, ...]] = {
    "LSTMCell": GATES["lstm"],
    "LSTMPCell": GATES["lstm"],
    "GRUCell": GATES["gru"],
    "RNNCell": GATES["rnn_tanh"],
}

_GROUPS = (
    ("weight_ih", "i2h_weight"),
    ("weight_hh", "h2h_weight"),
    ("bias_ih", "i2h_bias"),
    ("bias_hh", "h2h_bias"),
)

#: What stands before the name, which is nothing or ends a word; the name; the layer, and whether it runs backwards.
_TENSOR = re.compile(
    r"(?s)(?P<place>|.*[^0-9A-Za-z])"
    r"(?P<tensor>(?:weight|bias)_(?:ih|hh)|weight_hr(?=_l))"
    r"(?:_l(?P<layer>0|[1-9][0-9]{0,8})(?P<reverse>_reverse)?)?"
)

_MODE_OF_GATES = {4: "lstm", 3: "gru", 1: "rnn"}

_WHAT = {"lstm": "an LSTM", "gru": "a GRU", "rnn": "a plain recurrent module"}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a module stands in a state dict.

    Parameters
    ----------
    before : str
        What its tensors' names begin with: ``"encoder.lstm."``, or nothing.
    numbered : bool
        Whether they bear the number of a layer, as those of ``nn.LSTM`` and not of ``nn.LSTMCell``.
    """

    before: str
    numbered: bool = True

    def tensor(self, name: str, layer: int = 0, reverse: str = "") -> str:
        """Return what a tensor is called in full."""
        return f"{self.before}{name}_l{layer}{reverse}" if self.numbered else self.before + name


def module_tensors(
    place: Place, layers: Sequence[CellSpec], shapes: Mapping[str, Shape], biased: bool = True
) -> Iterator[Stored]:
    """Yield how the tensors of a module are made of its weights, in the order of a state dict.

    Parameters
    ----------
    place : Place
        Where the module stands.
    layers : sequence of CellSpec
        The plain cell of each layer, or the ``BidirectionalCell`` of two.
    shapes : mapping of str to tuple of int
        The shape of every weight by name.
    biased : bool
        Whether there are biases; without them, all are zero.
    """
    for number, layer in enumerate(layers):
        cells = layer.children if layer.kind == "BidirectionalCell" else (layer,)
        for cell, reverse in zip(cells, ("", "_reverse"), strict=False):
            own = cell.fields.get("params", cell.fields["prefix"])
            for theirs, ours in _GROUPS[: 4 if biased else 2]:
                held = gates(own, ours, GATE_ORDER[cell.kind])
                rows, *width = shapes[held[0].weight]
                yield Stored(place.tensor(theirs, number, reverse), (len(held) * rows, *width), held)
            if cell.kind == "LSTMPCell":
                held = blocks(f"{own}h2r_weight")
                yield Stored(place.tensor("weight_hr", number, reverse), shapes[held[0].weight], held)


def parts_of_state_dict(shapes: Mapping[str, Shape], assume: Assumptions) -> list[Found]:
    """Return the recurrent modules that a state dict holds, in natural order of their names.

    Each is a part of its own: what runs between them is told by no name and no shape.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        The shape of every tensor by its name. Those that are no recurrent module's are passed over.
    assume : Assumptions
        The activation of ``nn.RNN`` and ``nn.RNNCell``.

    Raises
    ------
    WeightFormatError
        If a module's tensors are incomplete or do not fit each other, or the activation must be said and is not.
    """
    modules: dict[Place, list[re.Match[str]]] = {}
    for name in shapes:
        named = _TENSOR.fullmatch(name)
        if named:
            modules.setdefault(Place(named["place"], named["layer"] is not None), []).append(named)
    found = [_Module(place, names, shapes).found(assume) for place, names in modules.items()]
    return renamed_apart(sorted(found, key=lambda part: natural(part.name)))


class _Module:
    """A module whose tensors have these names, and what they tell of it."""

    def __init__(self, place: Place, names: Sequence[re.Match[str]], shapes: Mapping[str, Shape]) -> None:
        self._place, self._shapes = place, shapes
        self._depth = len({named["layer"] for named in names})
        if self._depth > MAX_LAYERS:
            raise WeightFormatError(f"{place.before!r} has {self._depth} layers; up to {MAX_LAYERS} are read")
        self._bidirectional = any(named["reverse"] for named in names)
        self._biased = any(named["tensor"].startswith("bias") for named in names)
        self._projected = any(named["tensor"] == "weight_hr" for named in names)
        self._sizes()

    def found(self, assume: Assumptions) -> Found:
        """Return the part that the module is."""
        where = self._place.before[:-1]
        name = where or self._mode
        activation = assume.activation_of(name) if self._mode == "rnn" else None
        if activation not in (None, "tanh", "relu"):
            raise WeightFormatError(
                f"part {name!r} is of {_WHAT['rnn']} and activation={activation!r}: PyTorch's are 'tanh' and 'relu'"
            )
        mode = f"rnn_{activation}" if activation else self._mode
        if not where:
            name = mode if self._place.numbered else self._mode
        spec = self._spec(mode, f"{name}_")
        cell = built(spec)
        weights = placement.gate_shapes(cell, self._input_size)
        stored = tuple(module_tensors(self._place, running_layers(spec), weights, self._biased))
        evidence = tuple(self._evidence(activation))
        return Found(name, spec, evidence, self._input_size, cell.output_size(self._input_size), stored)

    def _spec(self, mode: str, prefix: str) -> CellSpec:
        if not self._place.numbered:
            return plain_cell(mode, self._hidden, prefix)
        if not self._projected:
            return fused_cell(mode, self._hidden, self._depth, self._bidirectional, prefix, get_next_state=True)
        sides = "lr" if self._bidirectional else "l"
        layers = [
            [plain_cell(mode, self._hidden, f"{prefix}{side}{layer}_", num_projection=self._state) for side in sides]
            for layer in range(self._depth)
        ]
        return stack_of([two_directions(cells, f"{prefix}bi_l{number}_") for number, cells in enumerate(layers)])

    def _sizes(self) -> None:
        """Tell mode and sizes by the first layer; whether all others fit them is seen when the weights are taken."""
        name = self._place.tensor("weight_hh")
        rows, self._state = self._matrix(name)
        self._hidden = self._matrix(self._place.tensor("weight_hr"))[1] if self._projected else self._state
        mode = _MODE_OF_GATES.get(rows // self._hidden) if rows % self._hidden == 0 else None
        if mode is None or (self._projected and mode != "lstm"):
            raise WeightFormatError(
                f"weight {name!r} has shape {self._shapes[name]}; with {self._hidden} hidden units, expected "
                f"{4 * self._hidden} rows for an LSTM"
                + ("" if self._projected else f", {3 * self._hidden} for a GRU, {self._hidden} for a plain cell")
            )
        self._mode = mode
        self._input_size = self._matrix(self._place.tensor("weight_ih"))[1]

    def _matrix(self, name: str) -> Shape:
        if name not in self._shapes and {f"{name}_v", f"{name}_g"} & self._shapes.keys():
            raise WeightFormatError(
                f"weight {name!r} is computed by a weight norm: take that off with torch.nn.utils.remove_weight_norm "
                "before the model is saved"
            )
        if name not in self._shapes:
            raise WeightFormatError(
                f"weight {name!r} is missing{nearest(name, self._shapes)}: there are others of a recurrent module"
            )
        shape = self._shapes[name]
        if len(shape) != 2 or 0 in shape:
            raise WeightFormatError(f"weight {name!r} has shape {shape}, expected a matrix")
        return shape

    def _evidence(self, activation: str | None) -> Iterator[str]:
        name = self._place.tensor("weight_hh")
        yield f"{name!r} has shape {self._shapes[name]}: {_WHAT[self._mode]} of {self._hidden} units"
        if self._projected:
            yield f"there is {self._place.tensor('weight_hr')!r}: its hidden state is projected to {self._state}"
        if self._place.numbered:
            last = self._place.tensor("weight_hh", self._depth - 1, "_reverse" if self._bidirectional else "")
            yield f"{name!r} to {last!r}: num_layers {self._depth}, directions {1 + self._bidirectional}"
        if not self._biased:
            yield "it has no biases, and they are taken for zero"
        if activation:
            yield f"its activation is {activation!r}, as was said: a state dict does not tell"

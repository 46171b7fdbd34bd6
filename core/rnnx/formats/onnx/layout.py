"""How the tensors W, R and B of ONNX's recurrent nodes are made of the weights of single gates.

======  ==================  ===================  =====================  =================
node    W ``(D, G*H, I)``   R ``(D, G*H, H)``    B ``(D, 2*G*H)``       gates
======  ==================  ===================  =====================  =================
LSTM    ``W[iofc]``         ``R[iofc]``          ``Wb[iofc] Rb[iofc]``  i o f c
GRU     ``W[zrh]``          ``R[zrh]``           ``Wb[zrh] Rb[zrh]``    z r h
RNN     ``Wi``              ``Ri``               ``Wbi Rbi``            one
======  ==================  ===================  =====================  =================

D is 2 for a bidirectional node, whose forward direction stands first. The GRU's candidate, h, is called ``_o`` here.

Source: ``docs/Operators.md`` of ONNX, operators LSTM, GRU and RNN (versions 7, 14 and 22).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from rnnx.spec import CellSpec
from rnnx.weights.stored import Shape, Stored, gates

__all__ = ["GATE_ORDER", "node_tensors"]

#: The gates of each kind of cell, in the order in which a node's tensors hold them.
GATE_ORDER: Mapping[str, tuple[str, ...]] = {
    "LSTMCell": ("_i", "_o", "_f", "_c"),
    "GRUCell": ("_z", "_r", "_o"),
    "RNNCell": ("",),
}


def node_tensors(
    cells: Sequence[CellSpec], shapes: Mapping[str, Shape], w: str, r: str, b: str | None
) -> tuple[Stored, ...]:
    """Return how the tensors of one node are made of the weights of its cells.

    Parameters
    ----------
    cells : sequence of CellSpec
        The plain cell of each direction, the forward one first; all of one kind and size.
    shapes : mapping of str to tuple of int
        The shape of every weight by name.
    w, r : str
        What the tensors W and R are called.
    b : str, optional
        What B is called, where there is one; without it, all biases are zero.
    """
    order = GATE_ORDER[cells[0].kind]
    prefixes = [cell.fields.get("params", cell.fields["prefix"]) for cell in cells]

    def tensor(name: str, *groups: str) -> Stored:
        held = tuple(itertools.chain(*(gates(prefix, group, order) for prefix in prefixes for group in groups)))
        rows = sum(shapes[block.weight][0] for block in held) // len(cells)
        return Stored(name, (len(cells), rows, *shapes[held[0].weight][1:]), held)

    weights = (tensor(w, "i2h_weight"), tensor(r, "h2h_weight"))
    return weights if b is None else (*weights, tensor(b, "i2h_bias", "h2h_bias"))

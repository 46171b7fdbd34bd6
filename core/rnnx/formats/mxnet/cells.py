"""One recurrent cell, told from the names and shapes of its weights.

They are called ``<p>i2h_weight``, ``<p>i2h_bias``, ``<p>h2h_weight``, ``<p>h2h_bias`` where its gates are packed, and
``<p>i2h_f_weight`` and so on where each stands alone, as ``save_rnn_checkpoint`` stores them. With H hidden units, the
packed ones have 4H rows for an LSTM, 3H for a GRU and H for a plain cell. An LSTM whose hidden state is projected to P
has ``<p>h2r_weight`` (P, H) besides, and P columns in ``<p>h2h_weight``.

Sources: ``unpack_weights`` in ``python/mxnet/rnn/rnn_cell.py``, and ``LSTMPCell`` in
``python/mxnet/gluon/contrib/rnn/rnn_cell.py`` of MXNet 1.9.1.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence

from rnnx.building import fused_cell, plain_cell, two_directions
from rnnx.errors import WeightFormatError, nearest
from rnnx.found import stack_of
from rnnx.spec import GATES, CellSpec

__all__ = ["Cell", "cell_of", "layered"]

_Shapes = Mapping[str, tuple[int, ...]]

_MODE_OF_ROWS = {len(GATES[mode]): mode for mode in ("lstm", "gru", "rnn_tanh")}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell's weights: prefix, mode of the gates (``rnn_tanh`` for any plain cell), sizes, and whether packed."""

    prefix: str
    mode: str
    input_size: int
    num_hidden: int
    num_outputs: int
    packed: bool
    projected: bool

    def spec(self, prefix: str, activation: str = "") -> CellSpec:
        """Return the cell's description, under another prefix; only a plain cell needs the activation."""
        if self.projected:
            return plain_cell("lstm", self.num_hidden, prefix, num_projection=self.num_outputs)
        mode = f"rnn_{activation}" if self.mode == "rnn_tanh" else self.mode
        return plain_cell(mode, self.num_hidden, prefix)

    def __str__(self) -> str:
        kind = {"lstm": "LSTM", "gru": "GRU"}.get(self.mode, "plain cell")
        seen = "packed" if self.packed else "by the names of its gates"
        width = f" projected to {self.num_outputs}" if self.projected else ""
        return f"{kind} ({seen}), {self.num_hidden} hidden{width}, reading {self.input_size}"


def cell_of(prefix: str, gates: Collection[str], shapes: Mapping[str, tuple[int, ...]]) -> Cell:
    """Return the cell whose weights have a prefix.

    Parameters
    ----------
    prefix : str
        What stands before ``i2h`` in its weights' names.
    gates : collection of str
        The suffixes of gates that stand in these names; the empty one where they are packed.
    shapes : mapping of str to tuple of int
        The shape of every array of the file by name.

    Raises
    ------
    WeightFormatError
        If weights are missing, or do not fit each other.
    """
    if "" in gates and len(gates) > 1:
        raise WeightFormatError(f"cell {prefix!r} has packed weights and weights of single gates: keep one of the two")
    packed = "" in gates
    mode = None if packed else _mode_of(prefix, gates)
    _require(prefix, GATES[mode] if mode else ("",), shapes)
    if f"{prefix}h2r_weight" in shapes:
        return _projected(prefix, mode, shapes)
    if mode is None:
        return _packed(prefix, shapes)
    name = f"{prefix}h2h{GATES[mode][0]}_weight"
    num_hidden = _matrix(name, shapes)[0]
    return _checked(Cell(prefix, mode, 0, num_hidden, num_hidden, False, False), name, shapes)


def layered(prefix: str, layers: Sequence[Sequence[Cell]], activation: str) -> CellSpec:
    """Return the fused cell that equal layers make, or, where none has their equation, what it would unfuse into."""
    cell, depth, sides = layers[0][0], len(layers), "lr"[: len(layers[0])]
    mode = f"rnn_{activation}" if cell.mode == "rnn_tanh" else cell.mode
    if mode in GATES and not cell.projected:
        return fused_cell(mode, cell.num_hidden, depth, len(sides) == 2, prefix)
    return stack_of(
        [
            two_directions(
                [cell.spec(f"{prefix}{side}{layer}_", activation) for side in sides], f"{prefix}bi_l{layer}_"
            )
            for layer in range(depth)
        ]
    )


def _mode_of(prefix: str, gates: Collection[str]) -> str:
    for mode in ("lstm", "gru"):
        own = set(GATES[mode]) - {"_o"}
        if own & set(gates) and set(gates) <= set(GATES[mode]):
            return mode
    found = " ".join(sorted(gate[1:] for gate in gates))
    raise WeightFormatError(
        f"cell {prefix!r} has weights of the gates {found}; expected an LSTM's, i f c o, or a GRU's, r z o"
    )


def _require(prefix: str, gates: Sequence[str], shapes: _Shapes) -> None:
    for name in _names(prefix, gates):
        if name not in shapes:
            raise WeightFormatError(
                f"weight {name!r} is missing{nearest(name, shapes)}: cell {prefix!r} has others of the kind"
            )


def _names(prefix: str, gates: Sequence[str]) -> Iterator[str]:
    for role, gate, kind in itertools.product(("i2h", "h2h"), gates, ("weight", "bias")):
        yield f"{prefix}{role}{gate}_{kind}"


def _packed(prefix: str, shapes: _Shapes) -> Cell:
    name = f"{prefix}h2h_weight"
    rows, columns = _matrix(name, shapes)
    if columns < 1 or rows % columns or rows // columns not in _MODE_OF_ROWS:
        raise WeightFormatError(
            f"weight {name!r} has shape {shapes[name]}; expected 4 rows a column for an LSTM, 3 for a GRU, 1 for a "
            "plain cell"
        )
    return _checked(Cell(prefix, _MODE_OF_ROWS[rows // columns], 0, columns, columns, True, False), name, shapes)


def _projected(prefix: str, mode: str | None, shapes: _Shapes) -> Cell:
    name = f"{prefix}h2r_weight"
    num_outputs, num_hidden = _matrix(name, shapes)
    if mode not in (None, "lstm") or num_hidden < 1:
        raise WeightFormatError(f"weight {name!r} has shape {shapes[name]}; expected an LSTM's projection")
    return _checked(Cell(prefix, "lstm", 0, num_hidden, num_outputs, mode is None, True), name, shapes)


def _matrix(name: str, shapes: _Shapes) -> tuple[int, int]:
    shape = shapes[name]
    if len(shape) != 2 or shape[0] < 1:
        raise WeightFormatError(f"weight {name!r} has shape {shape}; expected a matrix")
    return shape[0], shape[1]


def _checked(cell: Cell, told_by: str, shapes: _Shapes) -> Cell:
    """Return the cell with its input size, if all its weights fit the one that told its other sizes."""
    gates = ("",) if cell.packed else GATES[cell.mode]
    rows = cell.num_hidden * len(GATES[cell.mode]) if cell.packed else cell.num_hidden
    first = f"{cell.prefix}i2h{gates[0]}_weight"
    _, input_size = _matrix(first, shapes)
    for name in _names(cell.prefix, gates):
        width = input_size if name.startswith(f"{cell.prefix}i2h") else cell.num_outputs
        expected = (rows, width) if name.endswith("_weight") else (rows,)
        if shapes[name] != expected:
            raise WeightFormatError(
                f"weight {name!r} has shape {shapes[name]}, expected {expected}: {told_by!r} has {shapes[told_by]} and "
                f"{first!r} {shapes[first]}"
            )
    return dataclasses.replace(cell, input_size=input_size)

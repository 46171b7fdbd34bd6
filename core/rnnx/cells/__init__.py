"""The cells of `mxnet.rnn`: what a user builds a network of."""

from rnnx.cells.base import BaseRNNCell, ModifiedCellError
from rnnx.cells.basic import GRUCell, LSTMCell, LSTMPCell, RNNCell
from rnnx.cells.containers import BidirectionalCell, SequentialRNNCell
from rnnx.cells.fused import FusedRNNCell
from rnnx.cells.modifiers import DropoutCell, ModifierCell, ResidualCell, ZoneoutCell

__all__ = [
    "BaseRNNCell",
    "BidirectionalCell",
    "DropoutCell",
    "FusedRNNCell",
    "GRUCell",
    "LSTMCell",
    "LSTMPCell",
    "ModifiedCellError",
    "ModifierCell",
    "RNNCell",
    "ResidualCell",
    "SequentialRNNCell",
    "ZoneoutCell",
]

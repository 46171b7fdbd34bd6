"""rnnx: the recurrent cells of `mxnet.rnn`, on every framework, and one weight format for all of them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rnnx.backend import Backend, BackendInfo
from rnnx.cells import (
    BaseRNNCell,
    BidirectionalCell,
    DropoutCell,
    FusedRNNCell,
    GRUCell,
    LSTMCell,
    LSTMPCell,
    ModifiedCellError,
    ModifierCell,
    ResidualCell,
    RNNCell,
    SequentialRNNCell,
    ZoneoutCell,
)
from rnnx.errors import (
    BackendMismatchError,
    BackendNotFoundError,
    RNNXError,
    ShapeError,
    UnsupportedError,
    WeightFormatError,
)
from rnnx.params import RNNParams
from rnnx.registry import get_backend, list_backends, refresh, register_backend, register_format, use_backend
from rnnx.spec import CellSpec

if TYPE_CHECKING:
    from rnnx.cells.unrolling import Gradients
    from rnnx.checkpoint import do_rnn_checkpoint, load_rnn_checkpoint, save_rnn_checkpoint
    from rnnx.data import BucketSentenceIter, encode_sentences
    from rnnx.discovery import BackendStatus
    from rnnx.files import convert, infer, load, load_all, save

__version__ = "0.1.0"

#: Names that are imported when they are first used: reading files needs more than running cells does.
_LAZY = {
    "BackendStatus": "rnnx.discovery",
    "BucketSentenceIter": "rnnx.data",
    "Gradients": "rnnx.cells.unrolling",
    "convert": "rnnx.files",
    "do_rnn_checkpoint": "rnnx.checkpoint",
    "encode_sentences": "rnnx.data",
    "infer": "rnnx.files",
    "load": "rnnx.files",
    "load_all": "rnnx.files",
    "load_rnn_checkpoint": "rnnx.checkpoint",
    "save": "rnnx.files",
    "save_rnn_checkpoint": "rnnx.checkpoint",
}

__all__ = [
    "Backend",
    "BackendInfo",
    "BackendMismatchError",
    "BackendNotFoundError",
    "BackendStatus",
    "BaseRNNCell",
    "BidirectionalCell",
    "BucketSentenceIter",
    "CellSpec",
    "DropoutCell",
    "FusedRNNCell",
    "GRUCell",
    "Gradients",
    "LSTMCell",
    "LSTMPCell",
    "ModifiedCellError",
    "ModifierCell",
    "RNNCell",
    "RNNParams",
    "RNNXError",
    "ResidualCell",
    "SequentialRNNCell",
    "ShapeError",
    "UnsupportedError",
    "WeightFormatError",
    "ZoneoutCell",
    "convert",
    "do_rnn_checkpoint",
    "encode_sentences",
    "get_backend",
    "infer",
    "list_backends",
    "load",
    "load_all",
    "load_rnn_checkpoint",
    "refresh",
    "register_backend",
    "register_format",
    "save",
    "save_rnn_checkpoint",
    "use_backend",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'rnnx' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""The TensorFlow backend of rnnx: tensors in, tensors out, eagerly and in graphs, with gradients through GradientTape.

`RNNLayer` makes a `keras.layers.Layer` of a cell tree, `export` a Keras model without rnnx, and `from_keras` the
reverse.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rnnx_tensorflow.exporting import export
    from rnnx_tensorflow.importing import from_keras
    from rnnx_tensorflow.layer import RNNLayer

__all__ = ["RNNLayer", "export", "from_keras"]

#: Names that are imported when they are first used: the plugin beside them is to be read without TensorFlow.
_LAZY = {
    "RNNLayer": "rnnx_tensorflow.layer",
    "export": "rnnx_tensorflow.exporting",
    "from_keras": "rnnx_tensorflow.importing",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'rnnx_tensorflow' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

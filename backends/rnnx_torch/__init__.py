"""The PyTorch backend of rnnx: tensors in, tensors out, on torch's own kernels and through its autograd.

`RNNModule` makes a `torch.nn.Module` of a cell tree, `export` a module of torch's own without rnnx, and `from_torch`
the reverse.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rnnx_torch.exporting import export
    from rnnx_torch.importing import from_torch
    from rnnx_torch.module import RNNModule

__all__ = ["RNNModule", "export", "from_torch"]

#: Names that are imported when they are first used: the plugin beside them is to be read without torch.
_LAZY = {
    "RNNModule": "rnnx_torch.module",
    "export": "rnnx_torch.exporting",
    "from_torch": "rnnx_torch.importing",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'rnnx_torch' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""`required`: a package that only some formats need, imported when one is read or written."""

from __future__ import annotations

import importlib
from typing import Any

from rnnx.errors import UnsupportedError

__all__ = ["required"]


def required(module: str, extra: str, what: str) -> Any:
    """Import a module that comes with an extra of rnnx.

    Parameters
    ----------
    module : str
        Such as ``"h5py"``.
    extra : str
        The extra that brings it: ``pip install 'rnnx[extra]'``.
    what : str
        What it is needed for, such as ``"Keras files"``.

    Raises
    ------
    UnsupportedError
        If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise UnsupportedError(f"{what} need {package} ({error}): pip install 'rnnx[{extra}]'") from error

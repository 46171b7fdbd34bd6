"""Files mapped into memory, read-only, and memory given back once an array has been read through."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Mapped", "release"]


class Mapped(mmap.mmap):
    """A file that rnnx has mapped to read it. Whoever reads it cannot have changed anything."""


def release(array: npt.NDArray[Any]) -> None:
    """Let the system take back the memory behind a view of a `Mapped` file; what is read again is mapped again.

    So a file larger than the memory is hashed or copied array by array. Arrays of any other kind are left alone.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    # The advice exists where the system has it. Only pages that lie within the array whole are given back.
    if not isinstance(base, Mapped) or not hasattr(mmap, "MADV_DONTNEED") or not array.flags.c_contiguous:
        return
    start = array.ctypes.data - np.frombuffer(base, np.uint8).ctypes.data
    first, stop = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, (start + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if stop > first:
        base.madvise(mmap.MADV_DONTNEED, first, stop - first)

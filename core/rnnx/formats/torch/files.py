"""PyTorch's own files, ``.pt`` and ``.pth``, whose content `rnnx.formats.torch.outline` takes apart.

They are read by ``torch.load(weights_only=True)`` and by nothing else, for a pickle could run any code. That this is
safe is PyTorch's promise as of 2.10; older ones could be made to run code (CVE-2025-32434, CVE-2026-24747), and are not
asked. Before it is called, what could make a small file fill the memory is refused: compressed zip entries, and pickles
of absurd size. So are afterwards tensors that have more bytes than the file.

Not kept are which tensors are parameters, and which share their memory: shared ones are written once each.

Source: ``torch/serialization.py`` and ``torch/_weights_only_unpickler.py`` of PyTorch 2.13.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rnnx.archive import Array
from rnnx.atomic import replace_file
from rnnx.errors import UnsupportedError, WeightFormatError
from rnnx.formats.torch.outline import Outlined, outlined, placed
from rnnx.optional import required
from rnnx.weights.stored import Composed

__all__ = ["looks_like_checkpoint", "read_checkpoint", "write_checkpoint"]

#: How a zip file begins, and how a pickle of protocol 2, which older files are.
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80\x02"

#: The first PyTorch whose ``weights_only=True`` is not known to run code.
_SAFE = (2, 10)

#: Largest pickle within a zip file; those of the largest models have some megabytes.
_MAX_PICKLE = 1 << 26

#: What a refused pickle names, in PyTorch's words.
_GLOBAL = re.compile(r"GLOBAL (\S+)")


def looks_like_checkpoint(path: Path, head: bytes) -> bool:
    """Say whether a file is a zip file with a ``data.pkl`` in it, or begins as a pickle does."""
    if head.startswith(_ZIP):
        return any(entry.filename.endswith("/data.pkl") for entry in _entries(path))
    return head.startswith(_PICKLE)


def read_checkpoint(path: Path) -> Outlined:
    """Read a file that need not be trusted; a zip file's tensors are mapped, not copied.

    Raises
    ------
    WeightFormatError
        If it is damaged, would run code, or holds what cannot be kept; the message names it.
    UnsupportedError
        If PyTorch is not installed, or too old to be asked.
    """
    content, size = _loaded(path), path.stat().st_size
    if not isinstance(content, dict):
        raise WeightFormatError(
            f"the file holds a {type(content).__name__}, expected a dict of tensors, as torch.save(model.state_dict(), "
            "path) writes"
        )
    return outlined(content, lambda name, value: _array(name, value, size))


def write_checkpoint(path: Path, arrays: Mapping[str, Array | Composed], outline: str | bytes | None) -> None:
    """Write arrays in the places that an outline gives them, or as a dict, whole or not at all.

    Raises
    ------
    WeightFormatError
        If PyTorch lacks an array's dtype, or the outline does not fit.
    """
    torch = required("torch", "torch", "PyTorch files")
    tensors: dict[str, Any] = {}
    dtypes: dict[int, Any] = {}
    for name, array in arrays.items():
        tensor = _tensor(torch, name, array)
        # PyTorch refuses to write one address as two dtypes, as where an empty array begins at the next one.
        shared = dtypes.setdefault(tensor.untyped_storage().data_ptr(), tensor.dtype) != tensor.dtype
        tensors[name] = tensor.clone() if shared else tensor
    content = tensors if outline is None else placed(outline, tensors)
    with replace_file(path) as file:
        torch.save(content, file)


# -- reading ----------------------------------------------------------------------------------------------------------


def _loaded(path: Path) -> Any:
    torch = required("torch", "torch", "PyTorch files")
    if torch.__version__ < _SAFE:
        raise UnsupportedError(
            f"a file can make PyTorch {torch.__version__} run code as it is read: {_SAFE[0]}.{_SAFE[1]} or newer is "
            "needed, or the weights in a .safetensors file"
        )
    with path.open("rb") as file:
        zipped = file.read(len(_ZIP)) == _ZIP
    if zipped:
        _check_zip(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # there is none that no bytes could cause
        # PyTorch's own words advise to run the file's code.
        raise WeightFormatError(_refusal(error)) from None


def _refusal(error: Exception) -> str:
    named = _GLOBAL.search(str(error))
    if named:
        return (
            f"the file names {named[1]}, and to make one could run code: nothing but tensors and plain values is read "
            "(torch.load with weights_only=True); have it saved with torch.save(model.state_dict(), path)"
        )
    said = next((line for line in str(error).splitlines() if line and "weights_only" not in line), "")
    return f"the file is damaged or none of PyTorch's: {type(error).__name__} {said[:200]}".rstrip()


def _check_zip(path: Path) -> None:
    entries = _entries(path)
    names = {entry.filename.partition("/")[2] for entry in entries}
    if "data.pkl" not in names:
        raise WeightFormatError("the zip file is damaged or none of PyTorch's: it has no data.pkl")
    if "constants.pkl" in names:
        raise WeightFormatError(
            "the file is a TorchScript program: have it saved with torch.save(model.state_dict(), path)"
        )
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise WeightFormatError(f"zip entry {entry.filename!r} is compressed, and PyTorch writes none so")
        if entry.filename.endswith(".pkl") and entry.file_size > _MAX_PICKLE:
            raise WeightFormatError(
                f"zip entry {entry.filename!r} has {entry.file_size} bytes, more than the {_MAX_PICKLE} that are read"
            )


def _entries(path: Path) -> list[zipfile.ZipInfo]:
    """Return what a zip file lists; nothing, if it is too damaged to list anything."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except OSError:
        raise
    except Exception:  # Python's reader of zip files has no list of what it raises
        return []


def _array(name: str, value: Any, size: int) -> Array | None:
    """Return a tensor of a file of that size as a read-only array that shares its memory, and None for others."""
    torch = required("torch", "torch", "PyTorch files")
    if not isinstance(value, torch.Tensor):
        return None
    _check_dense(name, value, torch)
    stored, whole = value.untyped_storage().nbytes(), value.numel() * value.element_size()
    if whole > stored or stored > size:
        raise WeightFormatError(
            f"tensor {name!r} of shape {tuple(value.shape)} repeats its elements or has more than the file: {whole} "
            f"bytes, of which {min(stored, size)} are stored; have it saved after .contiguous()"
        )
    plain = value.detach()
    try:
        array: Array = (plain.view(torch.int16) if value.dtype == torch.bfloat16 else plain).numpy()
    except (TypeError, ValueError, RuntimeError) as error:
        raise WeightFormatError(f"tensor {name!r} of {value.dtype} is no array of NumPy: {error}") from error
    array.flags.writeable = False
    return array.view(_bfloat16()) if value.dtype == torch.bfloat16 else array


def _check_dense(name: str, value: Any, torch: Any) -> None:
    kinds = {
        "quantized, and is to be saved after .dequantize()": value.is_quantized,
        "nested": value.is_nested,
        f"{value.layout}, and is to be saved after .to_dense()": value.layout != torch.strided,
        f"on the device {value.device.type!r}, without elements": value.device.type != "cpu",
    }
    for what, so in kinds.items():
        if so:
            raise WeightFormatError(f"tensor {name!r} is {what}: dense tensors of numbers are read")


def _bfloat16() -> np.dtype[Any]:
    found: np.dtype[Any] = np.dtype(required("ml_dtypes", "bfloat16", "tensors of bfloat16").bfloat16)
    return found


# -- writing ----------------------------------------------------------------------------------------------------------


def _tensor(torch: Any, name: str, array: Array | Composed) -> Any:
    whole = np.asarray(array, order="C")
    native = whole.astype(whole.dtype.newbyteorder("="), copy=False)
    brain = native.dtype.name == "bfloat16"
    # PyTorch warns of memory that it must not write to, such as that of a mapped file; it is only read.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            tensor = torch.from_numpy(native.view(np.int16) if brain else native)
        except TypeError as error:
            raise WeightFormatError(f"{name!r} has dtype {native.dtype}, which PyTorch lacks") from error
    return tensor.view(torch.bfloat16) if brain else tensor

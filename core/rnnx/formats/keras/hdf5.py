"""HDF5 files read and written as what Keras makes of them: arrays and attributes by path, and nothing else.

HDF5 can do more than hold arrays: point to other files, to itself, or to nothing, and describe more than it holds.
Keras writes none of that, so all of it is refused: soft and external links, data stored elsewhere, virtual datasets,
references, compression, groups that contain themselves. Arrays that stand in the file in one piece are views of it;
the few others are copied, and their sizes are checked against that of the file before.

Source: the HDF5 file format, https://docs.hdfgroup.org/hdf5/v1_14/_f_m_t3.html, and ``keras/src/saving/saving_lib.py``
(``safe_get_h5_group``, ``safe_get_h5_dataset``, ``H5IOStore``).
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from rnnx.errors import RNNXError, WeightFormatError
from rnnx.formats.keras.texts import texts_of
from rnnx.optional import required
from rnnx.weights.mapped import release
from rnnx.weights.stored import Composed

__all__ = ["MOST", "SIGNATURE", "Attribute", "Tree", "h5py_module", "read_tree", "write_tree"]

Array = npt.NDArray[Any]

#: An attribute in plain words: ``{"text": …}``, ``{"bytes": …}`` or ``{"dtype": …, "shape": …, "hex": …}``.
Attribute = dict[str, Any]

#: How a file begins.
SIGNATURE = b"\x89HDF\r\n\x1a\n"

#: Most bytes that are made of a file beyond its own size: enough for what small files describe with fill values.
MOST = 1 << 24

#: Deepest group; nested models of real networks are a few deep.
_MAX_DEPTH = 64

#: NumPy's name of what HDF5 holds, of numbers that arrays are made of.
_NUMBERS = frozenset(
    {
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    }
)

#: Keras stores bfloat16 as two bytes without a meaning, and says so in this attribute.
_DTYPE, _BFLOAT16 = "dtype", "bfloat16"


@dataclasses.dataclass(frozen=True)
class Tree:
    """What an HDF5 file holds.

    Parameters
    ----------
    arrays : mapping of str to array
        Every array by its path, such as ``layers/lstm/cell/vars/0``.
    attributes : mapping of str to mapping of str to Attribute
        The attributes of groups and arrays by path; that of the file itself is empty. Every group is there that has
        attributes, or nothing in it.
    """

    arrays: Mapping[str, Array | Composed]
    attributes: Mapping[str, Mapping[str, Attribute]]


def h5py_module() -> Any:
    """Return the package h5py."""
    return required("h5py", "keras", "Keras files")


def read_tree(data: memoryview) -> Tree:
    """Read a file from its bytes; arrays are views of them wherever they can be.

    Raises
    ------
    WeightFormatError
        If it is damaged, or does what no file of Keras's does.
    """
    if data[: len(SIGNATURE)] != SIGNATURE:
        raise WeightFormatError(f"an HDF5 file begins with {SIGNATURE!r}, found {bytes(data[: len(SIGNATURE)])!r}")
    h5py = h5py_module()
    try:
        with h5py.File(_Window(data), "r") as file:
            return _Walk(h5py, data).tree(file)
    except RNNXError:
        raise
    except Exception as error:  # a damaged file makes h5py raise nearly anything
        raise WeightFormatError(f"the HDF5 file is damaged: {type(error).__name__}: {error}") from error


def write_tree(file: BinaryIO, tree: Tree) -> None:
    """Write arrays and attributes to a file that is open for reading and writing, one array after the other.

    Raises
    ------
    WeightFormatError
        If a name or a dtype has no place in an HDF5 file.
    """
    h5py = h5py_module()
    with h5py.File(file, "w") as root:
        for path, value in tree.arrays.items():
            array = np.asarray(value)
            try:
                root.create_dataset(path, data=array)
            except (ValueError, TypeError, KeyError, RuntimeError) as error:
                raise WeightFormatError(f"{path!r} has no place in an HDF5 file: {error}") from error
            release(array)
            if array.dtype.name == _BFLOAT16:
                root[path].attrs[_DTYPE] = _BFLOAT16
        for path, attributes in tree.attributes.items():
            owner = root if not path else root[path] if path in root else root.create_group(path)
            for name, attribute in attributes.items():
                owner.attrs[name] = _value(h5py, attribute)


class _Window(io.RawIOBase):
    """Bytes as a file that h5py reads; so no path is opened twice, and a file within a file needs no copy."""

    def __init__(self, data: memoryview) -> None:
        super().__init__()
        self._data, self._position = data, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._data)}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        into = memoryview(buffer).cast("B")
        found = self._data[self._position : self._position + len(into)]
        into[: len(found)] = found
        self._position += len(found)
        return len(found)


class _Walk:
    """A walk through every group of a file, which meets each object once and stays within what the file can hold."""

    def __init__(self, h5py: Any, data: memoryview) -> None:
        self._h5py, self._data = h5py, data
        self._seen: dict[int, str] = {}
        self._left = len(data) + MOST

    def tree(self, root: Any) -> Tree:
        arrays: dict[str, Array] = {}
        attributes: dict[str, dict[str, Attribute]] = {}
        for path, found in self._objects(root):
            own = self._attributes(path, found)
            if isinstance(found, self._h5py.Dataset):
                arrays[path] = self._array(path, found, own)
            if own or (isinstance(found, self._h5py.Group) and not len(found)):
                attributes[path] = own
        return Tree(arrays, attributes)

    def _objects(self, root: Any) -> Iterator[tuple[str, Any]]:
        """Yield every group and dataset with its path; children in the order of their names."""
        waiting = [("", root)]
        while waiting:
            path, found = waiting.pop()
            self._meet(path, found)
            yield path, found
            if isinstance(found, self._h5py.Group):
                below = [(f"{path}/{name}" if path else name, self._child(path, found, name)) for name in found]
                waiting += reversed(below)

    def _child(self, path: str, group: Any, name: Any) -> Any:
        if not isinstance(name, str):
            raise WeightFormatError(f"what is called {name!r} in {path!r} has a name that is not UTF-8")
        link = group.get(name, getlink=True)
        if not isinstance(link, self._h5py.HardLink):
            raise WeightFormatError(f"{path}/{name} is a {type(link).__name__} to another place, which is not followed")
        found = group[name]
        if not isinstance(found, self._h5py.Group | self._h5py.Dataset):
            raise WeightFormatError(f"{path}/{name} is a {type(found).__name__}; expected a group or an array")
        return found

    def _meet(self, path: str, found: Any) -> None:
        address = self._h5py.h5o.get_info(found.id).addr
        if address in self._seen:
            raise WeightFormatError(f"{path!r} and {self._seen[address]!r} are one and the same object")
        if path.count("/") >= _MAX_DEPTH:
            raise WeightFormatError(f"{path!r} is nested deeper than {_MAX_DEPTH} groups")
        self._seen[address] = path

    def _spend(self, size: int, what: str) -> None:
        """Refuse what would make more of a file than it can hold."""
        self._left -= size
        if self._left < 0:
            raise WeightFormatError(
                f"{what} would bring what is read to more than the file's {len(self._data)} bytes and {MOST} more"
            )

    # -- arrays -------------------------------------------------------------------------------------------------------

    def _array(self, path: str, dataset: Any, own: dict[str, Attribute]) -> Array:
        self._check_plain(path, dataset)
        brain = dataset.dtype == np.dtype("V2") and own.get(_DTYPE) == {"text": _BFLOAT16}
        if dataset.shape is None or not (dataset.dtype.name in _NUMBERS or brain):
            raise WeightFormatError(f"array {path!r} has dtype {dataset.dtype} and shape {dataset.shape}, no numbers")
        offset, size = dataset.id.get_offset(), math.prod(dataset.shape) * dataset.dtype.itemsize
        exact = brain or dataset.id.get_type() == self._h5py.h5t.py_create(dataset.dtype)
        if offset is not None and exact and dataset.dtype != bool:
            array = self._view(path, dataset, offset, size)
        else:
            self._spend(size + math.prod(dataset.chunks or ()) * dataset.dtype.itemsize, f"array {path!r}")
            array = np.asarray(dataset[()])
        if brain:
            del own[_DTYPE]
            array = array.view(required("ml_dtypes", "bfloat16", "bfloat16 weights").bfloat16)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        return array if array.flags.aligned else array.copy()

    def _check_plain(self, path: str, dataset: Any) -> None:
        if dataset.external:
            raise WeightFormatError(f"array {path!r} is stored in another file, {dataset.external[0][0]!r}")
        if dataset.is_virtual:
            raise WeightFormatError(f"array {path!r} is a virtual dataset, made of others")
        if dataset.id.get_create_plist().get_nfilters():
            raise WeightFormatError(
                f"array {path!r} is compressed or filtered, which Keras never does: h5repack -f NONE undoes it"
            )

    def _view(self, path: str, dataset: Any, offset: int, size: int) -> Array:
        if offset + size > len(self._data):
            raise WeightFormatError(
                f"array {path!r} of shape {dataset.shape} has {size} bytes at byte {offset}, and the file ends at byte "
                f"{len(self._data)}"
            )
        flat = np.frombuffer(self._data, dataset.dtype, math.prod(dataset.shape), offset) if size else np.empty(0)
        shaped: Array = flat.astype(dataset.dtype, copy=False).reshape(dataset.shape)
        return shaped

    # -- attributes ---------------------------------------------------------------------------------------------------

    def _attributes(self, path: str, found: Any) -> dict[str, Attribute]:
        own = {}
        for name in found.attrs:
            what = f"attribute {name!r} of {path!r}"
            if not isinstance(name, str):
                raise WeightFormatError(f"{what} has a name that is not UTF-8")
            own[name] = self._attribute(what, found, name)
        return own

    def _attribute(self, what: str, owner: Any, name: str) -> Attribute:
        """Return an attribute in plain words, once its size is known to be no more than a file's share."""
        described = owner.attrs.get_id(name)
        shape, dtype, text = described.shape, described.dtype, self._h5py.check_string_dtype(described.dtype)
        if shape is None or (text is None and dtype.name not in _NUMBERS):
            raise WeightFormatError(f"{what} is neither text nor numbers, but {dtype}")
        self._spend(math.prod(shape) * dtype.itemsize, what)
        if text is None:
            array = np.asarray(owner.attrs[name])
            return {"dtype": array.dtype.str, "shape": list(array.shape), "hex": array.tobytes().hex()}
        if len(shape) > 1:
            raise WeightFormatError(f"{what} has shape {shape}; expected one text or a list")
        if text.length is not None:
            plain = [bytes(each).decode("latin-1") for each in np.asarray(owner.attrs[name]).reshape(-1).tolist()]
            return {"bytes": plain if shape else plain[0]}
        header = self._h5py.h5o.get_info(owner.id).addr
        texts = texts_of(self._data, header, name, math.prod(shape), self._left)
        self._spend(sum(map(len, texts)), what)
        return {"text": texts if shape else texts[0]}


def _value(h5py: Any, attribute: Mapping[str, Any]) -> Any:
    """Return what an attribute in plain words is set to.

    Raises
    ------
    WeightFormatError
        If it makes no sense, as one from a file may.
    """
    try:
        if "text" in attribute:
            text = attribute["text"]
            if any(not isinstance(each, str) for each in ([text] if isinstance(text, str) else text)):
                raise TypeError("text is to be a text or a list of them")
            return text if isinstance(text, str) else np.array(text, dtype=h5py.string_dtype())
        if "bytes" in attribute:
            data = attribute["bytes"]
            if isinstance(data, str):
                return np.bytes_(data.encode("latin-1"))
            return np.array([each.encode("latin-1") for each in data], np.bytes_)
        flat = np.frombuffer(bytes.fromhex(attribute["hex"]), np.dtype(attribute["dtype"]))
        return flat.reshape(attribute["shape"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightFormatError(
            f"an attribute of a Keras file is not told in a way that it can be written: {error!r}"
        ) from error

"""HDF5 files with datasets, attributes and links changed."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from structure_trees import HOSTILE_TEXTS, changed_tree

__all__ = ["changed_hdf5", "is_hdf5"]

Damage = Callable[[bytes, random.Random], bytes]

_SIGNATURE = b"\x89HDF\r\n\x1a\n"

#: Shapes of datasets; the large ones have no data in the file.
_SHAPES = ((), (0,), (1,), (3,), (8,), (2, 8), (3, 8), (0, 8), (8, 3), (1, 1, 1), (1000, 1000), (2**16, 60),
           (2**20, 64), (2**31, 2**20), (2**40,))  # fmt: skip

_DTYPES = ("float32", "float64", "float16", "int32", "uint8", "bool", "S3", "complex64", ">f4", "text", "fields", "ref")


def is_hdf5(content: bytes) -> bool:
    """Say whether a file is HDF5 that can be opened, and h5py is there to do it."""
    if not content.startswith(_SIGNATURE):
        return False
    try:
        import h5py
    except ImportError:
        return False
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            return bool(_names(file))
    except OSError:
        return False


def changed_hdf5(content: bytes, rng: random.Random, damage: Damage) -> bytes:
    """Return a file with one thing in it, or a few, changed."""
    import h5py

    buffer = io.BytesIO(content)
    with h5py.File(buffer, "r+") as file:
        for _ in range(rng.choice((1, 1, 2))):
            change = rng.choice(_CHANGES)
            try:
                change(file, rng)
            except Exception:  # h5py refuses what HDF5 has no place for in many ways
                continue
    return buffer.getvalue()


def _names(file: Any) -> list[str]:
    """Return the path of every group and dataset, in order."""
    names: list[str] = []
    file.visit(names.append)
    return names


def _datasets(file: Any) -> list[str]:
    import h5py

    return [name for name in _names(file) if isinstance(file[name], h5py.Dataset)]


def _item_removed(file: Any, rng: random.Random) -> None:
    del file[rng.choice(_names(file))]


def _item_renamed(file: Any, rng: random.Random) -> None:
    name = rng.choice(_names(file))
    folder = name.rpartition("/")[0]
    ending = rng.choice(("0", "1", "2", "3", "vars", "cell", "lstm", "gru", "rnn_extra", *HOSTILE_TEXTS[1:12]))
    file.move(name, f"{folder}/{ending}")


def _item_copied(file: Any, rng: random.Random) -> None:
    names = _names(file)
    file.copy(rng.choice(names), f"{rng.choice(names).rpartition('/')[0]}/copy_{rng.randrange(3)}")


def _dataset_replaced(file: Any, rng: random.Random) -> None:
    import h5py

    name = rng.choice(_datasets(file))
    shape, dtype = rng.choice(_SHAPES), _dtype(rng.choice(_DTYPES))
    if rng.random() < 0.5:
        dtype = file[name].dtype
    attributes = dict(file[name].attrs)
    del file[name]
    large = shape and int(np.prod(shape, dtype=float)) > 1000
    options: dict[str, Any] = {"chunks": tuple(min(size, 64) for size in shape)} if large else {}
    if large and rng.random() < 0.5:
        options["fillvalue"] = np.zeros((), dtype)
    if shape and 0 not in shape and rng.random() < 0.3:
        options |= {"chunks": tuple(min(size, 64) for size in shape), "compression": rng.choice(("gzip", "lzf"))}
    made = file.create_dataset(name, shape, dtype, **options)
    for key, value in attributes.items():
        made.attrs[key] = value
    if rng.random() < 0.1:
        del file[name]
        file[name] = rng.choice((h5py.Empty("f4"), "text", 1.5, [b"a", b"b"]))


def _dtype(name: str) -> Any:
    import h5py

    special = {"text": h5py.string_dtype(), "fields": np.dtype([("a", "f4"), ("b", "i4")]), "ref": h5py.ref_dtype}
    return special.get(name) or np.dtype(name)


def _dataset_reshaped(file: Any, rng: random.Random) -> None:
    name = rng.choice(_datasets(file))
    values = file[name][()]
    del file[name]
    file[name] = rng.choice(
        (np.transpose(values), values.reshape(-1), values[..., :-1], values[None], values.astype("f8"))
    )


def _kind_swapped(file: Any, rng: random.Random) -> None:
    name = rng.choice(_names(file))
    was_dataset = name in _datasets(file)
    del file[name]
    if was_dataset:
        file.create_group(name)
    else:
        file[name] = np.ones(3, "f4")


def _linked(file: Any, rng: random.Random) -> None:
    """Put a link where something stood: to nothing, to itself, to another place, to another file."""
    import h5py

    names = _names(file)
    name, other = rng.choice(names), rng.choice(names)
    links = (h5py.SoftLink("/nowhere"), h5py.SoftLink(f"/{name}"), h5py.SoftLink(f"/{other}"), h5py.SoftLink("/"),
             h5py.ExternalLink("../decoy/decoy.h5", "/secret"), h5py.ExternalLink("model.h5", f"/{other}"),
             file["/"], file[other])  # fmt: skip
    link = rng.choice(links)
    if rng.random() < 0.7:
        del file[name]
        file[name] = link
    else:
        file[f"{name.rpartition('/')[0]}/link"] = link


def _stored_outside(file: Any, rng: random.Random) -> None:
    """Let a dataset's values stand in another file."""
    import h5py

    name = rng.choice(_datasets(file))
    shape = file[name].shape or (1,)
    del file[name]
    if rng.random() < 0.5:
        file.create_dataset(name, shape, "f4", external=[("../decoy/decoy.bin", 0, h5py.h5f.UNLIMITED)])
    else:
        layout = h5py.VirtualLayout(shape, "f4")
        layout[...] = h5py.VirtualSource("../decoy/decoy.h5", "secret", shape)
        file.create_virtual_dataset(name, layout)


def _attribute_changed(file: Any, rng: random.Random) -> None:
    """Change an attribute: of JSON what it says, of other text the text, or all of it."""
    import h5py

    holders = [item for item in (file, *(file[name] for name in _names(file))) if len(item.attrs)]
    if not holders:
        return
    attributes = rng.choice(holders).attrs
    key = rng.choice(sorted(attributes))
    value = attributes[key]
    if isinstance(value, str | bytes) and rng.random() < 0.6:
        attributes[key] = _other_text(value, rng)
    elif rng.random() < 0.3:
        del attributes[key]
    else:
        attributes[key] = rng.choice((rng.choice(HOSTILE_TEXTS[1:3]), 2**40, -1, [b"a"], [], b"\xff\xfe", 1.5,
                                      np.zeros((2, 2)), h5py.Empty("f4"), [b"lstm", b"lstm"]))  # fmt: skip


def _other_text(value: str | bytes, rng: random.Random) -> Any:
    text = value if isinstance(value, str) else value.decode(errors="replace")
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        return rng.choice([each for each in HOSTILE_TEXTS if "\x00" not in each])
    return json.dumps(changed_tree(tree, rng))


_CHANGES: tuple[Callable[[Any, random.Random], None], ...] = (
    *(_item_removed, _item_renamed, _item_copied, _dataset_replaced, _dataset_replaced, _dataset_reshaped),
    *(_kind_swapped, _linked, _linked, _stored_outside, _attribute_changed, _attribute_changed, _attribute_changed),
)

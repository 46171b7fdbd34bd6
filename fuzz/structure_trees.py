"""Trees of values, as JSON and msgpack have them, with values changed; and safetensors, whose header is one.

Text within a tree that is JSON itself is changed as a tree too. A portable file of rnnx gets the digest that fits its
new content, so that what it says is looked at.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
import struct
from collections.abc import Callable
from typing import Any

__all__ = [
    "HOSTILE_TEXTS",
    "changed_json",
    "changed_msgpack",
    "changed_safetensors",
    "changed_tree",
    "is_json",
    "is_msgpack",
    "is_safetensors",
]

Damage = Callable[[bytes, random.Random], bytes]

#: Text that some reader might take for a path, code, a number or a format; of it, decoys are watched (`guard`).
HOSTILE_TEXTS = (
    *("", "a", "é", "\x00", "a\nb", " ", ".", "..", "/", "a/b", "a//b", "%s%n", "{0}", "%2F", "l0_", "_", "\ufeff"),
    *("../decoy/decoy.bin", "../decoy/decoy.h5", "/etc/hostname", "rnnx_canary", "rnnx_canary:Cell", "os:system"),
    *("__class__", "__metadata__", "__proto__", "None", "True", "nan", "-1", "1e999", "0x10", "1_0", "٣", "9" * 400),
    *("x" * 5000, "(((((((((((((((((((((((((((((((((((((", "[" * 2000, "(1,)", "()", "[0, 0, 0]"),
)

_NUMBERS = (
    *(0, 1, 2, 3, 5, 64, 127, 255, 256, 4097, 65536, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1),
    *(-1, -2, -(2**31), -(2**63), 0.0, -0.0, 0.5, 1e-320, 1e308, float("inf"), float("nan")),
)

_CHANCE_OF_TEXT_WITHIN = 0.7


def is_json(content: bytes) -> bool:
    """Say whether a file is JSON: an object or a list."""
    return content[:1] in (b"{", b"[") and _parsed(content) is not None


def changed_json(content: bytes, rng: random.Random, damage: Damage) -> bytes:
    """Return JSON with something in it changed, and sometimes a name in it twice."""
    text = json.dumps(changed_tree(_parsed(content), rng))
    if rng.random() < 0.05:
        text = text.replace(", ", ', "name": 1, "name": 2, ', 1)
    return text.encode()


def changed_tree(tree: Any, rng: random.Random) -> Any:
    """Return a tree of dicts, lists and values with one or a few of them changed, removed, doubled or renamed."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree, ()))
        named = [path for path in places if path and isinstance(path[-1], str)]
        if named and rng.random() < 0.5:  # rather than what most trees have most of, numbers in lists
            places = named
        tree = _with(tree, rng.choice(places), functools.partial(_other, root=tree, rng=rng))
    return tree


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _places(tree: Any, path: tuple[Any, ...]) -> Any:
    """Yield the path of every node."""
    yield path
    if isinstance(tree, dict | list) and len(path) < 100:
        for key, child in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _places(child, (*path, key))


def _with(tree: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    """Return the tree with the node at a path changed; nothing else is copied."""
    if not path:
        return change(tree)
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[path[0]] = _with(tree[path[0]], path[1:], change)
    return copy


def _other(node: Any, root: Any, rng: random.Random) -> Any:
    if isinstance(node, str) and rng.random() < _CHANCE_OF_TEXT_WITHIN:
        return _other_text(node, rng)
    if isinstance(node, dict | list) and node and rng.random() < 0.8:
        return _other_entries(node, rng)
    if isinstance(node, bytes) and node and rng.random() < 0.6:
        place = rng.randrange(len(node))
        return rng.choice((node[:place], node[place:], node + node, node[:place] + b"\xff" + node[place + 1 :]))
    if isinstance(node, int) and rng.random() < 0.5:
        return node + rng.choice((-1, 1, node, 2**31))
    kind = rng.randrange(8)
    if kind < 3:
        return rng.choice(_NUMBERS)
    if kind == 3:
        return rng.choice(HOSTILE_TEXTS)
    if kind == 4:
        return _nested(rng.choice((3, 70, 400)), rng)
    if kind == 5:
        return _picked(root, rng)
    return rng.choice((None, True, False, [], {}, [0], [[]], {"": None}, {"a": 1}))


def _other_text(text: str, rng: random.Random) -> Any:
    """Return other text: of JSON other JSON, of a number another number."""
    if text[:1] in ("{", "[") and (tree := _parsed(text.encode(errors="replace"))) is not None:
        return json.dumps(changed_tree(tree, rng))
    if text.lstrip("-").isdecimal() and rng.random() < 0.7:
        return str(rng.choice(_NUMBERS))
    if not text or rng.random() < 0.4:
        return rng.choice(HOSTILE_TEXTS)
    place = rng.randrange(len(text))
    piece = rng.choice((text[place], "_", "0", "9", "/", ".", "é", " ", "l", "weight"))
    return rng.choice((text[:place], text[:place] + piece + text[place + 1 :], text[:place] + piece + text[place:]))


def _other_entries(node: Any, rng: random.Random) -> Any:
    """Return a dict or list with an entry removed, doubled, renamed or put elsewhere, or with its values swapped."""
    if isinstance(node, list):
        place, other = rng.randrange(len(node)), rng.randrange(len(node))
        rest = node[:place] + node[place + 1 :]
        again = rng.choice((1, 1, 3, 40))
        return rng.choice((rest, [*node[:place], *([node[place]] * again), *node[place:]], [*rest[:other], node[place],
                           *rest[other:]]))  # fmt: skip
    key, other = rng.choice(list(node)), rng.choice(list(node))
    kind = rng.randrange(4)
    if kind == 0:
        return {each: value for each, value in node.items() if each != key}
    if kind == 1:
        return {**node, key: node[other], other: node[key]}
    name = _other_text(key, rng) if isinstance(key, str) else rng.choice(HOSTILE_TEXTS)
    name = name if isinstance(name, str) else "renamed"
    if kind == 2:
        return {name if each == key else each: value for each, value in node.items()}
    return {**node, name: node[key]}


def _nested(depth: int, rng: random.Random) -> Any:
    lists = rng.random() < 0.5
    tree: Any = 0
    for _ in range(depth):
        tree = [tree] if lists else {"a": tree}
    return tree


def _picked(root: Any, rng: random.Random) -> Any:
    """Return a node from anywhere in the tree."""
    for key in rng.choice(list(_places(root, ()))):
        root = root[key]
    return root


# -- msgpack ----------------------------------------------------------------------------------------------------------


def is_msgpack(content: bytes) -> bool:
    """Say whether a file is a map of msgpack, as flax writes it."""
    first = content[0] if content else 0
    return (0x81 <= first <= 0x8F or first in (0xDE, 0xDF)) and _unpacked(content) is not None


def changed_msgpack(content: bytes, rng: random.Random, damage: Damage) -> bytes:
    """Return a tree of msgpack with something changed in it, or within an array in it."""
    import msgpack

    tree = _unpacked(content)
    if rng.random() < 0.5:
        leaves = [path for path in _places(tree, ()) if isinstance(_at(tree, path), msgpack.ExtType)]
        if leaves:
            tree = _with(tree, rng.choice(leaves), lambda leaf: _other_extension(leaf, rng, damage))
            return _packed(tree, content)
    return _packed(changed_tree(tree, rng), content)


def _other_extension(leaf: Any, rng: random.Random, damage: Damage) -> Any:
    """Return an array of flax, which is msgpack within msgpack: shape, dtype and bytes."""
    import msgpack

    inner = _unpacked(leaf.data)
    if not isinstance(inner, list) or rng.random() < 0.2:
        return msgpack.ExtType(rng.choice((0, 1, 2, 3, 4, 127)), rng.choice((leaf.data, damage(leaf.data, rng))))
    return msgpack.ExtType(leaf.code, _packed(changed_tree(inner, rng), leaf.data))


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _unpacked(content: bytes) -> Any:
    try:
        import msgpack

        return msgpack.unpackb(content, strict_map_key=False)
    except (ImportError, ValueError, RecursionError, TypeError):
        return None


def _packed(tree: Any, otherwise: bytes) -> bytes:
    import msgpack

    try:
        packed: bytes = msgpack.packb(tree, unicode_errors="surrogatepass")
    except (ValueError, OverflowError, TypeError):  # a number or a depth that msgpack has no place for
        return otherwise
    return packed


# -- safetensors ------------------------------------------------------------------------------------------------------

_DTYPES = {"BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32",
           "I32": "int32", "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32",
           "F64": "float64"}  # fmt: skip


def is_safetensors(content: bytes) -> bool:
    """Say whether a file is a length and so many bytes of JSON."""
    return content[8:9] == b"{" and _header(content) is not None


def changed_safetensors(content: bytes, rng: random.Random, damage: Damage) -> bytes:
    """Return a file with its header or a tensor changed, and mostly with the digest that rnnx expects then."""
    header, data = _header(content)
    if rng.random() < 0.15:
        data = damage(data, rng)
    else:
        header = changed_tree(header, rng)
    if rng.random() < 0.9:
        header = _sealed(header, data)
    text = json.dumps(header).encode()
    return b"".join((struct.pack("<Q", len(text)), text, data))


def _header(content: bytes) -> Any:
    (length,) = struct.unpack_from("<Q", content)
    header = _parsed(content[8 : 8 + length])
    return None if header is None else (header, content[8 + length :])


def _sealed(header: Any, data: bytes) -> Any:
    """Return the header with the digest of a portable file, as `rnnx.weights.portable` describes it."""
    try:
        metadata = {key: value for key, value in header["__metadata__"].items() if key != "digest"}
        found = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
        for name in sorted(header.keys() - {"__metadata__"}):
            entry = header[name]
            start, stop = entry["data_offsets"]
            found.update(json.dumps([name, _DTYPES[entry["dtype"]], entry["shape"]]).encode())
            found.update(data[start:stop])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):  # what has no digest keeps the old one
        return header
    return {**header, "__metadata__": {**metadata, "digest": f"sha256:{found.hexdigest()}"}}

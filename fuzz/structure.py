"""Damage done to what a file says, in a file that is otherwise whole: `changed` finds out what kind of file it is.

Each kind has a module or a function of its own; those that need a package do nothing where it is not installed.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import structure_archives
import structure_hdf5
import structure_protobuf
import structure_tables
import structure_trees

__all__ = ["changed", "known"]

Damage = Callable[[bytes, random.Random], bytes]

#: Kinds of file, each with how it is told and what changes it; the first that is told is taken.
_KINDS: tuple[tuple[str, Callable[[bytes], bool], Callable[[bytes, random.Random, Damage], bytes]], ...] = (
    ("zip", structure_archives.is_zip, structure_archives.changed_zip),
    ("HDF5", structure_hdf5.is_hdf5, structure_hdf5.changed_hdf5),
    ("table", structure_tables.is_table, structure_tables.changed_table),
    ("safetensors", structure_trees.is_safetensors, structure_trees.changed_safetensors),
    ("JSON", structure_trees.is_json, structure_trees.changed_json),
    ("pickle", structure_archives.is_pickle, structure_archives.changed_pickle),
    ("msgpack", structure_trees.is_msgpack, structure_trees.changed_msgpack),
    ("ONNX", structure_protobuf.is_model, structure_protobuf.changed_model),
)


def known(content: bytes) -> bool:
    """Say whether a file is of a kind whose content can be changed."""
    return any(told(content) for _, told, _ in _KINDS)


def changed(content: bytes, rng: random.Random, damage: Damage) -> tuple[bytes, str]:
    """Return a file of the same kind that says something else, and the kind; the same bytes and nothing if unknown.

    Parameters
    ----------
    content : bytes
        A valid file.
    rng : random.Random
        What makes every choice.
    damage : callable
        What changes bytes of which nothing is known.
    """
    for kind, told, change in _KINDS:
        if told(content):
            return change(content, rng, lambda part, chance: _deeper(part, chance, damage)), kind
    return content, ""


def _deeper(part: bytes, rng: random.Random, damage: Damage) -> bytes:
    """Change a file within a file: by what it is, or byte by byte."""
    found, kind = changed(part, rng, damage) if rng.random() < 0.8 else (part, "")
    return found if kind else damage(part, rng)

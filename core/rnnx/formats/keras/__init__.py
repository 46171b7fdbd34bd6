"""Keras models and weights as a format: ``.keras``, ``.weights.h5`` and legacy ``.h5``.

A file that a model was read from is written again as it was: every array in its place, config and attributes word for
word. For a part that comes from elsewhere a ``Sequential`` model is made.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnx.archive import Accepted, Archive, Document, Format
from rnnx.assembly import fitted, tensors_of
from rnnx.cells import BaseRNNCell
from rnnx.errors import RNNXError, UnsupportedError, WeightFormatError
from rnnx.formats.keras.config import layers_of_config
from rnnx.formats.keras.files import (
    ARCHIVE,
    CONFIG,
    EXTRA,
    KIND,
    LEGACY,
    LEGACY_CONFIG,
    LEGACY_ROOT,
    WEIGHTS,
    attributes_of,
    kind_of,
    looks_like_keras,
    name_of_path,
    path_of_name,
    paths_of,
    read_keras,
    write_keras,
)
from rnnx.formats.keras.find import Told, parts_of, told_by
from rnnx.formats.keras.model import PARTS, Model
from rnnx.formats.keras.names import LegacyPlaces, Places, places_of
from rnnx.found import Assumptions, Found, built
from rnnx.fusion import running_layers
from rnnx.remembering import remembered
from rnnx.spec import CellSpec
from rnnx.weights.stored import Stored

__all__ = ["KerasFormat"]


class KerasFormat(Format):
    """Files of Keras 3, and legacy HDF5 files."""

    name = "keras"
    suffixes = (".keras", ".h5", ".hdf5")

    def recognises(self, path: Path, head: bytes) -> bool:
        """Say whether the file is HDF5, or an archive that begins with a file of Keras's."""
        return looks_like_keras(head)

    def read(self, path: Path) -> Document:
        """Read arrays, attributes, and the files of an archive; see `Format.read`."""
        return read_keras(path)

    def find(self, document: Document, assume: Assumptions) -> Sequence[Found]:
        """Return the recurrent parts that the config tells, and those that names and shapes tell."""
        return _parts(document, Told(assume))

    def spelled(self, document: Document, cell: BaseRNNCell) -> tuple[int, Sequence[Stored]]:
        """Return how the weights go to a tree that the user gives, which tells what the file does not."""
        found = _parts(document, told_by(cell, Assumptions()))
        whole = fitted(found, cell)
        return whole.input_size, whole.stored

    def layouts(self, archive: Archive) -> Mapping[str, Sequence[Stored]]:
        """Return how weights are stored: as in the Keras file that they are from, or as a sequential model has them."""
        kind = _kind(archive)
        return remembered(archive, self.name) if self._is_as_it_was(archive, kind) else _model(archive, kind)[1]

    def write(self, path: Path, archive: Archive, accepted: Accepted) -> None:
        """Write a file of the kind that its name says; see `Format.write`."""
        kind = kind_of(path, _kind(archive))
        if self._is_as_it_was(archive, kind):
            arrays = tensors_of(archive, remembered(archive, self.name), "a Keras file", accepted)
            places = {name_of_path(place): place for place in paths_of(archive.notes)}
            stored = {places[name]: array for name, array in arrays.items()}
            write_keras(path, kind, stored, attributes_of(archive.notes), archive.files)
            return
        if archive.files:
            raise WeightFormatError(
                f"{path.name} would hold a model made for the part, and has no place for the file "
                f"{next(iter(archive.files))!r}: drop_files=True (--drop-files) leaves it out"
            )
        model, layouts = _model(archive, kind)
        arrays = tensors_of(archive, layouts, "a Keras file", accepted)
        stored = {path_of_name(name) if name in archive.extra else name: array for name, array in arrays.items()}
        dtype = arrays[next(iter(layouts.values()))[0].name].dtype.name
        write_keras(path, kind, stored, model.attributes(), model.files(dtype))

    def _is_as_it_was(self, archive: Archive, kind: str) -> bool:
        """Say whether the archive is all that a Keras file of the kind held, in other values at most."""
        if archive.notes.get(KIND) != kind:
            return False
        layouts, paths = remembered(archive, self.name), paths_of(archive.notes)
        names = {stored.name for layout in layouts.values() for stored in layout} | archive.extra.keys()
        if layouts.keys() != archive.parts.keys() or names != set(map(name_of_path, paths)):
            return False
        whole_model = kind == LEGACY and any(place.startswith(f"{LEGACY_ROOT}/") for place in paths)
        needed = CONFIG if kind == ARCHIVE else LEGACY_CONFIG
        return needed in archive.files if kind == ARCHIVE or whole_model else not archive.files


def _kind(archive: Archive) -> str:
    kind = archive.notes.get(KIND, ARCHIVE)
    return kind if kind in (WEIGHTS, LEGACY) else ARCHIVE


def _parts(document: Document, told: Told) -> list[Found]:
    """Return a document's recurrent parts; where rnnx wrote the file, as the very tree that it was given."""
    described, places, kind = _described(document), _places(document), document.notes[KIND]
    if described and kind == WEIGHTS:
        mine = {stored.name for stored in described.stored}
        if all(cell.weights.kernel in mine for cell in places.cells()):
            return [described]
    config = document.files.get(LEGACY_CONFIG if kind == LEGACY else CONFIG)
    drawn = layers_of_config(config, "the model's config") if config is not None else None
    found = parts_of(drawn, places, document.shapes, told)
    if described and len(found) == 1 and _is_same(described, found[0]):
        return [dataclasses.replace(described, evidence=(*found[0].evidence, *described.evidence))]
    return found


def _places(document: Document) -> Places | LegacyPlaces:
    return places_of(document.notes[KIND], document.shapes, attributes_of(document.notes))


def _model(archive: Archive, kind: str) -> tuple[Model, dict[str, Sequence[Stored]]]:
    """Return the model for an archive's one part, and how it stores the weights."""
    names = ", ".join(map(repr, archive.parts)) or "none"
    if len(archive.parts) != 1:
        raise UnsupportedError(
            f"a Keras model is made for one recurrent part, found {names}: give select=, or stack=True "
            "(--stack) where they are one network"
        )
    ((name, part),) = archive.parts.items()
    model = Model.of(name, part, kind)
    return model, {name: model.layout()}


# -- the very tree that was written -----------------------------------------------------------------------------------


def _described(document: Document) -> Found | None:
    """Return the part as rnnx described it when it wrote the file, if all its weights are there."""
    shapes = document.shapes
    try:
        text = attributes_of(document.notes).get(EXTRA, {}).get(PARTS, {}).get("text")
        ((name, node),) = json.loads(text).items()
        spec = CellSpec.from_dict(node)
        cell = built(spec)
        model = Model(name, spec, document.notes[KIND], lambda _, weights: shapes[weights.kernel][0])
        stored = tuple(model.layout())
        sizes = stored[0].shape[0], cell.output_size(stored[0].shape[0])
    except (RNNXError, ValueError, TypeError, AttributeError, LookupError, RecursionError):
        return None  # what the file is without a description says the rest of it
    fits = all(shapes.get(each.name) == each.shape for each in stored)
    evidence = (f"the cell tree is written in the group {EXTRA!r}, and fits the weights",)
    return Found(name, spec, evidence, *sizes, stored) if fits else None


def _is_same(described: Found, found: Found) -> bool:
    """Say whether a description is of the network that was found."""
    names = [{stored.name for stored in each.stored} for each in (described, found)]
    return names[0] == names[1] and _skeleton(described.spec) == _skeleton(found.spec)


def _skeleton(spec: CellSpec) -> list[Any]:
    """Return what of a tree matters to what it computes after training, in order."""
    passed_over = ("prefix", "params", "forget_bias", "output_prefix")
    found: list[Any] = []
    for cell in running_layers(spec):
        fields = {key: value for key, value in cell.fields.items() if key not in passed_over}
        found.append((cell.kind, fields, [_skeleton(child) for child in cell.children]))
    return found

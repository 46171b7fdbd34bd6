"""An archive in another form: fused or unfused, under other names, in another dtype. No weight is computed anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

from rnnx.archive import Archive, Array, Part, selected
from rnnx.cells import placement
from rnnx.cells.arguments import FLOATING
from rnnx.errors import UnsupportedError, WeightFormatError
from rnnx.found import name_of
from rnnx.fusion import all_unfused, fused_spec, without_modifiers
from rnnx.remembering import forgotten
from rnnx.spec import CellSpec

__all__ = ["Changes", "changed"]


@dataclasses.dataclass(frozen=True)
class Changes:
    """What is to be another than in the file read; see `rnnx.convert`.

    Raises
    ------
    UnsupportedError
        If it is to be fused and unfused at once, or of a dtype that weights cannot have.
    """

    select: str | None = None
    prefix: str | None = None
    fuse: bool = False
    unfuse: bool = False
    dtype: str | None = None
    drop_files: bool = False
    weights_only: bool = False

    def __post_init__(self) -> None:
        if self.fuse and self.unfuse:
            raise UnsupportedError("fuse and unfuse undo each other: give one of them")
        if self.dtype is not None and self.dtype not in FLOATING:
            raise UnsupportedError(f"dtype is {self.dtype!r}; weights can be of {', '.join(FLOATING)}")

    @property
    def of_trees(self) -> bool:
        """Whether trees, or the names of their weights, are asked for that may be others than those read."""
        return self.fuse or self.unfuse or self.weights_only or self.prefix is not None


def changed(archive: Archive, changes: Changes, source: object) -> Archive:
    """Return an archive with the changes made.

    Raises
    ------
    UnsupportedError
        If a part has no fused form.
    WeightFormatError
        If no part is called as the one selected, or a file beside the arrays describes trees that are changed.
    """
    if changes.select is not None:
        part = selected(archive, changes.select, source)
        archive = Archive({changes.select: part}, {}, {}, archive.notes)
    dropped = archive.files if changes.drop_files else {}
    archive = dataclasses.replace(archive, files={} if dropped else archive.files)
    parts = {name: _changed(part, changes) for name, part in archive.parts.items()}
    pairs = zip(archive.parts.values(), parts.values(), strict=True)
    if archive.files and any(new is not old and new.spec != old.spec for old, new in pairs):
        raise WeightFormatError(
            f"{', '.join(archive.files)} beside {source} describes the network as it is, and cannot be rewritten: "
            "drop_files=True (--drop-files) leaves it out"
        )
    made = dataclasses.replace(archive, parts=parts)
    # What describes the network rules how weights are stored. Without it they are stored as the tree asked for wants.
    same = not dropped and (archive.files or not changes.of_trees)
    return made if same else forgotten(made)


def _changed(part: Part, changes: Changes) -> Part:
    """Return the part changed, its weights in the order they had; itself if nothing about it is to change."""
    if not changes.of_trees and changes.dtype is None:
        return part
    spec, weights, prefix = part.spec, part.weights, changes.prefix
    if changes.weights_only:
        spec = without_modifiers(spec)
    if changes.fuse or changes.unfuse:
        spec = fused_spec(spec) if changes.fuse else all_unfused(spec)
    if prefix is not None:
        old, common = spec, name_of(spec)
        spec = _renamed(spec, lambda own: prefix + own.removeprefix(common))
        names = dict(zip(_gate_names(old), _gate_names(spec), strict=True))
        weights = {names[name]: array for name, array in weights.items()}
    if changes.dtype is not None:
        weights = _Cast(weights, changes.dtype)
    return Part(spec, weights, part.evidence)


def _renamed(spec: CellSpec, rename: Callable[[str], str]) -> CellSpec:
    """Return a tree whose cells with weights have other prefixes."""
    own = {key: rename(spec.fields[key]) for key in ("prefix", "params") if key in spec.fields}
    fields = {**spec.fields, **own} if "num_hidden" in spec.fields else spec.fields
    return CellSpec(spec.kind, fields, tuple(_renamed(child, rename) for child in spec.children))


def _gate_names(spec: CellSpec) -> list[str]:
    return list(placement.gate_shapes(Part(spec, {}).tree(), 1))


class _Cast(Mapping[str, Array]):
    """Weights that are cast one by one, when they are asked for."""

    def __init__(self, weights: Mapping[str, Array], dtype: str) -> None:
        self._weights, self._dtype = weights, dtype

    def __getitem__(self, name: str) -> Array:
        array: Array = placement.cast(self._weights[name], self._dtype)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

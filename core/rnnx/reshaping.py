"""An archive in another form: fused or unfused, under other names, in another dtype. No weight is computed anew."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable

from rnnx.archive import Archive, Part, selected
from rnnx.cells import BaseRNNCell, placement
from rnnx.cells.arguments import FLOATING
from rnnx.errors import UnsupportedError, WeightFormatError
from rnnx.found import name_of, stack_of
from rnnx.fusion import all_unfused, flattened, fused_spec, without_modifiers
from rnnx.remembering import forgotten
from rnnx.spec import CellSpec
from rnnx.weights.stored import Cast

__all__ = ["Changes", "changed"]

#: Files beside the arrays that do not say of what dtype weights are: MXNet's symbol, a training checkpoint's numbers.
_WITHOUT_DTYPES = {"symbol.json", "checkpoint.json"}


@dataclasses.dataclass(frozen=True)
class Changes:
    """What is to be another than in the file read; see `rnnx.convert`.

    Raises
    ------
    UnsupportedError
        If it is to be fused and unfused at once, or of a dtype that weights cannot have.
    """

    select: tuple[str, ...] = ()
    prefix: str | None = None
    fuse: bool = False
    unfuse: bool = False
    dtype: str | None = None
    drop_files: bool = False
    weights_only: bool = False
    stack: bool = False

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
    described = archive.files
    if changes.select:
        parts = {name: selected(archive, name, source) for name in changes.select}
        archive = Archive(parts, {}, {}, archive.notes, archive.stood)
    if changes.drop_files:
        archive = dataclasses.replace(archive, files={})
    if changes.stack and len(archive.parts) > 1:
        archive = _stacked(archive, source)
    made = dataclasses.replace(archive, parts={name: _changed(part, changes) for name, part in archive.parts.items()})
    _refuse_stale(archive, made, source)
    # What describes the network rules how weights are stored. Without it they are stored as the tree asked for wants.
    same = archive.files if described else not changes.of_trees
    return made if same else forgotten(made)


def _stacked(archive: Archive, source: object) -> Archive:
    """Return an archive whose parts are one, each reading what the one before it makes."""
    if archive.files:
        raise WeightFormatError(_stale(archive.files, source))
    for (lower, under), (upper, above) in itertools.pairwise(archive.parts.items()):
        width = under.tree().output_size(under.input_size)
        if width != above.input_size:
            raise WeightFormatError(
                f"parts of {source} make no stack in their order: {lower!r} makes outputs {width} wide, and {upper!r} "
                f"reads {above.input_size}: give the tree as cell="
            )
    spec = stack_of([cell for part in archive.parts.values() for cell in flattened(part.spec)])
    weights = {name: array for part in archive.parts.values() for name, array in part.weights.items()}
    if len(weights) < sum(len(part.weights) for part in archive.parts.values()):
        raise WeightFormatError(f"parts of {source} have weights of one name, and cannot be one stack")
    told = (f"{', '.join(map(repr, archive.parts))} are a stack: that was said",)
    evidence = (*itertools.chain.from_iterable(part.evidence for part in archive.parts.values()), *told)
    return forgotten(dataclasses.replace(archive, parts={name_of(spec): Part(spec, weights, evidence)}))


def _stale(files: Iterable[str], source: object) -> str:
    return (
        f"{', '.join(files)} beside {source} describes the network as it is, and cannot be rewritten: drop_files=True "
        "(--drop-files) leaves it out"
    )


def _refuse_stale(archive: Archive, made: Archive, source: object) -> None:
    """Refuse changes of what files beside the arrays describe: trees, or dtypes that they name."""
    for name, part in archive.parts.items():
        new = made.parts[name]
        other_tree = new is not part and new.spec != part.spec
        told = archive.files.keys() - (set() if other_tree else _WITHOUT_DTYPES)
        named = sorted(told) if other_tree or new.weight_dtype != part.weight_dtype else []
        if named:
            raise WeightFormatError(_stale(named, source))


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
        weights = Cast(weights, functools.partial(placement.cast, dtype=changes.dtype))
    if part.given is not None and spec == part.spec:
        return Part(spec, weights, part.evidence, part.given)
    return Part(spec, weights, part.evidence)


def _renamed(spec: CellSpec, rename: Callable[[str], str]) -> CellSpec:
    """Return a tree whose cells with weights have other prefixes."""
    own = {key: rename(spec.fields[key]) for key in ("prefix", "params") if key in spec.fields}
    fields = {**spec.fields, **own} if "num_hidden" in spec.fields else spec.fields
    return CellSpec(spec.kind, fields, tuple(_renamed(child, rename) for child in spec.children))


def _gate_names(spec: CellSpec) -> list[str]:
    """Return the names of a tree's weights, the same ones of two trees in the same order."""
    leaves = BaseRNNCell.from_spec(spec).leaves()
    return [name for leaf in leaves for gates in leaf.gate_weights().values() for name in gates]

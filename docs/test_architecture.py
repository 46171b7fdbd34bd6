"""The table of layers is true: it has every module of rnnx, and none imports from a layer above its own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = ROOT / "core" / "rnnx"

#: These put the house together, and belong to no layer.
DOORS = {"__init__", "__main__"}


def layers() -> dict[str, int]:
    """Return each module that the table names, with the number of its row, counted from the top."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\|[^|]*\| (`[^|]*)\|", page)
    return {name: row for row, cell in enumerate(rows) for name in re.findall(r"`([\w.]+)`", cell)}


def name_of(path: Path) -> str:
    """Return a module's name within rnnx, without ``__init__`` of a package."""
    return ".".join(path.relative_to(CORE).with_suffix("").parts).removesuffix(".__init__")


def layer_of(name: str) -> int | None:
    """Return the layer of a module or of the package that it is in; None if the table has neither."""
    known = layers()
    return known.get(name, known.get(name.partition(".")[0]))


def imported(path: Path) -> Iterator[str]:
    """Yield the modules of rnnx that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "rnnx":
            module = (node.module or "").partition(".")[2]
            for name in (".".join(filter(None, (module, alias.name))) for alias in node.names):
                is_module = (CORE / f"{name.replace('.', '/')}.py").exists() or (CORE / name.replace(".", "/")).is_dir()
                yield name if is_module else module


MODULES = [path for path in sorted(CORE.rglob("*.py")) if name_of(path) not in DOORS | {"weights"}]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_from_no_layer_above(path: Path) -> None:
    """Compare the rows of a module and of all that it imports."""
    mine = layer_of(name_of(path))
    assert mine is not None, "the table of architecture.md does not have it"
    for other in imported(path):
        theirs = layer_of(other)
        assert theirs is not None, f"it imports {other!r}, which the table of architecture.md does not have"
        assert theirs >= mine, f"it imports {other!r}, which stands above it"


def test_the_table_names_no_module_that_is_not_there() -> None:
    """Look for every name of the table."""
    for name in layers():
        place = CORE / name.replace(".", "/")
        assert place.is_dir() or place.with_suffix(".py").exists(), name

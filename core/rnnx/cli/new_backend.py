"""``rnnx new-backend``: a project to begin with, which passes the conformance suite as it is written."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from pathlib import Path
from string import Template

import click

import rnnx
from rnnx.errors import RNNXError
from rnnx.registry import list_backends

__all__ = ["new_backend"]

#: Where the templates of a folder go; all others go to the project's root.
_PLACES = {"src": "src/rnnx_{name}", "tests": "tests", "workflows": ".github/workflows"}


@click.command("new-backend")
@click.argument("name")
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    help="Where the project is written; rnnx-NAME by default.",
)
def new_backend(name: str, directory: Path | None) -> None:
    """Write a plugin project for a backend called NAME.

    It has a backend over NumPy arrays in a box, which runs every cell, with the conformance suite in its tests.
    """
    _refuse_name(name)
    where = directory or Path(f"rnnx-{name}")
    if where.exists() and (not where.is_dir() or any(where.iterdir())):
        raise RNNXError(f"{where} is there already and is not an empty folder: choose another --directory")
    words = {"name": name, "kind": name.title().replace("_", ""), "version": rnnx.__version__}
    for place, text in _templates():
        path = where / place.format(name=name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(text).substitute(words), encoding="utf-8")
        click.echo(str(path))
    click.echo(f"\nnext:\n  cd {where}\n  pip install -e '.[test]'\n  rnnx conformance {name}")


def _refuse_name(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise RNNXError(
            f"NAME is {name!r}, expected a name that Python can import: small letters, digits and underscores"
        )
    taken = {status.name for status in list_backends()}
    if name in taken:
        raise RNNXError(f"a backend is called {name!r} already; there are {', '.join(sorted(taken))}")


def _templates() -> Iterator[tuple[str, str]]:
    """Yield the path of every file within the project, and its template."""
    root = Path(__file__).parent / "templates"
    for file in sorted(root.rglob("*.in")):
        folder = _PLACES.get(file.parent.name, "")
        yield f"{folder}/{file.stem}".removeprefix("/"), file.read_text(encoding="utf-8")

"""``rnnx new-backend``: the project that it writes is whole, and runs every cell."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import rnnx
from rnnx.cli import main

FILES = {
    "pyproject.toml",
    "README.md",
    "src/rnnx_toy/__init__.py",
    "src/rnnx_toy/plugin.py",
    "src/rnnx_toy/array.py",
    "src/rnnx_toy/backend.py",
    "tests/test_backend.py",
    ".github/workflows/conformance.yml",
}


def written(where: Path, name: str = "toy") -> Path:
    result = CliRunner().invoke(main, ["new-backend", name, "--directory", str(where)])
    assert result.exit_code == 0, result.output
    return where


def test_it_writes_a_project(tmp_path):
    project = written(tmp_path / "new")
    found = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}
    assert found == FILES
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 does not read TOML")
    settings = tomllib.loads((project / "pyproject.toml").read_text())
    assert settings["project"]["entry-points"]["rnnx"] == {"toy": "rnnx_toy.plugin"}
    assert settings["project"]["dependencies"][0] == f"rnnx>={rnnx.__version__}"


def test_its_backend_is_small(tmp_path):
    source = written(tmp_path / "new") / "src" / "rnnx_toy"
    lines = [line for file in source.glob("*.py") for line in file.read_text().splitlines()]
    assert len([line for line in lines if line.strip()]) < 150


def test_no_word_of_the_template_is_left_over(tmp_path):
    for path in written(tmp_path / "new").rglob("*"):
        if path.is_file() and path.suffix != ".yml":
            assert "$" not in path.read_text(), path
    assert "${{ matrix.python }}" in (tmp_path / "new/.github/workflows/conformance.yml").read_text()


def test_its_own_test_passes(tmp_path):
    project = written(tmp_path / "new", "two_words")
    code = (
        "import sys; sys.path.insert(0, 'src'); sys.path.insert(0, 'tests')\n"
        "import rnnx, rnnx_two_words.plugin as plugin, test_backend\n"
        "[info] = plugin.rnnx_backends()\n"
        "rnnx.register_backend(info)\n"
        "assert type(rnnx.get_backend('two_words')).__name__ == 'TwoWordsBackend'\n"
        "test_backend.test_a_cell_runs_on_its_arrays()\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=project)


@pytest.mark.parametrize("name", ["Toy", "2d", "my-backend", "class", "", "a.b"])
def test_a_name_that_cannot_be_imported_is_refused(tmp_path, name):
    result = CliRunner().invoke(main, ["new-backend", "--directory", str(tmp_path / "new"), "--", name])
    assert result.exit_code == 2
    assert "expected a name that Python can import" in result.output
    assert not (tmp_path / "new").exists()


def test_a_name_that_is_taken_is_refused(tmp_path):
    result = CliRunner().invoke(main, ["new-backend", "numpy", "--directory", str(tmp_path / "new")])
    assert result.exit_code == 2
    assert "a backend is called 'numpy' already" in result.output


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    result = CliRunner().invoke(main, ["new-backend", "toy", "--directory", str(tmp_path)])
    assert result.exit_code == 2
    assert "not an empty folder" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]

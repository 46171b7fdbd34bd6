"""The tutorial "Write a backend", typed as it stands: its commands run, its files are written, its output is seen."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "write-a-backend.md"

for module in ("rich", "hatchling", "editables"):
    if importlib.util.find_spec(module) is None:
        pytest.skip(
            f"{module} is not installed, which installing the tutorial's package needs", allow_module_level=True
        )

BLOCK = re.compile(r"(?ms)^```(?:console|\{code-block\} python\n:caption: (?P<caption>[^\n]*)\n)\n?(?P<body>.*?)^```$")


def blocks() -> Iterator[tuple[str, str]]:
    """Yield each command block or captioned code block of the page, in order: its caption, or "", and its text."""
    for found in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        yield found["caption"] or "", found["body"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A virtual environment that sees what is installed here, the commands of rnnx and pip first on its path."""
    where = tmp_path / "environment"
    venv.create(where, with_pip=True)
    paths = {"base": str(where), "platbase": str(where)}
    site = Path(sysconfig.get_path("purelib", "venv", paths))
    (site / "outer.pth").write_text("\n".join(path for path in sys.path if Path(path).is_dir()))
    scripts = Path(sysconfig.get_path("scripts", "venv", paths))
    command = scripts / "rnnx"
    command.write_text(f"#!{scripts / 'python'}\nfrom rnnx.cli import main\nmain(prog_name='rnnx')\n")
    command.chmod(0o755)
    # What the tutorial's package depends on is here already, so nothing is to be downloaded.
    pip = {"PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    plain = {"COLUMNS": "100", "NO_COLOR": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **pip, **plain, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}


def run(command: str, folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    return done.stdout + done.stderr


def assert_shown(shown: list[str], printed: str, command: str) -> None:
    """Check that the lines shown were printed in this order; ``...`` stands for anything."""
    pattern = ".*".join(re.escape(part) for part in "\n".join(shown).split("..."))
    assert re.search(pattern, printed, re.DOTALL), f"{command} printed\n{printed}\nand the page shows\n" + "\n".join(
        shown
    )


def edit(caption: str, code: str, folder: Path) -> None:
    """Do to a file what a caption says: write it, add to its end or its imports, or put a line in another's place."""
    path = folder / caption.rpartition(" ")[2]
    old = path.read_text() if path.exists() else ""
    if caption.startswith("at the end of"):
        path.write_text(f"{old}\n{code}")
    elif caption.startswith("among the imports of"):
        path.write_text(old.replace("import numpy as np\n", f"import numpy as np\n{code}", 1))
    elif caption.startswith("in "):
        stem = re.match(r"\s*\w+", code)
        assert stem is not None
        path.write_text(re.sub(rf"(?m)^{stem[0]}\b.*\n", lambda _: code, old, count=1))
        assert code in path.read_text()
    else:
        path.write_text(code)


def test_the_page_does_what_it_says(tmp_path: Path, environment: dict[str, str]) -> None:
    folder = tmp_path
    commands = 0
    for caption, body in blocks():
        if caption:
            edit(caption, body, folder)
            continue
        for command, shown in re.findall(r"(?m)^\$ (.*)\n((?:(?!\$ ).*\n)*)", body):
            commands += 1
            if command.startswith("cd "):
                folder /= command.removeprefix("cd ")
                continue
            assert_shown(shown.splitlines(), run(command, folder, environment), command)
    assert commands == 6

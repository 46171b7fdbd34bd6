"""The documents are true: their code runs, prints what they show, and their links lead somewhere."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import mktestdocs
import pytest
from click.testing import CliRunner

import rnnx
from rnnx.cli import main

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

#: A link or an image, ``[text](target)``; code, in blocks or within a line, has none.
LINK = re.compile(r"\[[^\]]*\]\(<?([^)>\s]+)>?\)")
FRAMEWORKS = re.compile(r"(?m)^import (keras|onnxruntime|tensorflow|torch)\b")
CODE = re.compile(r"(?ms)^ *```.*?^ *```|`[^`\n]+`")


def named(path: Path) -> str:
    """Return a document's path within the repository."""
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> list[str]:
    """Return a document's code blocks of a language."""
    return mktestdocs.grab_code_blocks(path.read_text(encoding="utf-8"), lang=language)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a document as one script: from the root, as ``__main__``, and leaving no backend behind."""

    def execute(source: str) -> None:
        module = types.ModuleType("__main__")
        monkeypatch.setitem(sys.modules, "__main__", module)
        exec(source, vars(module))

    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(mktestdocs.__main__._executors, "python", execute)
    yield
    rnnx.refresh()


@pytest.mark.usefixtures("script")
@pytest.mark.parametrize("path", [path for path in DOCUMENTS if blocks(path, "python")], ids=named)
def test_code_runs_and_prints_what_is_shown(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run the Python blocks of a document one after the other; its text blocks are what they print, in order."""
    for framework in FRAMEWORKS.findall(path.read_text(encoding="utf-8")):
        pytest.importorskip(framework, reason=f"{framework} is not installed")
    mktestdocs.check_md_file(path, memory=True)
    printed = capsys.readouterr().out
    for shown in blocks(path, "text"):
        _, found, rest = printed.partition(shown)
        assert found, f"{named(path)} shows\n{shown}\nwhere this was printed:\n{printed}"
        printed = rest


#: Commands whose output is the same wherever they run; what `backends` and `verify` print depends on the machine.
SAME_ANYWHERE = ("$ rnnx inspect", "$ rnnx convert")


def test_commands_print_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each command of the page on the command line, and compare all that it prints."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    transcripts = re.split(r"(?m)^(?=\$ )", "".join(blocks(ROOT / "docs" / "command-line.md", "console")))
    chosen = [transcript for transcript in transcripts if transcript.startswith(SAME_ANYWHERE)]
    assert len(chosen) >= 4
    for transcript in chosen:
        command, _, shown = transcript.partition("\n")
        printed = CliRunner().invoke(main, command.split()[2:]).output
        assert [line.rstrip() for line in printed.rstrip().split("\n")] == shown.rstrip().split("\n")


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_links_lead_somewhere(path: Path) -> None:
    """Look for the file behind every relative link."""
    for target in LINK.findall(CODE.sub("", path.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z]+:|#", target):
            place = path.parent / target.partition("#")[0]
            assert place.exists(), f"{named(path)} links to {target}, which is not there"


@pytest.mark.parametrize("name", rnnx.__all__)
def test_every_public_name_is_in_the_reference(name: str) -> None:
    """Look for it on the pages."""
    pages = [path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md")]
    assert any(re.search(rf"\brnnx\.(\w+\.)*{name}\b", page) for page in pages)

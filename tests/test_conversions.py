"""The full matrix of conversions: what is lossless is so bit for bit, and the table in the documentation says so."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import conversions

for framework in ("torch", "h5py", "onnx", "msgpack", "tensorflow"):
    pytest.importorskip(framework, reason=f"the matrix has every format, and {framework} is not installed")

PAGE = Path(__file__).parent.parent / "docs" / "conversions.md"
FORMATS = tuple(conversions.FILES)

#: Set, it writes the table into the documentation instead of comparing.
REWRITE = "RNNX_WRITE_MATRIX"

TABLE = re.compile(r"(?s)(?<=<!-- matrix -->\n\n).*?(?=\n\n<!-- end of matrix -->)")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> conversions.Results:
    return conversions.results(tmp_path_factory.mktemp("matrix"), FORMATS)


def test_the_documentation_has_the_matrix(found):
    page, table = PAGE.read_text(encoding="utf-8"), conversions.matrix(found, FORMATS)
    if os.environ.get(REWRITE):
        PAGE.write_text(TABLE.sub(lambda _: table, page), encoding="utf-8")
    else:
        assert TABLE.search(page)[0] == table


def test_the_documentation_says_what_the_letters_stand_for():
    page = PAGE.read_text(encoding="utf-8")
    for letter, (what, _) in conversions.KINDS.items():
        assert f"| {letter} | {what} |" in page


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_gives_back_what_it_holds(found, name):
    for kind in conversions.KINDS:
        assert found[kind, name, name] == found[kind, name, "rnnx"], "the portable file holds all that any other does"
        held = found[kind, name, name]
        assert held == "exact" or not held.endswith("merged"), f"{kind}: {held}"


@pytest.mark.parametrize("kind", conversions.KINDS)
def test_a_refusal_names_what_cannot_be_held(found, kind):
    for (each, name, other), outcome in found.items():
        if each == kind and outcome not in ("exact", "merged"):
            assert re.search("ResidualCell|GRUCell|LSTMPCell|activation|fused form|one recurrent part", outcome), (
                f"{kind}: {name} to {other}: {outcome}"
            )

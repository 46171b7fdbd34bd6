"""What the conformance suite makes of its results: JSON, a matrix, pages."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import re

import pytest
from click.testing import CliRunner

from rnnx.backend import CAPABILITIES
from rnnx.conformance.matrix import as_html, as_markdown, main
from rnnx.conformance.page import page_of
from rnnx.conformance.results import Check, Results, read_results
from rnnx.conformance.subject import TOLERANCES
from rnnx.conformance.summary import as_text
from rnnx.errors import RNNXError

CHECKS = (
    Check("test_forms.py::test_a", "forms", "passed", seconds=0.5),
    Check("test_forms.py::test_b", "forms", "skipped", "box does not declare 'gradients'"),
    Check("test_forms.py::test_c", "forms", "skipped", "box does not declare 'gradients'"),
    Check("test_forms.py::test_d", "forms", "skipped", "not on Sundays"),
    Check("test_outputs.py::test_a[lstm]", "outputs", "passed", seconds=0.25, kernels=("box.lstm",)),
    Check("test_outputs.py::test_a[gru]", "outputs", "passed", kernels=("box.gru", "box.lstm")),
)
EXPECTED = Check("test_outputs.py::test_b", "outputs", "expected", "no <gru> yet", "found 1")
FAILED = Check("test_outputs.py::test_c", "outputs", "failed", report="found <0.5> & expected\n0.25")

BOX = Results(
    backend="box",
    devices=("cpu",),
    versions={"rnnx": "0.1.0", "python": "3.11", "numpy": "2.4", "box": "7.1"},
    capabilities=("float32", "fused.lstm"),
    tolerances={"float32": 1e-3, "float32.gradients": 1e-5, "float64": TOLERANCES["float64"]},
    expected_failures={},
    areas={"forms": "Every form.", "outputs": "Every output."},
    checks=CHECKS,
    seconds=1.5,
)


def of(*more, **changes):
    """The results above, with more checks and other fields."""
    return dataclasses.replace(BOX, checks=(*CHECKS, *more), **changes)


PARTLY = {"complete": False, "left_out": 9}
BROKEN = {"complete": False, "problems": ("no checks\nat all", "no luck")}


@pytest.mark.parametrize(
    ("results", "conforms", "verdict"),
    [
        (BOX, True, "box conforms: 3 of 3 checks that it declares"),
        (of(EXPECTED), True, "box conforms but for 1 expected failure: 3 of 4 checks that it declares"),
        (of(FAILED, EXPECTED), False, "box does not conform: 1 of 5 checks that it declares failed"),
        (of(**PARTLY), None, "box was judged in part: 3 of 3 checks that were chosen passed"),
        (of(FAILED, **PARTLY), False, "box does not conform: 1 of 4 checks that were chosen failed"),
        (dataclasses.replace(BOX, checks=()), None, "box was not judged: no check passed or failed"),
        (dataclasses.replace(BOX, checks=(EXPECTED,)), None, "box was not judged: no check passed or failed"),
        (of(**BROKEN), None, "box was not judged: no checks; and 1 more"),
    ],
)
def test_the_verdict(results, conforms, verdict):
    assert results.conforms is conforms
    assert results.verdict == verdict


def test_json_has_everything_and_comes_back(tmp_path):
    results = of(FAILED, EXPECTED, expected_failures={"*b": "no <gru> yet"})
    document = json.loads(json.dumps(results.to_dict()))
    assert (document["format"], document["format_version"]) == ("rnnx-conformance", 1)
    assert document["counts"] == {"passed": 3, "failed": 1, "expected": 1, "skipped": 3}
    assert document["skips"][0] == {"reason": "box does not declare 'gradients'", "checks": 2}
    assert document["tolerances"]["float32"] == {"value": 1e-3, "usual": 1e-5}
    assert document["capabilities"] == {name: name in BOX.capabilities for name in CAPABILITIES}
    assert document["kernels"] == ["box.gru", "box.lstm"]
    assert [(area["name"], area["passed"], area["failed"]) for area in document["areas"]] == [
        ("forms", 1, 0),
        ("outputs", 2, 1),
    ]
    path = tmp_path / "box.json"
    path.write_text(json.dumps(document))
    assert read_results(path).to_dict() == results.to_dict()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no result of the conformance suite"),
        ("[]", "is no result of the conformance suite"),
        ('{"format": "rnnx-conformance", "format_version": 2}', "is rnnx-conformance 2, expected rnnx-conformance 1"),
    ],
)
def test_another_file_is_refused(tmp_path, text, said):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(RNNXError, match=said):
        read_results(path)
    ran = CliRunner().invoke(main, [str(path)])
    assert ran.exit_code == 2
    assert said in ran.output


def test_a_terminal_gets_the_matrix_and_what_it_means():
    text = as_text(of(FAILED, EXPECTED, expected_failures={"*b": "no <gru> yet"}), 100, colours=False)
    lines = text.splitlines()
    assert lines[0] == "box on cpu: rnnx 0.1.0, python 3.11, numpy 2.4, box 7.1; 1.5 s"
    rows = {line.split()[0]: line.split() for line in lines if line.strip()}
    assert rows["forms"] == ["forms", "Every", "form.", "1", "-", "-", "3", "0.5"]
    assert rows["all"] == ["all", "3", "1", "1", "3", "0.8"]
    for line in (
        "      2  box does not declare 'gradients'",
        "  *b: no <gru> yet",
        "  float32: 0.001, loosened from 1e-05",
        "  float32.gradients: 1e-05, tightened from 0.0001",
        "  float32, fused.lstm",
        "  box.gru, box.lstm",
    ):
        assert line in lines
    assert "float64: " not in text
    assert lines[-1] == "box does not conform: 1 of 5 checks that it declares failed"
    assert "\x1b" not in text
    assert "\x1b[" in as_text(BOX, 100, colours=True)


def test_an_area_that_was_left_out_is_no_row():
    text = as_text(dataclasses.replace(of(**PARTLY), checks=CHECKS[:1]), 100, colours=False)
    assert "Every form." in text
    assert "Every output." not in text


def test_problems_stand_alone():
    text = as_text(of(**BROKEN), 100, colours=False)
    assert "  no checks\n  at all\n  no luck\n" in text
    assert "forms" not in text


class Reader(html.parser.HTMLParser):
    """Sees that every element is closed, and keeps the text and the attributes."""

    VOID = ("br", "meta")

    def __init__(self):
        super().__init__()
        self.open, self.elements, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read_page(page):
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def test_the_page_is_whole_and_needs_nothing_else():
    page = page_of(of(FAILED, EXPECTED, expected_failures={"*b": "no <gru> yet"}))
    reader = read_page(page)
    assert "found <0.5> & expected\n0.25" in reader.text
    assert "box does not conform: 1 of 5" in reader.text
    assert "float32: 0.001, loosened from 1e-05" in reader.text
    tags = [tag for tag, _ in reader.elements]
    assert tags.count("details") == 2
    assert {"script", "link", "img", "iframe"}.isdisjoint(tags)
    assert all({"src", "href"}.isdisjoint(attributes) for _, attributes in reader.elements)
    assert "url(" not in page
    assert "@import" not in page


def test_the_page_is_accessible():
    reader = read_page(page_of(of(FAILED)))
    assert ("html", {"lang": "en"}) in reader.elements
    assert {tag for tag, _ in reader.elements} >= {"main", "h1", "h2", "caption", "thead", "tbody", "title"}
    assert {attributes["scope"] for tag, attributes in reader.elements if tag == "th"} == {"row", "col"}
    names = [attributes["name"] for tag, attributes in reader.elements if tag == "meta" and "name" in attributes]
    assert names == ["viewport"]


def test_colours_can_be_read_by_day_and_by_night():
    style = page_of(BOX).partition("<style>")[2].partition("</style>")[0]
    day, night = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    assert "prefers-color-scheme: dark" in style
    for theme in (day, night):
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]+)", theme))
        for name in ("ink", "quiet", "passed", "failed", "expected"):
            for ground in ("ground", "panel"):
                assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)


def contrast(one, other):
    """The ratio of two colours' luminances, as WCAG 2 defines it."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


#: Another backend, which has an area less and a version more.
BALL = dataclasses.replace(
    of(FAILED, EXPECTED, expected_failures={"*b": "no <gru> yet"}),
    backend="ball",
    versions={"rnnx": "0.1.0", "ball": "1.0"},
    capabilities=("float64", "float32"),
    tolerances={},
    areas={"outputs": "Every output."},
)


def test_several_backends_stand_beside_each_other_in_markdown():
    lines = as_markdown([BOX, BALL]).splitlines()
    assert lines[:3] == ["| | `box` | `ball` |", "| --- | --- | --- |", "| conforms | yes | no |"]
    for line in (
        "| device | cpu | cpu |",
        "| box | 7.1 |  |",
        "| ball |  | 1.0 |",
        "| outputs | 2 | 2, 1 FAILED, 1 failed as expected |",
        "| all checks | 3, 3 skipped | 3, 1 FAILED, 1 failed as expected, 3 skipped |",
        "| declares float64 | - | yes |",
        "box, tolerances of its own:",
        "- float32: 0.001, loosened from 1e-05",
        "ball, expected failures:",
        "- *b: no <gru> yet",
    ):
        assert line in lines


def test_several_backends_stand_beside_each_other_on_a_page(tmp_path):
    reader = read_page(as_html([BOX, BALL]))
    assert "box conforms: 3 of 3 checks that it declares" in reader.text
    assert "*b: no <gru> yet" in reader.text
    paths = []
    for results in (BOX, BALL):
        paths.append(tmp_path / f"{results.backend}.json")
        paths[-1].write_text(json.dumps(results.to_dict()))
    ran = CliRunner().invoke(main, ["--html", *map(str, paths)])
    assert ran.output == as_html([BOX, BALL])
    assert CliRunner().invoke(main, [*map(str, paths)]).output == as_markdown([BOX, BALL])

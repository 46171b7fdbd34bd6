"""Cell trees typed on the command line: parsed as Python writes them, and never run."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

import networks
import rnnx
from rnnx.cli import main
from rnnx.cli.expression import cell_of
from rnnx.errors import UnsupportedError


@pytest.mark.parametrize(
    ("text", "build"),
    [
        ("FusedRNNCell(60, num_layers=2, mode='gru')", lambda: rnnx.FusedRNNCell(60, num_layers=2, mode="gru")),
        (" rnnx.LSTMCell(4, prefix='a_', forget_bias=-0.5) ", lambda: rnnx.LSTMCell(4, prefix="a_", forget_bias=-0.5)),
        (
            "[LSTMCell(4, 'a_'), DropoutCell(0.25), rnn.ResidualCell(GRUCell(4, reset_after=False))]",
            lambda: networks.sequential(
                rnnx.LSTMCell(4, "a_"), rnnx.DropoutCell(0.25), rnnx.ResidualCell(rnnx.GRUCell(4, reset_after=False))
            ),
        ),
        (
            "BidirectionalCell(RNNCell(3, 'relu', prefix='l_'), RNNCell(3, prefix='r_'))",
            lambda: rnnx.BidirectionalCell(rnnx.RNNCell(3, "relu", prefix="l_"), rnnx.RNNCell(3, prefix="r_")),
        ),
    ],
)
def test_a_tree_is_read_as_python_writes_it(text, build):
    assert cell_of(text).spec == build().spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("LSTMCel(4)", r"no cell is called 'LSTMCel' \(nearest: 'LSTMCell'\)"),
        ("SequentialRNNCell()", "a stack is written as a list of cells"),
        ("BaseRNNCell()", "no cell is called 'BaseRNNCell'"),
        ("__import__('os').system('true')", "no cell is called"),
        ("LSTMCell(open('x'))", "no cell is called 'open'"),
        ("LSTMCell(4 if True else 5)", "is no cell tree as Python writes it: malformed node"),
        ("LSTMCell(", "is no cell tree as Python writes it"),
        ("LSTMCell(4, hidden=3)", "unexpected keyword argument 'hidden'"),
        ("LSTMCell(**{'num_hidden': 4})", "write the arguments out, without"),
        ("LSTMCell('4')", "num_hidden is '4', expected a whole number"),
        ("ResidualCell(3)", "ResidualCell\\(3\\): "),
        ("[3]", "'3' is no cell; write one such as"),
        ("4", "'4' is no cell; write one such as FusedRNNCell"),
        ("(" * 5000, "is no cell tree as Python writes it"),
    ],
)
def test_what_is_no_tree(text, message):
    with pytest.raises(rnnx.RNNXError, match=message):
        cell_of(text)


def test_the_option_says_what_is_wrong(tmp_path):
    rnnx.save(tmp_path / "x.rnnx", networks.randomized(rnnx.LSTMCell(4), 3))
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "x.rnnx"), "--cell", "LSTMCel(4)"])
    assert result.exit_code == 2
    assert "Invalid value for '--cell': no cell is called 'LSTMCel'" in " ".join(result.stderr.split())


def test_a_file_is_inspected_with_the_tree_that_is_given(tmp_path):
    cell = networks.randomized(rnnx.LSTMCell(4), 3)
    rnnx.save(tmp_path / "x.rnnx", cell)
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "x.rnnx"), "--cell", "LSTMCell(4)"])
    assert result.exit_code == 0, result.output
    assert "the cell tree was given" in result.stdout


def test_errors_are_rnnxs_own():
    with pytest.raises(UnsupportedError):
        cell_of("nothing")

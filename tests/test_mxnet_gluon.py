"""Gluon's keys: layers, cells and stacks of them, wherever they stand in a model; read, written back, and refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import networks
import rnnx
from networks import assert_all_close, same_bits, sequential
from rnnx.conformance import reference
from rnnx.errors import UnsupportedError, WeightFormatError
from rnnx.formats.mxnet.ndarray import read_ndarrays, write_ndarrays

Arrays = dict[str, np.ndarray]

WIDTH, HIDDEN = 3, 4
INPUTS = np.random.default_rng(5).normal(size=(2, 4, WIDTH))
ROWS = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1, "rnn_softsign": 1}
OTHERS = {"embed.weight": np.ones((5, 3)), "head.0.bias": np.arange(2.0), "norm.gamma": np.ones(3)}


def weights(mode: str, input_size: int = WIDTH, hidden: int = HIDDEN, seed: int = 0) -> Arrays:
    """The packed weights of one cell, all different and none zero."""
    rng, rows = np.random.default_rng([seed, input_size, hidden, ROWS[mode]]), ROWS[mode] * hidden
    shapes = {"i2h_weight": (rows, input_size), "h2h_weight": (rows, hidden), "i2h_bias": (rows,), "h2h_bias": (rows,)}
    return {name: rng.uniform(0.1, 0.9, shape) * rng.choice([-1, 1], shape) for name, shape in shapes.items()}


def projected(input_size: int = WIDTH, hidden: int = HIDDEN, outputs: int = 2, seed: int = 0) -> Arrays:
    rng = np.random.default_rng([seed, input_size, hidden, outputs])
    narrow = {"h2h_weight": rng.normal(size=(4 * hidden, outputs)), "h2r_weight": rng.normal(size=(outputs, hidden))}
    return weights("lstm", input_size, hidden, seed) | narrow


def at(place: str, arrays: Arrays) -> Arrays:
    return {f"{place}.{name}" if place else name: array for name, array in arrays.items()}


def layer(place: str, rows: list[list[Arrays]], step: int = 1) -> Arrays:
    """The arrays of a layer as Gluon calls them: ``place._unfused.1.r_cell.i2h_weight``."""
    found: Arrays = {}
    for number, row in enumerate(rows):
        for side, cell in zip(("l_cell", "r_cell") if len(row) == 2 else (None,), row, strict=True):
            found |= at(".".join(filter(None, (place, "_unfused", str(number * step), side))), cell)
    return found


def rows_of(mode: str, depth: int, directions: int, input_size: int = WIDTH) -> list[list[Arrays]]:
    return [
        [
            weights(mode, directions * HIDDEN if number else input_size, seed=10 * number + side)
            for side in range(directions)
        ]
        for number in range(depth)
    ]


def saved(folder: Path, arrays: Mapping[str, np.ndarray], name: str = "net.params") -> Path:
    path = folder / name
    write_ndarrays(path, list(arrays), list(arrays.values()))
    return path


def stored_in(path: Path) -> Arrays:
    return dict(zip(*read_ndarrays(path), strict=True))


def loaded(folder: Path, arrays: Mapping[str, np.ndarray], **more) -> rnnx.BaseRNNCell:
    cell, extra = rnnx.load(saved(folder, arrays), **more)
    assert not extra
    return cell


def computes(cell: rnnx.BaseRNNCell, judge: reference.Network) -> None:
    outputs, _ = cell.unroll(None, INPUTS, merge_outputs=True)
    assert_all_close([outputs], [reference.run(judge, INPUTS)[0]], 1e-12)


# -- layers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["", "0", "encoder.rnn"])
@pytest.mark.parametrize(("depth", "directions"), [(1, 1), (1, 2), (2, 1), (3, 2), (11, 1)])
@pytest.mark.parametrize("mode", ["lstm", "gru", "rnn_tanh", "rnn_relu"])
def test_a_layer(tmp_path, mode, depth, directions, place):
    rows = rows_of(mode, depth, directions)
    activation = mode.removeprefix("rnn_") if mode.startswith("rnn") else None
    path = saved(tmp_path, layer(place, rows))
    ((name, part),) = rnnx.infer(path, activation=activation).items()
    prefix = f"{place or mode}_"
    assert name == (place or mode)
    assert part.spec == rnnx.FusedRNNCell(HIDDEN, depth, mode, directions == 2, prefix=prefix).spec
    computes(part.cell, reference.stack(mode, rows))


def test_its_evidence(tmp_path):
    (part,) = rnnx.infer(saved(tmp_path, layer("rnn", rows_of("gru", 2, 2)))).values()
    assert part.evidence == (
        "keys 'rnn._unfused.0.l_cell' to 'rnn._unfused.1.r_cell': Gluon's layer, num_layers 2, directions 2, "
        "GRU (packed), 4 hidden, reading 3",
        "weights do not tell residual connections, dropout or zoneout: none are assumed",
    )


@pytest.mark.parametrize(("place", "part"), [("", "rnn"), ("a.b", "a.b")])
def test_the_activation_must_be_told(tmp_path, place, part):
    with pytest.raises(WeightFormatError, match=f"part '{part}' is of plain recurrent cells"):
        rnnx.load(saved(tmp_path, layer(place, rows_of("rnn_relu", 2, 1))))


def test_an_activation_that_no_fused_cell_has(tmp_path):
    rows = rows_of("rnn_softsign", 2, 2)
    cell = loaded(tmp_path, layer("", rows), activation="softsign")
    assert [leaf.spec.kind for leaf in cell.leaves()] == ["RNNCell"] * 4
    computes(cell, reference.stack("rnn_softsign", rows))


def test_a_projected_layer(tmp_path):
    rows = [[projected(WIDTH if number == 0 else 4, seed=10 * number + side) for side in range(2)] for number in (0, 1)]
    cell = loaded(tmp_path, layer("rnn", rows))
    pairs = [[rnnx.LSTMPCell(HIDDEN, 2, f"rnn_{side}{number}_") for side in "lr"] for number in (0, 1)]
    expected = [rnnx.BidirectionalCell(*pair, output_prefix=f"rnn_bi_l{n}_") for n, pair in enumerate(pairs)]
    assert cell.spec == sequential(*expected).spec
    for number, row in enumerate(rows):
        for side, arrays in zip("lr", row, strict=True):
            for name, array in arrays.items():
                np.testing.assert_array_equal(cell.get_params()[f"rnn_{side}{number}_{name}"], array)


def test_layers_numbered_with_dropout_between_them(tmp_path):
    rows = rows_of("lstm", 3, 1)
    (part,) = rnnx.infer(saved(tmp_path, layer("", rows, step=2))).values()
    assert "numbers 0 to 4 by twos, as MXNet up to 1.2 counts dropout between layers" in part.evidence[0]
    computes(part.cell, reference.stack("lstm", rows))


def test_layers_one_on_the_other(tmp_path):
    lower, upper = rows_of("lstm", 2, 2), rows_of("gru", 1, 1, 2 * HIDDEN)
    cell = loaded(tmp_path, layer("net.1", lower) | layer("net.2", upper))
    assert [child.kind for child in cell.spec.children] == ["FusedRNNCell"] * 2
    computes(cell, reference.sequential(reference.stack("lstm", lower), reference.stack("gru", upper)))


def test_layers_with_something_between_them_are_parts(tmp_path):
    arrays = layer("net.1", rows_of("lstm", 1, 1)) | layer("net.3", rows_of("lstm", 1, 1, HIDDEN))
    assert list(rnnx.load_all(saved(tmp_path, arrays))) == ["net.1", "net.3"]


# -- cells ------------------------------------------------------------------------------------------------------------


def test_one_cell_at_a_place(tmp_path):
    own = weights("gru")
    cell = loaded(tmp_path, at("net.cell", own))
    assert cell.spec == rnnx.GRUCell(HIDDEN, "net.cell_").spec
    computes(cell, reference.cell("gru", own))


def test_a_projected_cell(tmp_path):
    own = projected()
    cell = loaded(tmp_path, at("cell", own))
    assert cell.spec == rnnx.LSTMPCell(HIDDEN, 2, "cell_").spec
    same_bits(cell.get_params(), {f"cell_{name}": array for name, array in own.items()})


def test_a_stack_of_cells(tmp_path):
    bottom, left, right, top = (
        weights("gru"),
        weights("lstm", HIDDEN),
        weights("gru", HIDDEN, 2),
        weights("rnn_tanh", 6),
    )
    arrays = at("10", top) | at("9.r_cell", right) | at("9.l_cell", left) | at("2", bottom)
    path = saved(tmp_path, arrays)
    ((name, part),) = rnnx.infer(path, activation="tanh").items()
    expected = sequential(
        rnnx.GRUCell(HIDDEN, "2_"),
        rnnx.BidirectionalCell(rnnx.LSTMCell(HIDDEN, "9.l_cell_"), rnnx.GRUCell(2, "9.r_cell_")),
        rnnx.RNNCell(HIDDEN, "tanh", "10_"),
    )
    assert (name, part.spec) == ("gru", expected.spec)
    assert "'9.l_cell' and '9.r_cell' are the two directions of a BidirectionalCell" in part.evidence
    assert any("'2', '9', '10' are a stack" in sentence for sentence in part.evidence)
    both = reference.bidirectional(reference.cell("lstm", left), reference.cell("gru", right))
    computes(part.cell, reference.sequential(reference.cell("gru", bottom), both, reference.cell("rnn_tanh", top)))


def test_stacks_within_directions(tmp_path):
    first, second, right = weights("lstm", seed=1), weights("lstm", HIDDEN, seed=2), weights("gru")
    arrays = at("l_cell.0", first) | at("l_cell.2", second) | at("r_cell", right)
    left = reference.sequential(reference.cell("lstm", first), reference.cell("lstm", second))
    cell = loaded(tmp_path, arrays)
    assert cell.spec.kind == "BidirectionalCell"
    computes(cell, reference.bidirectional(left, reference.cell("gru", right)))


def test_a_cell_that_is_changed_in_training_only(tmp_path):
    own = weights("lstm")
    (part,) = rnnx.infer(saved(tmp_path, at("0.base_cell", own))).values()
    assert part.spec == rnnx.LSTMCell(HIDDEN, "0.base_cell_").spec
    assert any("within a cell that acts in training only" in sentence for sentence in part.evidence)
    computes(part.cell, reference.cell("lstm", own))


def test_a_cell_that_may_be_a_residuals_is_asked_about(tmp_path):
    own = weights("lstm", WIDTH, WIDTH)
    path = saved(tmp_path, at("0.base_cell", own))
    with pytest.raises(
        WeightFormatError, match=r"'0\.base_cell' is within a ResidualCell.* do not tell which: .*cell="
    ):
        rnnx.load(path)
    for tree in (rnnx.LSTMCell(WIDTH), rnnx.LSTMCell(WIDTH, "0.base_cell_"), rnnx.LSTMCell(WIDTH, "0.base_cell.")):
        cell, extra = rnnx.load(path, cell=rnnx.ResidualCell(tree))
        assert not extra
        computes(cell, reference.residual(reference.cell("lstm", own)))


@pytest.mark.parametrize(
    "arrays",
    [
        pytest.param(at("a.0", weights("gru")) | at("a.1", weights("gru")), id="of other widths"),
        pytest.param(
            at("a.0", weights("gru", 3, 3)) | at("a.2", weights("gru", 3, 3)) | {"a.1.weight": np.ones(2)},
            id="with weights between them",
        ),
        pytest.param(at("a.0.cell", weights("gru", 3, 3)) | at("a.1.cell", weights("gru", 3, 3)), id="of blocks"),
        pytest.param(at("a.00", weights("gru", 3, 3)) | at("a.01", weights("gru", 3, 3)), id="of no numbers"),
        pytest.param(at("a.l_cell", weights("gru")) | at("a.r_cell", weights("gru", 2)), id="of other inputs"),
        pytest.param(at("a.l_cell", weights("gru")) | at("a.m_cell", weights("gru")), id="of other names"),
    ],
)
def test_cells_that_are_no_stack_are_parts(tmp_path, arrays):
    parts = rnnx.load_all(saved(tmp_path, arrays))
    assert [cell.spec.kind for cell in parts.values()] == ["GRUCell"] * 2


# -- within a model, and back -----------------------------------------------------------------------------------------


def model() -> Arrays:
    return {
        "embed.weight": OTHERS["embed.weight"],
        **layer("encoder.rnn", rows_of("lstm", 2, 2)),
        **at("decoder.cells.0", weights("gru", 5, 6)),
        **at("decoder.cells.1", projected(6, 5, 2)),
        **{name: array for name, array in OTHERS.items() if name != "embed.weight"},
        "aux:norm.running_mean": np.arange(3.0),
    }


def test_a_model(tmp_path):
    parts = rnnx.load_all(saved(tmp_path, model()))
    assert list(parts) == ["decoder.cells", "encoder.rnn"]
    computes(parts["encoder.rnn"], reference.stack("lstm", rows_of("lstm", 2, 2)))
    _, extra = rnnx.load(tmp_path / "net.params", select="encoder.rnn")
    assert extra.keys() == {*OTHERS, "aux:norm.running_mean"}


@pytest.mark.parametrize("way", ["straight", "through a portable file"])
def test_it_is_written_back_under_its_own_keys(tmp_path, way):
    path = saved(tmp_path, model())
    if way != "straight":
        rnnx.convert(path, tmp_path / "net.rnnx")
        path = tmp_path / "net.rnnx"
    rnnx.convert(path, tmp_path / "back.params")
    same_bits(stored_in(tmp_path / "back.params"), model())


def test_changed_it_is_written_as_mxnet_would(tmp_path):
    path = saved(tmp_path, layer("rnn", rows_of("gru", 1, 2)))
    rnnx.convert(path, tmp_path / "other.params", prefix="gru_")
    assert "gru_r0_h2h_z_weight" in stored_in(tmp_path / "other.params")


def test_beside_names_of_mxnet(tmp_path):
    arrays = layer("rnn", rows_of("gru", 1, 1)) | {f"lstm0_l0_{name}": array for name, array in weights("lstm").items()}
    parts = rnnx.load_all(saved(tmp_path, arrays))
    assert {name: cell.spec.kind for name, cell in parts.items()} == {"rnn": "FusedRNNCell", "lstm0_": "FusedRNNCell"}


def test_names_of_mxnet_with_dots_in_them_are_no_keys(tmp_path):
    cell = networks.randomized(rnnx.FusedRNNCell(HIDDEN, 2, prefix="encoder.rnn_"), WIDTH)
    arrays = cell.unpack_weights(cell.get_params())
    same_bits(loaded(tmp_path, arrays).get_params(), cell.get_params())


# -- a tree of the user's own -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["encoder.rnn_", "mine_"])
def test_the_tree_may_be_given(tmp_path, prefix):
    rows = rows_of("rnn_relu", 2, 2)
    tree = rnnx.FusedRNNCell(HIDDEN, 2, "rnn_relu", True, prefix=prefix)
    cell = loaded(tmp_path, layer("encoder.rnn", rows), cell=tree)
    assert cell is tree
    computes(cell, reference.stack("rnn_relu", rows))


def test_the_tree_may_be_of_one_part(tmp_path):
    tree = rnnx.FusedRNNCell(HIDDEN, 2, "lstm", True, prefix="encoder.rnn_")
    cell, extra = rnnx.load(saved(tmp_path, model()), cell=tree)
    computes(cell, reference.stack("lstm", rows_of("lstm", 2, 2)))
    assert "decoder.cells.0.i2h_weight" in extra


def test_the_tree_may_have_the_names_of_the_file(tmp_path):
    tree = rnnx.GRUCell(6, "decoder.cells.0.")
    cell, _ = rnnx.load(saved(tmp_path, model()), cell=tree)
    same_bits(cell.get_params(), at("decoder.cells.0", weights("gru", 5, 6)))


def test_a_tree_given_is_written_back(tmp_path):
    own = weights("gru", WIDTH, WIDTH)
    path = saved(tmp_path, at("0.base_cell", own))
    rnnx.convert(path, tmp_path / "back.params", cell=rnnx.ResidualCell(rnnx.GRUCell(WIDTH)))
    same_bits(stored_in(tmp_path / "back.params"), at("0.base_cell", own))


def test_a_tree_of_other_cells_is_refused(tmp_path):
    path = saved(tmp_path, layer("", rows_of("gru", 2, 1)))
    with pytest.raises(WeightFormatError, match=r"1 plain cells with weights, and the file has 2, '_unfused\.0' to"):
        rnnx.load(path, cell=rnnx.GRUCell(HIDDEN))
    with pytest.raises(WeightFormatError, match=r"'_unfused\.0\.i2h_weight' has shape \(12, 3\), expected \(16, 3\)"):
        rnnx.load(path, cell=rnnx.FusedRNNCell(HIDDEN, 2, "lstm"))


# -- what does not fit ------------------------------------------------------------------------------------------------


def without(arrays: Arrays, *ends: str) -> Arrays:
    return {name: array for name, array in arrays.items() if not name.endswith(ends)}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (without(layer("", rows_of("gru", 2, 1)), "1.i2h_bias"), r"'_unfused\.1\.i2h_bias' is missing"),
        (
            {k: v for k, v in layer("a", rows_of("gru", 4, 1)).items() if "_unfused.2." not in k},
            r"numbered from 0 .*: 'a\._unfused\.2' is missing",
        ),
        (
            {k: v for k, v in layer("", rows_of("gru", 2, 2)).items() if "1.r_cell" not in k},
            r"below '_unfused' .*: '_unfused\.1\.r_cell' is missing",
        ),
        (at("_unfused.1", weights("gru")), r"'_unfused\.0' is missing"),
        (at("_unfused.0.r_cell", weights("gru")), r"'_unfused\.0\.l_cell' is missing"),
        (
            at("_unfused.0", weights("gru")) | at("_unfused.0.l_cell", weights("gru")),
            r"'_unfused\.0' is one too many",
        ),
        (
            at("_unfused.0", weights("gru")) | at("_unfused.1", weights("gru", 5)),
            r"do not fit each other: '_unfused\.1' is GRU \(packed\), 4 hidden, reading 5, where '_unfused\.0' is",
        ),
        (
            at("_unfused.0", weights("gru")) | at("_unfused.1", weights("lstm", HIDDEN)),
            r"do not fit each other: '_unfused\.1' is LSTM",
        ),
        (at("a.b", weights("gru") | {"h2h_bias": np.ones(5)}), r"'a\.b\.h2h_bias' has shape \(5,\), expected \(12,\)"),
        (at("a.b", projected() | {"h2r_weight": np.ones((3, 4))}), r"'a\.b\.h2h_weight' has shape \(16, 2\), expected"),
        (at("a.b", weights("gru") | {"h2h_weight": np.ones((7, 4))}), r"expected 4 rows a column for an LSTM"),
    ],
)
def test_keys_that_do_not_fit(tmp_path, arrays, message):
    with pytest.raises(WeightFormatError, match=message):
        rnnx.load(saved(tmp_path, arrays))


def convolution(place: str) -> Arrays:
    return {name: a.reshape(*a.shape, 1, 1) if a.ndim == 2 else a for name, a in at(place, weights("gru")).items()}


def test_convolutions_are_left_out(tmp_path):
    with pytest.raises(UnsupportedError, match=r"cell 'a\.1' has convolutions \('a\.1\.i2h_weight' has shape"):
        rnnx.load(saved(tmp_path, convolution("a.1")))
    arrays = at("a.0", weights("gru", 3, 3)) | convolution("a.1") | at("a.2", weights("gru", 3, 3))
    parts = rnnx.infer(saved(tmp_path, arrays))
    assert list(parts) == ["a.0", "a.2"]
    assert parts["a.0"].evidence[-1].startswith("cell 'a.1' has convolutions")
    old = {name.replace("a.1.", "conv_"): array for name, array in convolution("a.1").items()}
    parts = rnnx.infer(saved(tmp_path, at("a.0", weights("gru")) | old))
    assert parts["a"].evidence[-1].startswith("cell 'conv_' has convolutions")


def test_keys_of_any_shape_do_no_harm(tmp_path):
    deep, long = ".".join("a" * 5000), "9" * 5000
    arrays = {
        **at(deep, weights("gru")),
        **at(f"n.{long}", weights("gru")),
        **at("m.0", weights("gru", 3, 3)),
        **at("m.999999999", weights("gru", 3, 3)),
        **at(f"_unfused.{long}", weights("gru")),
        **at("..", weights("gru")),
        **at(".0", weights("gru")),
    }
    parts = rnnx.infer(saved(tmp_path, arrays))
    assert sum(len(list(part.cell.leaves())) for part in parts.values()) == 7

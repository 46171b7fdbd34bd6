"""What a conversion could lose without a word, and does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import networks
import rnnx
from networks import sequential
from rnnx.archive import Accepted, Archive, Part
from rnnx.errors import UnsupportedError, WeightFormatError
from rnnx.files import read_archive
from rnnx.formats.mxnet.ndarray import write_ndarrays
from rnnx.formats.portable import PortableFormat
from rnnx.weights.safetensors import read_tensors, write_tensors

WIDTH = 3
SYMBOLS = Path(__file__).parent / "fixtures" / "symbols"


def made(cell: rnnx.BaseRNNCell, seed: int = 1, width: int = WIDTH) -> rnnx.BaseRNNCell:
    return networks.randomized(cell, width, "float32", seed=seed)


def outputs_of(cell: rnnx.BaseRNNCell, width: int = WIDTH) -> np.ndarray:
    inputs = np.random.default_rng(7).normal(size=(2, 4, width)).astype(np.float32)
    return np.asarray(cell.unroll(None, inputs, merge_outputs=True)[0])


def file_of(path: Path, **cells: rnnx.BaseRNNCell) -> Path:
    PortableFormat().write(path, Archive({name: Part.of(cell) for name, cell in cells.items()}, {}), Accepted())
    return path


@pytest.mark.parametrize("target", ["x.rnnx", "x-0001.params", "x.safetensors"])
def test_two_parts_under_one_prefix(tmp_path, target):
    two = file_of(tmp_path / "two.rnnx", a=made(rnnx.LSTMCell(4, "a_"), 1), b=made(rnnx.LSTMCell(4, "b_"), 2))
    to = "torch" if target.endswith("safetensors") else None
    with pytest.raises(WeightFormatError, match=r"two parts would have a tensor called 'x_?.*' each: give select="):
        rnnx.convert(two, tmp_path / target, to=to, prefix="x_")
    assert not (tmp_path / target).exists()


@pytest.mark.parametrize("options", [{}, {"dtype": "float64"}, {"drop_files": True}])
def test_a_selected_part_does_not_keep_the_order_that_its_symbol_told(tmp_path, options):
    (cell,) = rnnx.load_all(symbol_file(tmp_path)).values()
    for target in ("there.rnnx", "there-0001.params"):
        rnnx.convert(symbol_file(tmp_path), tmp_path / target, select="a_+b_", **options)
        again, _ = rnnx.load(tmp_path / target)
        np.testing.assert_allclose(outputs_of_any(again), outputs_of_any(cell), atol=1e-6)
    rnnx.convert(tmp_path / "there.rnnx", tmp_path / "last-0001.params")
    np.testing.assert_allclose(
        outputs_of_any(rnnx.load(tmp_path / "last-0001.params")[0]), outputs_of_any(cell), atol=1e-6
    )


def outputs_of_any(cell: rnnx.BaseRNNCell) -> np.ndarray:
    cell.to("numpy", dtype="float32")
    return outputs_of(cell)


def symbol_file(folder: Path) -> Path:
    """A checkpoint from before 2017, whose packed gates stand in an order that only the symbol tells."""
    rng = np.random.default_rng(0)
    shapes = {"a_": (16, WIDTH), "b_": (16, 4)}
    arrays = {}
    for prefix, shape in shapes.items():
        for name, each in (("i2h_weight", shape), ("h2h_weight", (16, 4)), ("i2h_bias", (16,)), ("h2h_bias", (16,))):
            arrays[f"arg:{prefix}{name}"] = rng.uniform(-1, 1, each).astype(np.float32)
    write_ndarrays(folder / "old-0001.params", list(arrays), list(arrays.values()))
    (folder / "old-symbol.json").write_bytes((SYMBOLS / "old_lstm.json").read_bytes())
    return folder / "old-0001.params"


def test_an_array_that_its_owner_has_changed_in_memory_is_written_so_and_stays_so(tmp_path):
    np.arange(20_000, dtype=np.float32).tofile(tmp_path / "embedding.bin")
    changed = np.memmap(tmp_path / "embedding.bin", np.float32, mode="c")
    changed[:] = 7
    rnnx.save(tmp_path / "x.rnnx", made(rnnx.GRUCell(4)), {"embedding": changed})
    assert (changed == 7).all()
    assert (rnnx.load(tmp_path / "x.rnnx")[1]["embedding"] == 7).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: rnnx.GRUCell(3, "g_", reset_after=False), "the GRUCell 'g_' resets before the recurrent product"),
        (lambda: rnnx.ResidualCell(rnnx.LSTMCell(3, "l_")), "has a ResidualCell, which a checkpoint without a symbol"),
        (
            lambda: shared(),
            "has cells that share their weights, which a checkpoint without a symbol",
        ),
    ],
)
@pytest.mark.parametrize("given", [False, True])
def test_mxnet_is_not_given_what_it_would_read_as_another_network(tmp_path, build, message, given):
    rnnx.save(tmp_path / "x.rnnx", made(build()))
    cell = build() if given else None
    with pytest.raises(UnsupportedError, match=message):
        rnnx.convert(tmp_path / "x.rnnx", tmp_path / "x-0001.params", cell=cell)


def shared() -> rnnx.BaseRNNCell:
    first = rnnx.LSTMCell(3, "a_")
    return sequential(first, rnnx.LSTMCell(3, "b_", params=first.params))


def test_weights_alone_for_code_that_has_the_rest(tmp_path):
    cell = made(sequential(rnnx.LSTMCell(3, "a_"), rnnx.DropoutCell(0.5), rnnx.ResidualCell(rnnx.LSTMCell(3, "b_"))))
    rnnx.save(tmp_path / "x.rnnx", cell)
    rnnx.convert(tmp_path / "x.rnnx", tmp_path / "x-0001.params", weights_only=True)
    again, _ = rnnx.load(tmp_path / "x-0001.params", cell=rnnx.BaseRNNCell.from_spec(cell.spec))
    np.testing.assert_array_equal(outputs_of(again), outputs_of(cell))
    assert list(rnnx.load_all(tmp_path / "x-0001.params")) == ["a_", "b_"]


def torch_file(path: Path, **cells: rnnx.BaseRNNCell) -> Path:
    """A file with PyTorch's names, without rnnx's description."""
    source = file_of(path.with_suffix(".rnnx"), **cells)
    rnnx.convert(source, path, to="torch")
    tensors, _ = read_tensors(path)
    write_tensors(path, {name: np.array(tensor) for name, tensor in tensors.items()}, {})
    return path


class TestACellThatIsGiven:
    def test_takes_the_weights_of_its_own_places(self, tmp_path):
        parts = {name: made(rnnx.LSTMCell(4, f"{name}_"), seed, 4) for seed, name in enumerate(("z", "a"))}
        path = torch_file(tmp_path / "x.safetensors", **parts)
        cell, _ = rnnx.load(path, cell=sequential(rnnx.LSTMCell(4, "z_"), rnnx.LSTMCell(4, "a_")))
        for name, array in cell.get_params().items():
            np.testing.assert_array_equal(array, parts[name[0]].get_params()[name])

    def test_is_refused_where_it_is_open_whose_weights_are_whose(self, tmp_path):
        parts = {name: made(rnnx.LSTMCell(4, f"{name}_"), seed, 4) for seed, name in enumerate(("z", "a"))}
        path = torch_file(tmp_path / "x.safetensors", **parts)
        with pytest.raises(
            WeightFormatError, match=r"the parts 'a', 'z', and the cells given are called 'one_', 'two_'"
        ):
            rnnx.load(path, cell=sequential(rnnx.LSTMCell(4, "one_"), rnnx.LSTMCell(4, "two_")))
        cell, extra = rnnx.load(path, cell=rnnx.LSTMCell(4, "one_"), select="z")
        np.testing.assert_array_equal(outputs_of(cell, 4), outputs_of(parts["z"], 4))
        assert "a.weight_ih_l0" in extra
        with pytest.raises(WeightFormatError, match=r"there is no recurrent part 'y'; there are 'a', 'z'"):
            rnnx.load(path, cell=rnnx.LSTMCell(4, "one_"), select="y")

    def test_cannot_share_weights_that_are_two(self, tmp_path):
        path = torch_file(tmp_path / "x.safetensors", lstm=made(rnnx.FusedRNNCell(3, 2, prefix="lstm_")))
        with pytest.raises(WeightFormatError, match="cells of the tree given share weights, and those of 'lstm' have"):
            rnnx.load(path, cell=shared())

    def test_runs_in_the_directions_of_the_file(self, tmp_path):
        both = made(rnnx.FusedRNNCell(4, bidirectional=True, prefix="lstm_"), 1, 4)
        path = torch_file(tmp_path / "x.safetensors", lstm=both)
        with pytest.raises(WeightFormatError, match="the cell given runs in other directions than part 'lstm'"):
            rnnx.load(path, cell=sequential(rnnx.LSTMCell(4, "a_"), rnnx.LSTMCell(4, "b_")))
        pair = rnnx.BidirectionalCell(rnnx.LSTMCell(4, "a_"), rnnx.ResidualCell(rnnx.LSTMCell(4, "b_")))
        assert rnnx.load(path, cell=pair)[0] is pair

    def test_keeps_its_weights_where_the_target_is_none(self, tmp_path):
        source = file_of(tmp_path / "x.rnnx", lstm=made(rnnx.LSTMCell(4)))
        cell = made(rnnx.LSTMCell(4), 5)
        before = cell.get_params()
        with pytest.raises(WeightFormatError, match="tells no format"):
            rnnx.convert(source, tmp_path / "x.nothing", cell=cell)
        for name, array in cell.get_params().items():
            np.testing.assert_array_equal(array, before[name])

    def test_of_a_users_own_is_cast(self, tmp_path):
        own = made(networks.PeepholeLSTM(4))
        rnnx.save(tmp_path / "x.rnnx", own)
        rnnx.convert(tmp_path / "x.rnnx", tmp_path / "y.rnnx", cell=networks.PeepholeLSTM(4), dtype="float64")
        again, _ = rnnx.load(tmp_path / "y.rnnx", cell=networks.PeepholeLSTM(4))
        for name, array in again.get_params().items():
            np.testing.assert_array_equal(array, own.get_params()[name].astype(np.float64))


def test_cells_that_share_weights_through_pytorchs_names(tmp_path):
    cell = made(shared())
    rnnx.save(tmp_path / "x.rnnx", cell)
    rnnx.convert(tmp_path / "x.rnnx", tmp_path / "x.safetensors", to="torch")
    again, _ = rnnx.load(tmp_path / "x.safetensors")
    assert again.spec == cell.spec
    np.testing.assert_array_equal(outputs_of(again), outputs_of(cell))


@pytest.mark.parametrize("build", [lambda: rnnx.ResidualCell(rnnx.LSTMCell(3, "l_")), lambda: shared()])
def test_any_tree_takes_another_prefix(tmp_path, build):
    cell = made(build())
    rnnx.save(tmp_path / "x.rnnx", cell)
    rnnx.convert(tmp_path / "x.rnnx", tmp_path / "y.rnnx", prefix="new_")
    (part,) = read_archive(tmp_path / "y.rnnx").parts.values()
    assert all(name.startswith("new_") for name in part.weights)
    np.testing.assert_array_equal(outputs_of(part.cell), outputs_of(cell))


def test_a_cast_is_written_piece_by_piece(tmp_path):
    cell = made(rnnx.FusedRNNCell(4, 2, "gru", bidirectional=True, prefix="g_"))
    rnnx.save(tmp_path / "x.rnnx", cell)
    for target, to in (("y.rnnx", None), ("y-0001.params", None), ("y.safetensors", "torch")):
        rnnx.convert(tmp_path / "x.rnnx", tmp_path / target, to=to, dtype="float16")
        (part,) = read_archive(tmp_path / target).parts.values()
        for name, array in part.weights.items():
            wanted = cell.unpack_weights(cell.get_params())[name].astype(np.float16)
            np.testing.assert_array_equal(array, wanted)

"""A plan is made once for a kind of call, and made anew when what it depended on has changed."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import networks
import rnnx
from networks import sequential

WIDTH = 3


def inputs_of(width: int = WIDTH, dtype: str = "float64") -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 4, width)).astype(dtype)


def stack() -> rnnx.SequentialRNNCell:
    return networks.randomized(sequential(rnnx.LSTMCell(4, "a_"), rnnx.DropoutCell(0.2), rnnx.LSTMCell(4, "b_")), WIDTH)


def test_a_plan_is_made_once_for_a_kind_of_call():
    cell = stack()
    plan = cell.explain(inputs_of())
    cell.unroll(None, inputs_of())
    assert cell.explain(inputs_of()[:1, :2]) is plan
    others = [
        cell.explain(inputs_of(), training=True),
        cell.explain(inputs_of(), valid_length=[1, 2]),
        cell.explain(inputs_of(), fuse=False),
        cell.explain(inputs_of(dtype="float32")),
    ]
    assert len({id(each) for each in (plan, *others)}) == 5
    assert others[2].kernels == ("numpy.loop", "numpy.loop")


def test_a_cell_that_is_added_is_in_the_plan():
    cell = sequential(rnnx.LSTMCell(4, "a_"))
    cell.initialize(WIDTH, dtype="float64", seed=0)
    first, _ = cell.unroll(None, inputs_of(), merge_outputs=True)
    cell.add(rnnx.GRUCell(5, "b_"))
    second, _ = cell.unroll(None, inputs_of(), merge_outputs=True)
    assert (first.shape, second.shape) == ((2, 4, 4), (2, 4, 5))
    assert cell.explain(inputs_of()).kernels == ("numpy.lstm", "numpy.gru")


def test_a_rate_that_is_changed_acts():
    cell = stack()
    dropped = cell.unroll(None, inputs_of(), training=True, seed=1, merge_outputs=True)[0]
    cell._cells[1].dropout = 0.0
    np.testing.assert_array_equal(
        cell.unroll(None, inputs_of(), training=True, seed=1, merge_outputs=True)[0],
        cell.unroll(None, inputs_of(), merge_outputs=True)[0],
    )
    cell._cells[1].dropout = 0.2
    np.testing.assert_array_equal(cell.unroll(None, inputs_of(), training=True, seed=1, merge_outputs=True)[0], dropped)


def test_zoneout_that_is_switched_off_steps_no_more():
    cell = networks.randomized(rnnx.ZoneoutCell(rnnx.LSTMCell(4), 0.5), WIDTH)
    assert cell.explain(inputs_of(), training=True).kernels == ("numpy.loop",)
    cell.zoneout_outputs = 0.0
    assert cell.explain(inputs_of(), training=True).kernels == ("numpy.lstm",)


def test_a_cell_of_ones_own_is_asked_each_time():
    class Choosing(rnnx.LSTMCell):
        label = "first"

        def stage(self, planner, input_size):
            return planner.loop(self, input_size, self.label, "it wants to")

    cell = sequential(rnnx.LSTMCell(4, "a_"), Choosing(4, "b_"))
    assert "first" in str(cell.explain(inputs_of()))
    cell._cells[1].label = "second"
    assert "second" in str(cell.explain(inputs_of()))


def test_weights_for_inputs_of_another_width():
    cell = networks.randomized(rnnx.FusedRNNCell(4), WIDTH)
    cell.unroll(None, inputs_of())
    cell.initialize(WIDTH + 1, dtype="float64")
    with pytest.raises(rnnx.WeightFormatError, match="expected"):
        cell.unroll(None, inputs_of())
    assert cell.unroll(None, inputs_of(WIDTH + 1))[0].shape == (2, 4, 4)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda cell: pickle.loads(pickle.dumps(cell))])
def test_a_copy_makes_its_own(again):
    cell = stack()
    expected, _ = cell.unroll(None, inputs_of(), merge_outputs=True)
    copied = again(cell)
    np.testing.assert_array_equal(copied.unroll(None, inputs_of(), merge_outputs=True)[0], expected)
    assert copied.explain(inputs_of()) is not cell.explain(inputs_of())


def test_a_backend_that_can_do_less_than_before_is_asked_again(monkeypatch):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    cell = rnnx.LSTMCell(4)
    cell.initialize(WIDTH, backend="torch", seed=0)
    inputs = torch.ones(2, 4, WIDTH)
    kernels = cell.explain(inputs).kernels
    with monkeypatch.context() as patched:
        patched.setattr(torch.backends.mkldnn, "enabled", False)
        assert cell.explain(inputs).kernels == ("torch.native",)
    assert cell.explain(inputs).kernels == kernels

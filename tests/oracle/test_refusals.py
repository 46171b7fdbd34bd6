"""What MXNet refuses, rnnx refuses too, and with an error of its own."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rnnx
from rnnx.cells.basic import ACTIVATIONS as OUR_ACTIVATIONS

from .bridge import flat, mx, stacked
from .trees import ACTIVATIONS

MXNetError = mx.base.MXNetError


class MXNet:
    """Arrays are variables; what is wrong with them may only show when the graph is bound."""

    rnn = mx.rnn

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def array(self, *shape: int):
        return mx.sym.Variable(f"given_{next(self._numbers)}", shape=shape)

    def weight(self, *shape: int):
        return mx.nd.ones(shape)

    def run(self, results) -> None:
        executor = mx.sym.Group(list(flat(results))).simple_bind(mx.cpu())
        for array in executor.arg_dict.values():
            array[:] = 1
        executor.forward()


class Rnnx:
    rnn = rnnx

    def array(self, *shape: int):
        return np.ones(shape, np.float32)

    weight = array

    def run(self, results) -> None:
        """Do nothing: it has run."""


@dataclasses.dataclass(frozen=True)
class Refusal:
    """What is tried, and how MXNet refuses it."""

    error: type[Exception]
    message: str
    attempt: Callable[[Any], Any]


def bidirectional(rnn):
    return rnn.BidirectionalCell(rnn.LSTMCell(4, prefix="l_"), rnn.LSTMCell(4, prefix="r_"))


def step(lib, cell, states: int):
    return lib.run(cell(lib.array(2, 3), [lib.array(2, 4) for _ in range(states)]))


def unroll(lib, cell, **kwargs):
    return lib.run(cell.unroll(3, lib.array(2, 3, 3), **kwargs))


def modified(lib, make, modifier: str = "ZoneoutCell"):
    cell = make(lib.rnn)
    getattr(lib.rnn, modifier)(cell)
    return cell


def modified_in_a_stack(lib):
    cell = lib.rnn.LSTMCell(4)
    stack = stacked(lib.rnn, cell)
    lib.rnn.ZoneoutCell(cell)
    return stack


def given_params_twice(lib):
    stack = lib.rnn.SequentialRNNCell(params=lib.rnn.RNNParams())
    stack.add(lib.rnn.LSTMCell(4, params=lib.rnn.RNNParams("a_")))


def sides_given_params_twice(lib):
    sides = (lib.rnn.LSTMCell(4, params=lib.rnn.RNNParams(prefix)) for prefix in ("l_", "r_"))
    lib.rnn.BidirectionalCell(*sides, params=lib.rnn.RNNParams())


UNSTEPPABLE = {
    "stepping a fused cell": Refusal(
        NotImplementedError, "cannot be stepped", lambda lib: step(lib, lib.rnn.FusedRNNCell(4), 2)
    ),
    "stepping a bidirectional cell": Refusal(
        NotImplementedError, "cannot be stepped", lambda lib: step(lib, bidirectional(lib.rnn), 4)
    ),
    "stepping a bidirectional cell in a stack": Refusal(
        AssertionError, "^$", lambda lib: step(lib, stacked(lib.rnn, bidirectional(lib.rnn)), 4)
    ),
    "stepping a fused cell in a stack": Refusal(
        NotImplementedError, "cannot be stepped", lambda lib: step(lib, stacked(lib.rnn, lib.rnn.FusedRNNCell(4)), 2)
    ),
    "stepping a residual around a fused cell": Refusal(
        NotImplementedError,
        "cannot be stepped",
        lambda lib: step(lib, lib.rnn.ResidualCell(lib.rnn.FusedRNNCell(3)), 2),
    ),
    "stepping the base class": Refusal(NotImplementedError, "^$", lambda lib: step(lib, lib.rnn.BaseRNNCell(), 0)),
    "the states of the base class": Refusal(NotImplementedError, "^$", lambda lib: lib.rnn.BaseRNNCell().state_info),
    "zoneout of a fused cell": Refusal(
        AssertionError, "unfuse first", lambda lib: lib.rnn.ZoneoutCell(lib.rnn.FusedRNNCell(4))
    ),
    "zoneout of a bidirectional cell": Refusal(
        AssertionError, "to the cells underneath", lambda lib: lib.rnn.ZoneoutCell(bidirectional(lib.rnn))
    ),
    "zoneout of a residual around a fused cell": Refusal(
        NotImplementedError,
        "cannot be stepped",
        lambda lib: unroll(lib, lib.rnn.ZoneoutCell(lib.rnn.ResidualCell(lib.rnn.FusedRNNCell(3)))),
    ),
}

AFTER_A_MODIFIER = {
    **{
        f"begin_state of a cell under {modifier}": Refusal(
            AssertionError,
            "After applying modifier cells",
            lambda lib, modifier=modifier: modified(lib, lambda rnn: rnn.LSTMCell(4), modifier).begin_state(),
        )
        for modifier in ("ZoneoutCell", "ResidualCell")
    },
    "begin_state of a fused cell": Refusal(
        AssertionError,
        "After applying modifier cells",
        lambda lib: modified(lib, lambda rnn: rnn.FusedRNNCell(4), "ResidualCell").begin_state(),
    ),
    "begin_state of a stack": Refusal(
        AssertionError,
        "After applying modifier cells",
        lambda lib: modified(lib, lambda rnn: stacked(rnn, rnn.LSTMCell(4)), "ResidualCell").begin_state(),
    ),
    "begin_state of a bidirectional cell": Refusal(
        AssertionError,
        "After applying modifier cells",
        lambda lib: modified(lib, bidirectional, "ResidualCell").begin_state(),
    ),
    "begin_state of a modifier under another": Refusal(
        AssertionError,
        "After applying modifier cells",
        lambda lib: modified(lib, lambda rnn: rnn.ResidualCell(rnn.LSTMCell(4))).begin_state(),
    ),
    "begin_state of a stack whose cell was modified later": Refusal(
        AssertionError, "After applying modifier cells", lambda lib: modified_in_a_stack(lib).begin_state()
    ),
    "unroll without begin states": Refusal(
        AssertionError,
        "After applying modifier cells",
        lambda lib: unroll(lib, modified(lib, lambda rnn: rnn.LSTMCell(4))),
    ),
}

ARGUMENTS = {
    "params given twice": Refusal(AssertionError, "Either specify params", given_params_twice),
    "params given twice to sides": Refusal(AssertionError, "Either specify params", sides_given_params_twice),
    "a rate that is no number": Refusal(AssertionError, "must be a number", lambda lib: lib.rnn.DropoutCell("0.5")),
    **{
        f"a rate of {rate} for {kind}": Refusal(
            MXNetError, "exceed bound", lambda lib, make=make, rate=rate: unroll(lib, make(lib.rnn, rate))
        )
        for rate in (1.5, -0.1)
        for kind, make in {
            "dropout": lambda rnn, rate: stacked(rnn, rnn.DropoutCell(rate), rnn.LSTMCell(4)),
            "a fused cell": lambda rnn, rate: rnn.FusedRNNCell(4, 2, dropout=rate),
            "zoneout of outputs": lambda rnn, rate: rnn.ZoneoutCell(rnn.LSTMCell(4), zoneout_outputs=rate),
            "zoneout of states": lambda rnn, rate: rnn.ZoneoutCell(rnn.LSTMCell(4), zoneout_states=rate),
        }.items()
        if (rate, kind) != (-0.1, "dropout")  # which MXNet takes for none
    },
    "an unknown activation": Refusal(
        MXNetError, "Invalid Input: 'swish'", lambda lib: unroll(lib, lib.rnn.RNNCell(4, "swish"))
    ),
    "an unknown mode": Refusal(
        MXNetError, "Invalid Input: 'elman'", lambda lib: unroll(lib, lib.rnn.FusedRNNCell(4, mode="elman"))
    ),
    "no hidden units": Refusal(MXNetError, "num_hidden", lambda lib: unroll(lib, lib.rnn.LSTMCell(0))),
    "two cells of one name": Refusal(
        ValueError,
        "Duplicate names",
        lambda lib: unroll(lib, stacked(lib.rnn, lib.rnn.LSTMCell(3), lib.rnn.LSTMCell(3))),
    ),
    "a residual of another width": Refusal(
        RuntimeError, "Incompatible", lambda lib: unroll(lib, lib.rnn.ResidualCell(lib.rnn.LSTMCell(4)))
    ),
}

INPUTS = {
    **{
        f"no inputs for {kind}": Refusal(
            AssertionError, "deprecated", lambda lib, make=make: make(lib.rnn).unroll(3, None)
        )
        for kind, make in {
            "lstm": lambda rnn: rnn.LSTMCell(4),
            "fused": lambda rnn: rnn.FusedRNNCell(4),
            "bidirectional": bidirectional,
            "dropout": lambda rnn: rnn.DropoutCell(0.5),
            "stack": lambda rnn: stacked(rnn, rnn.LSTMCell(4)),
        }.items()
    },
    "a list of another length": Refusal(
        AssertionError, "^$", lambda lib: lib.rnn.LSTMCell(4).unroll(3, [lib.array(2, 3) for _ in range(2)])
    ),
    "a list of another length for a fused cell": Refusal(
        AssertionError, "^$", lambda lib: lib.rnn.FusedRNNCell(4).unroll(3, [lib.array(2, 3) for _ in range(2)])
    ),
    "an array of another length": Refusal(
        RuntimeError, "evenly divide", lambda lib: lib.run(lib.rnn.LSTMCell(4).unroll(2, lib.array(2, 3, 3)))
    ),
    "no steps": Refusal(MXNetError, "num_outputs", lambda lib: lib.rnn.LSTMCell(4).unroll(0, lib.array(2, 3, 3))),
    "an array of two axes": Refusal(
        RuntimeError, "rank-3", lambda lib: lib.run(lib.rnn.FusedRNNCell(4).unroll(3, lib.array(2, 3)))
    ),
    "a layout that is none": Refusal(
        AssertionError, "Unsupported layout", lambda lib: unroll(lib, lib.rnn.FusedRNNCell(4), layout="NCT")
    ),
    "too few begin states": Refusal(
        IndexError, "out of range", lambda lib: unroll(lib, lib.rnn.LSTMCell(4), begin_state=[lib.array(2, 4)])
    ),
    "a begin state of another width": Refusal(
        RuntimeError, "Incompatible", lambda lib: unroll(lib, lib.rnn.GRUCell(4), begin_state=[lib.array(2, 5)])
    ),
    "a begin state of another batch size": Refusal(
        RuntimeError, "Incompatible", lambda lib: unroll(lib, lib.rnn.GRUCell(4), begin_state=[lib.array(3, 4)])
    ),
}

WEIGHTS = {
    "unpacking what is not there": Refusal(KeyError, "lstm_i2h", lambda lib: lib.rnn.LSTMCell(4).unpack_weights({})),
    "unpacking a vector that is not there": Refusal(
        KeyError, "lstm_parameters", lambda lib: lib.rnn.FusedRNNCell(4).unpack_weights({})
    ),
    "packing what is not there": Refusal(
        KeyError, "lstm_i2h_i_weight", lambda lib: lib.rnn.LSTMCell(4).pack_weights({})
    ),
    "packing layers that are not there": Refusal(
        KeyError, "lstm_l0_i2h_i_weight", lambda lib: lib.rnn.FusedRNNCell(4).pack_weights({})
    ),
    "packing half of the layers": Refusal(
        KeyError,
        "lstm_l0_i2h_f_weight",
        lambda lib: lib.rnn.FusedRNNCell(4).pack_weights({"lstm_l0_i2h_i_weight": lib.weight(4, 3)}),
    ),
    "a vector of a length that none has": Refusal(
        AssertionError,
        "Invalid parameters size",
        lambda lib: lib.rnn.FusedRNNCell(4).unpack_weights({"lstm_parameters": lib.weight(145)}),
    ),
}

REFUSALS = {**UNSTEPPABLE, **AFTER_A_MODIFIER, **ARGUMENTS, **INPUTS, **WEIGHTS}


@pytest.mark.parametrize("name", REFUSALS)
def test_both_refuse(name):
    refusal = REFUSALS[name]
    with pytest.raises(refusal.error, match=refusal.message):
        refusal.attempt(MXNet())
    with pytest.raises(rnnx.RNNXError):
        refusal.attempt(Rnnx())


@pytest.mark.parametrize("name", sorted(OUR_ACTIVATIONS))
def test_an_activation_of_rnnx_is_one_of_mxnets(name):
    mx.sym.Activation(mx.sym.Variable("x"), act_type=name)


def test_all_activations_of_mxnet_are_rnnxs():
    with pytest.raises(MXNetError, match="valid values are") as error:
        mx.sym.Activation(mx.sym.Variable("x"), act_type="none")
    listed = re.findall(r"'(\w+)'", str(error.value).split("{")[1].split("}")[0])
    assert sorted(listed) == sorted(ACTIVATIONS)
    assert set(listed) <= set(OUR_ACTIVATIONS)

"""The description of a cell tree: there and back, and what is not let in."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import networks
import rnnx
from networks import PeepholeLSTM, sequential
from rnnx import CellSpec

CELLS = {
    "rnn": (
        lambda: rnnx.RNNCell(3, "relu", "a_"),
        {"kind": "RNNCell", "num_hidden": 3, "activation": "relu", "prefix": "a_"},
    ),
    "lstm": (
        lambda: rnnx.LSTMCell(3, "a_", forget_bias=2),
        {"kind": "LSTMCell", "num_hidden": 3, "forget_bias": 2.0, "prefix": "a_"},
    ),
    "gru": (
        lambda: rnnx.GRUCell(3, "a_", reset_after=False),
        {"kind": "GRUCell", "num_hidden": 3, "reset_after": False, "prefix": "a_"},
    ),
    "fused": (
        lambda: rnnx.FusedRNNCell(3, 2, "gru", True, 0.5, True, 0.0, "a_"),
        {
            "kind": "FusedRNNCell",
            "num_hidden": 3,
            "num_layers": 2,
            "mode": "gru",
            "bidirectional": True,
            "dropout": 0.5,
            "get_next_state": True,
            "forget_bias": 0.0,
            "prefix": "a_",
        },
    ),
    "dropout": (lambda: rnnx.DropoutCell(0.25, "a_"), {"kind": "DropoutCell", "dropout": 0.25, "prefix": "a_"}),
    "empty": (lambda: rnnx.SequentialRNNCell(), {"kind": "SequentialRNNCell"}),
    "sequential": (
        lambda: sequential(rnnx.RNNCell(3), rnnx.DropoutCell(0)),
        {
            "kind": "SequentialRNNCell",
            "children": [
                {"kind": "RNNCell", "num_hidden": 3, "activation": "tanh", "prefix": "rnn_"},
                {"kind": "DropoutCell", "dropout": 0.0, "prefix": "dropout_"},
            ],
        },
    ),
    "bidirectional": (
        lambda: rnnx.BidirectionalCell(rnnx.GRUCell(1, "l_"), rnnx.GRUCell(2, "r_"), output_prefix="o_"),
        {
            "kind": "BidirectionalCell",
            "output_prefix": "o_",
            "children": [
                {"kind": "GRUCell", "num_hidden": 1, "reset_after": True, "prefix": "l_"},
                {"kind": "GRUCell", "num_hidden": 2, "reset_after": True, "prefix": "r_"},
            ],
        },
    ),
    "zoneout": (
        lambda: rnnx.ZoneoutCell(rnnx.GRUCell(1), 0.25, 1),
        {
            "kind": "ZoneoutCell",
            "zoneout_outputs": 0.25,
            "zoneout_states": 1.0,
            "children": [{"kind": "GRUCell", "num_hidden": 1, "reset_after": True, "prefix": "gru_"}],
        },
    ),
    "residual": (
        lambda: rnnx.ResidualCell(rnnx.GRUCell(1)),
        {
            "kind": "ResidualCell",
            "children": [{"kind": "GRUCell", "num_hidden": 1, "reset_after": True, "prefix": "gru_"}],
        },
    ),
}


@pytest.mark.parametrize(("make", "described"), CELLS.values(), ids=CELLS.keys())
def test_every_class_there_and_back(make, described):
    cell = make()
    spec = cell.spec
    assert spec.to_dict() == described
    assert json.loads(spec.to_json()) == described
    assert CellSpec.from_json(spec.to_json()) == spec
    assert CellSpec.from_dict(described) == spec
    built = rnnx.BaseRNNCell.from_spec(CellSpec.from_dict(described))
    assert type(built) is type(cell)
    assert built.spec == spec
    assert hash(built.spec) == hash(spec)
    assert built.state_shape == cell.state_shape


def test_a_tree_built_from_its_spec_computes_the_same():
    cell = sequential(
        rnnx.BidirectionalCell(rnnx.LSTMCell(2, "a_"), rnnx.GRUCell(4, "b_", reset_after=False)),
        rnnx.ResidualCell(rnnx.ZoneoutCell(rnnx.RNNCell(6, "softsign", "c_"), 0.5, 0.5)),
        rnnx.DropoutCell(0.5),
        rnnx.FusedRNNCell(3, 2, "rnn_relu", True, 0.5, prefix="d_"),
    )
    networks.randomized(cell, 3)
    twin = rnnx.BaseRNNCell.from_spec(CellSpec.from_json(cell.spec.to_json()))
    twin.load_params(cell.get_params())
    inputs = np.random.default_rng(1).normal(size=(2, 4, 3))
    one, other = (each.unroll(None, inputs, training=True, seed=1)[0] for each in (cell, twin))
    np.testing.assert_array_equal(one, other)


# -- sharing ---------------------------------------------------------------------------------------------------------


def shares(spec: CellSpec) -> rnnx.BaseRNNCell:
    """A tree built from a spec, after a round trip."""
    return rnnx.BaseRNNCell.from_spec(CellSpec.from_json(spec.to_json()))


def test_shared_weights_are_described_and_shared_again():
    first = rnnx.LSTMCell(3, "a_")
    cell = sequential(first, rnnx.DropoutCell(0.1), rnnx.LSTMCell(3, "b_", params=first.params))
    assert cell.spec.children[2].fields["params"] == "a_"
    twin = shares(cell.spec)
    assert twin.spec == cell.spec
    twin.initialize(3)
    assert sorted(twin.get_params()) == ["a_h2h_bias", "a_h2h_weight", "a_i2h_bias", "a_i2h_weight"]


def test_weights_of_a_name_that_no_cell_has():
    container = rnnx.RNNParams("net_")
    cell = sequential(*(rnnx.GRUCell(3, prefix, params=container) for prefix in ("a_", "b_")))
    twin = shares(cell.spec)
    twin.initialize(3)
    assert sorted(twin.get_params()) == ["net_h2h_bias", "net_h2h_weight", "net_i2h_bias", "net_i2h_weight"]


def test_a_stack_that_was_given_its_weights():
    source = sequential(rnnx.LSTMCell(3, "a_"))
    for params in (source.params, rnnx.RNNParams("net_")):
        cell = sequential(rnnx.LSTMCell(3, "a_"), params=params)
        twin = shares(cell.spec)
        twin.initialize(2)
        assert twin.get_params().keys() == networks.randomized(cell, 2).get_params().keys()


def test_a_dropout_that_was_given_weights():
    spec = rnnx.DropoutCell(0.5, params=rnnx.RNNParams("net_")).spec
    assert shares(spec).spec.kind == "DropoutCell"


# -- the object ------------------------------------------------------------------------------------------------------


def test_a_spec_is_frozen():
    spec = rnnx.LSTMCell(3).spec
    with pytest.raises(AttributeError):
        spec.kind = "GRUCell"
    with pytest.raises(TypeError):
        spec.fields["num_hidden"] = 4


def test_a_spec_keeps_nothing_it_was_given():
    fields, children = {"num_hidden": 3}, [CellSpec("DropoutCell", {"dropout": 0.5})]
    spec = CellSpec("LSTMCell", fields, children)
    fields["num_hidden"] = 4
    children.clear()
    assert spec.fields["num_hidden"] == 3
    assert len(spec.children) == 1


def test_specs_are_compared_by_content():
    assert rnnx.LSTMCell(3).spec == rnnx.LSTMCell(3).spec
    assert len({rnnx.LSTMCell(3).spec, rnnx.LSTMCell(3).spec, rnnx.LSTMCell(4).spec}) == 2
    one, other = (
        CellSpec("DropoutCell", fields) for fields in ({"dropout": 0.5, "prefix": ""}, {"prefix": "", "dropout": 0.5})
    )
    assert one == other
    assert hash(one) == hash(other)
    assert one.to_json() == other.to_json()


def test_walking_yields_parents_first():
    spec = sequential(rnnx.ResidualCell(rnnx.GRUCell(3)), rnnx.DropoutCell(0.5)).spec
    assert [node.kind for node in spec.walk()] == ["SequentialRNNCell", "ResidualCell", "GRUCell", "DropoutCell"]


# -- what is not let in ----------------------------------------------------------------------------------------------


def nested(depth: int) -> str:
    return '{"kind": "ResidualCell", "children": [' * depth + '{"kind": "SequentialRNNCell"}' + "]}" * depth


LSTM = '{"kind": "LSTMCell", "num_hidden": 3, "forget_bias": 1.0, "prefix": "a_"'
HOSTILE = {
    "no JSON": ("{", "is not JSON"),
    "nothing": ("", "is not JSON"),
    "a list": ("[]", r"an object with a 'kind', found \[\]"),
    "a string": ('"LSTMCell"', "an object with a 'kind', found 'LSTMCell'"),
    "null": ("null", "an object with a 'kind', found None"),
    "no kind": ("{}", "an object with a 'kind'"),
    "a number as kind": ('{"kind": 3}', "an object with a 'kind'"),
    "unknown kind": ('{"kind": "LTSMCell"}', r"no kind of cell is called 'LTSMCell' \(nearest: 'LSTMCell'\)"),
    "a base class": ('{"kind": "BaseRNNCell", "prefix": ""}', "no kind of cell is called 'BaseRNNCell'"),
    "unknown field": (LSTM + ', "num_hiden": 3}', r"LSTMCell has no field 'num_hiden' \(nearest: 'num_hidden'\)"),
    "another kind's field": (LSTM + ', "mode": "lstm"}', "LSTMCell has no field 'mode'"),
    "missing field": ('{"kind": "LSTMCell", "prefix": "a_"}', "LSTMCell.*'num_hidden'.*missing"),
    "missing fused fields": ('{"kind": "FusedRNNCell", "num_hidden": 2}', "FusedRNNCell.*missing"),
    "text for a number": (LSTM.replace("3", '"3"') + "}", "'num_hidden' should be int, found '3'"),
    "float for int": (LSTM.replace("3", "3.0") + "}", "'num_hidden' should be int, found 3.0"),
    "bool for int": (LSTM.replace("3", "true") + "}", "'num_hidden' should be int, found True"),
    "bool for float": (LSTM.replace("1.0", "true") + "}", "'forget_bias' should be float, found True"),
    "null for int": (LSTM.replace("3", "null") + "}", "'num_hidden' should be int, found None"),
    "list for text": (LSTM.replace('"a_"', '["a_"]') + "}", r"'prefix' should be str, found \['a_'\]"),
    "int for bool": (
        '{"kind": "GRUCell", "num_hidden": 3, "reset_after": 1, "prefix": ""}',
        "'reset_after' should be bool, found 1",
    ),
    "nan": ('{"kind": "DropoutCell", "dropout": NaN, "prefix": ""}', "dropout.*nan|NaN"),
    "infinity": ('{"kind": "DropoutCell", "dropout": Infinity, "prefix": ""}', "dropout.*inf|Infinity"),
    "too large a float": ('{"kind": "DropoutCell", "dropout": 1e999, "prefix": ""}', "dropout.*inf"),
    "too large an int for a float": (LSTM.replace("1.0", "1" + "0" * 400) + "}", "'forget_bias' should be float"),
    "an int that is no float": (LSTM.replace("1.0", str(2**53 + 1)) + "}", "'forget_bias' should be float"),
    "too many digits": (LSTM.replace("3", "1" * 5000) + "}", "is not JSON"),
    "children of a leaf": (LSTM + ', "children": [{"kind": "SequentialRNNCell"}]}', "'children' does not fit the kind"),
    "one direction": ('{"kind": "BidirectionalCell", "output_prefix": "", "children": []}', "'children' does not fit"),
    "no base cell": ('{"kind": "ResidualCell"}', "'children' does not fit the kind, found"),
    "children that are none": ('{"kind": "SequentialRNNCell", "children": {"0": 1}}', "'children' does not fit"),
    "a child that is none": ('{"kind": "SequentialRNNCell", "children": [3]}', "an object with a 'kind', found 3"),
    "deep": (nested(65), "nested deeper than 64"),
    "very deep": (nested(100_000), "is not JSON|nested deeper than 64"),
    "a long value": (f'{{"kind": {json.dumps(["x" * 1000])}}}', r"found \{.{1,60}\.\.\."),
}


@pytest.mark.parametrize(("text", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_file_is_not_trusted(text, message):
    with pytest.raises(rnnx.WeightFormatError, match=message):
        CellSpec.from_json(text)


def test_whole_numbers_may_stand_for_floats():
    spec = CellSpec.from_json(LSTM.replace("1.0", str(2**53 - 1)) + "}")
    assert type(spec.fields["forget_bias"]) is float
    assert spec.fields["forget_bias"] == 2**53 - 1


def test_the_deepest_tree():
    assert sum(1 for _ in CellSpec.from_json(nested(64)).walk()) == 65


@pytest.mark.parametrize("kind", ["os:system", "networks:PeepholeLSTM", "rnnx.cells.basic:LSTMCell", ":", "a:b:c"])
def test_code_is_never_imported_because_a_file_says_so(kind):
    with pytest.raises(rnnx.UnsupportedError, match="never causes code to be imported: build the tree yourself"):
        CellSpec.from_json(json.dumps({"kind": kind, "prefix": "x_"}))


@pytest.mark.parametrize("kind", ["Node", "ModifierCell", "BaseRNNCell", "_PlainCell", "PeepholeLSTM", "Nothing"])
def test_only_rnnxs_cells_are_built(kind):
    with pytest.raises(rnnx.UnsupportedError, match=f"class '{kind}' is not rnnx's own"):
        rnnx.BaseRNNCell.from_spec(CellSpec(kind, {"prefix": "x_"}))


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"num_hidden": 0}, rnnx.ShapeError),
        ({"num_hidden": -(10**30)}, rnnx.ShapeError),
        ({"num_layers": 0}, rnnx.ShapeError),
        ({"mode": "lstm2"}, rnnx.UnsupportedError),
        ({"dropout": 7.0}, rnnx.ShapeError),
    ],
)
def test_values_that_no_cell_takes(fields, error):
    described = {**CELLS["fused"][1], **fields}
    with pytest.raises(error):
        rnnx.BaseRNNCell.from_spec(CellSpec.from_dict(described))


def test_a_cell_of_ones_own_is_described_but_not_built():
    spec = sequential(PeepholeLSTM(3)).spec
    assert spec.children[0].kind == "networks:PeepholeLSTM"
    assert spec == sequential(PeepholeLSTM(3)).spec
    with pytest.raises(rnnx.UnsupportedError, match="'networks:PeepholeLSTM'"):
        CellSpec.from_json(spec.to_json())
    with pytest.raises(rnnx.UnsupportedError, match="'networks:PeepholeLSTM' is not rnnx's own"):
        rnnx.BaseRNNCell.from_spec(spec)


def test_a_subclass_is_a_class_of_its_own():
    class LSTMCell(rnnx.LSTMCell):
        """A user's class that happens to have the name of rnnx's."""

    kind = LSTMCell(3).spec.kind
    assert kind.endswith("LSTMCell")
    assert ":" in kind


def test_a_function_cannot_be_described():
    with pytest.raises(rnnx.UnsupportedError, match="is a function, which a description cannot hold"):
        _ = rnnx.RNNCell(3, np.tanh).spec


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=100)
@given(
    kind=st.sampled_from(sorted({described["kind"] for _, described in CELLS.values()})),
    fields=st.dictionaries(
        st.sampled_from(["num_hidden", "prefix", "dropout", "mode", "children", "params", "forget_bias", "x"]),
        json_values,
    ),
)
def test_anything_else_is_an_error_of_rnnx(kind, fields):
    try:
        cell = rnnx.BaseRNNCell.from_spec(CellSpec.from_json(json.dumps({"kind": kind, **fields})))
    except rnnx.RNNXError:
        return
    assert cell.spec.kind == kind

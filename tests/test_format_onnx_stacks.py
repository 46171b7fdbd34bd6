"""Recurrent nodes of ONNX put together: layers and directions that make one part, and those that do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rnnx
from rnnx.errors import UnsupportedError

pytest.importorskip("onnx", reason="onnx is needed to make models")
pytest.importorskip("onnxruntime", reason="ONNX Runtime judges")

from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnx_models import (
    GATES,
    TURNED,
    WIDTH,
    H,
    N,
    T,
    assert_agrees,
    constant,
    evidence_in,
    merged,
    model,
    node,
    outputs_of,
    ran,
    random,
    reshaped,
    saved,
    squeezed,
    two_layers,
    value,
    weights,
)

# -- layers put together ----------------------------------------------------------------------------------------------


def computed_target(of: str) -> list[Any]:
    """The shape (T, N, D*H) computed from that of a value, as PyTorch's newer exporter does."""
    numbers = [constant(str(number), number) for number in range(5)]
    cuts = [node("Slice", ["shape", str(number), str(number + 1)], [f"size{number}"]) for number in range(4)]
    return [
        node("Shape", [of], ["shape"]), *numbers, *cuts, constant("flat", -1),
        node("Mul", ["size2", "size3"], ["product"]), node("Reshape", ["product", "flat"], ["width"]),
        node("Concat", ["size0", "size1", "width"], ["target"], axis=0), node("Reshape", ["turned", "target"], ["X1"]),
    ]  # fmt: skip


ONE_DIRECTION = {
    "squeeze": squeezed("Y0", "X1"),
    "squeeze from the end": squeezed("Y0", "X1", -3),
    "identity": [node("Identity", ["Y0"], ["same"]), *squeezed("same", "X1")],
    "reshape": [constant("target", 0, -1, H), node("Reshape", ["Y0", "target"], ["X1"])],
    "turned and turned back": [
        *squeezed("Y0", "s"), node("Transpose", ["s"], ["NTC"], perm=[1, 0, 2]), node("Identity", ["NTC"], ["same"]),
        node("Transpose", ["same"], ["X1"], perm=[1, 0, 2]),
    ],
    "gathered sizes": [
        node("Shape", ["X"], ["shape"]), constant("first", 0, 1), node("Gather", ["shape", "first"], ["TN"]),
        constant("width", H), node("Concat", ["TN", "width"], ["target"], axis=0),
        node("Reshape", ["Y0", "target"], ["X1"]),
    ],
}  # fmt: skip

TWO_DIRECTIONS = {
    "as PyTorch": reshaped(0, 0, -1),
    "with the width": reshaped(0, -1, 2 * H),
    "a computed shape": [TURNED, *computed_target("turned")],
}


@pytest.mark.parametrize("between", ONE_DIRECTION.values(), ids=ONE_DIRECTION)
def test_one_direction_is_stacked(tmp_path, between):
    cell = assert_agrees(tmp_path, two_layers(between))
    assert [leaf.spec.fields["prefix"] for leaf in cell.leaves()] == ["a_l0_", "a_l1_"]
    assert "a stack" in evidence_in(tmp_path / "model.onnx")


@pytest.mark.parametrize("between", TWO_DIRECTIONS.values(), ids=TWO_DIRECTIONS)
def test_two_directions_are_stacked(tmp_path, between):
    cell = assert_agrees(tmp_path, two_layers(between, 2))
    assert [leaf.spec.fields["prefix"] for leaf in cell.leaves()] == ["a_l0_", "a_r0_", "a_l1_", "a_r1_"]


def test_a_fixed_shape_is_stacked(tmp_path):
    made = two_layers(reshaped(T, N, 2 * H), 2)
    del made.graph.input[:]
    made.graph.input.append(value("X", [T, N, WIDTH]))
    assert_agrees(tmp_path, made)


def test_an_old_squeeze_and_reshape_are_stacked(tmp_path):
    """Before version 13 of the operators, axes were attributes."""
    made = two_layers([node("Squeeze", ["Y0"], ["X1"], axes=[1])])
    made.opset_import[0].version = 11
    assert_agrees(tmp_path, made)


def test_batch_first_layers_are_stacked(tmp_path):
    for directions, between in (
        (1, squeezed("Y0", "X1", 2)),
        (2, [constant("t", 0, 0, -1), node("Reshape", ["Y0", "t"], ["X1"])]),
    ):
        made = two_layers(between, directions, layout=1)
        x = random(N, T, WIDTH)
        cell, _ = rnnx.load(saved(tmp_path, made))
        y = ReferenceEvaluator(made).run(None, {"X": x})[0]
        np.testing.assert_allclose(outputs_of(cell, x, "NTC"), y.reshape(N, T, -1), atol=1e-5)


def test_dropout_becomes_a_cell(tmp_path):
    arrays = {"rate": np.float32(0.3)}
    made = two_layers([node("Dropout", ["Y0", "rate"], ["dropped"]), *squeezed("dropped", "X1")])
    made.graph.initializer.append(numpy_helper.from_array(np.asarray(arrays["rate"]), "rate"))
    cell = assert_agrees(tmp_path, made)
    assert [child.kind for child in cell.spec.children] == ["GRUCell", "DropoutCell", "GRUCell"]
    assert cell.spec.children[1].fields["dropout"] == 0.3


@pytest.mark.parametrize(("told", "rate"), [({}, 0.5), ({"ratio": 0.2}, 0.2), ({"ratio": 0.2, "is_test": 1}, 0.2)])
def test_dropout_of_older_versions_has_attributes(tmp_path, told, rate):
    made = two_layers([node("Dropout", ["Y0"], ["d"], **told), node("Squeeze", ["d"], ["X1"], axes=[1])])
    ((_, part),) = rnnx.infer(saved(tmp_path, made)).items()
    assert part.spec.children[1].fields["dropout"] == rate


def test_the_layers_of_a_stack_fuse(tmp_path):
    path = saved(tmp_path, two_layers(reshaped(0, 0, -1), 2, "LSTM"))
    rnnx.convert(path, tmp_path / "fused.rnnx", fuse=True)
    cell, _ = rnnx.load(tmp_path / "fused.rnnx")
    assert cell.spec.kind == "FusedRNNCell"
    x = random(T, N, WIDTH)
    np.testing.assert_allclose(outputs_of(cell, x), outputs_of(rnnx.load(path)[0], x), atol=1e-6)


def with_output(made: Any, name: str) -> Any:
    made.graph.output.append(value(name))
    return made


def with_lengths(made: Any) -> Any:
    made.graph.input.append(value("lens", [N], TensorProto.INT32))
    made.graph.node[0].input.append("lens")
    return made


SEPARATE = {
    "another operation": two_layers([node("Tanh", ["Y0"], ["t"]), *squeezed("t", "X1")]),
    "directions among the rows": two_layers([constant("t", 0, -1, 2 * H), node("Reshape", ["Y0", "t"], ["X1"])], 2),
    "an empty squeeze": two_layers([node("Squeeze", ["Y0"], ["X1"])]),
    "the output is the model's too": with_output(two_layers(squeezed("Y0", "X1")), "Y0"),
    "several readers": with_output(two_layers([*squeezed("Y0", "X1"), node("Relu", ["X1"], ["out"])]), "out"),
    "other lengths": with_lengths(two_layers(squeezed("Y0", "X1"))),
    "batch first above time": two_layers([*squeezed("Y0", "s"), node("Transpose", ["s"], ["X1"], perm=[1, 0, 2])]),
    "training": two_layers([constant("rate", 0), constant("yes", 1), node("Cast", ["rate"], ["f"], to=1),
                            node("Dropout", ["Y0", "f", "yes"], ["d"]), *squeezed("d", "X1")]),
    "old training": two_layers([node("Dropout", ["Y0"], ["d"], is_test=0), *squeezed("d", "X1")]),
    "a computed dropout": two_layers([node("Abs", ["B0"], ["r"]), node("Dropout", ["Y0", "r"], ["d"]),
                                      *squeezed("d", "X1")]),
    "everything dropped": two_layers([node("Dropout", ["Y0"], ["d"], ratio=1.0), *squeezed("d", "X1")]),
    "a squeeze of rows": two_layers([*squeezed("Y0", "X1", 2)]),
    "a second -1": two_layers([constant("t", 0, -1, -1), node("Reshape", ["Y0", "t"], ["X1"])]),
    "zeros, no copies": two_layers([constant("t", 0, -1, H), node("Reshape", ["Y0", "t"], ["X1"], allowzero=1)]),
    "a shape that is read": two_layers([node("Identity", ["Shape"], ["t"]), node("Reshape", ["Y0", "t"], ["X1"])]),
    "another domain": two_layers([helper.make_node("Identity", ["Y0"], ["X1"], domain="other")]),
    "a reshape to a computed shape": two_layers([node("Shape", ["B0"], ["s"]), node("Reshape", ["Y0", "s"], ["X1"])]),
}  # fmt: skip


@pytest.mark.parametrize("made", SEPARATE.values(), ids=SEPARATE)
def test_whatever_else_stands_between_makes_parts(tmp_path, made):
    made.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "B0"))
    made.graph.input.append(value("Shape", [3], TensorProto.INT64))
    assert list(rnnx.infer(saved(tmp_path, made))) == ["a", "b"]


# -- a forward and a backward node ------------------------------------------------------------------------------------


def pair(*between: Any, op: str = "LSTM", second: str = "reverse") -> Any:
    arrays = {**weights(op, 1, WIDTH, "f_"), **weights(op, 1, WIDTH, "b_", seed=5)}
    nodes = [
        node(op, ("X", "f_W", "f_R", "f_B"), ("F",)),
        node(op, ("X", "b_W", "b_R", "b_B"), ("B",), direction=second),
    ]
    return model([*nodes, *between], arrays)


@pytest.mark.parametrize("op", GATES)
def test_a_forward_and_a_backward_node_are_one_layer(tmp_path, op):
    made = pair(node("Concat", ["F", "B"], ["Y"], axis=1), op=op)
    cell = assert_agrees(tmp_path, made)
    assert cell.spec.kind == "BidirectionalCell"
    assert list(rnnx.infer(tmp_path / "model.onnx")) == ["f"]


PAIRS = {
    "joined as directions": [node("Concat", ["F", "B"], ["Y0"], axis=1), *reshaped(0, 0, -1)],
    "joined side by side": [*squeezed("F", "f"), *squeezed("B", "b"), node("Concat", ["f", "b"], ["X1"], axis=-1)],
}


@pytest.mark.parametrize("between", PAIRS.values(), ids=PAIRS)
def test_pairs_are_stacked(tmp_path, between):
    made = pair(*between, node("GRU", ("X1", "g_W", "g_R", "g_B")))
    for name, array in weights("GRU", 1, 2 * H, "g_", seed=7).items():
        made.graph.initializer.append(numpy_helper.from_array(array, name))
    cell = assert_agrees(tmp_path, made)
    assert [child.kind for child in cell.spec.children] == ["BidirectionalCell", "GRUCell"]


def test_a_pair_that_is_joined_the_other_way_round_ends_the_stack(tmp_path):
    made = pair(*squeezed("F", "f"), *squeezed("B", "b"), node("Concat", ["b", "f"], ["X1"], axis=2),
                node("GRU", ("X1", "g_W", "g_R", "g_B")))  # fmt: skip
    for name, array in weights("GRU", 1, 2 * H, "g_").items():
        made.graph.initializer.append(numpy_helper.from_array(array, name))
    assert list(rnnx.infer(saved(tmp_path, made))) == ["f", "g"]


APART = {
    "an output left out": pair(),
    "dropout in one": pair(node("Dropout", ["F"], ["d"]), node("Concat", ["d", "B"], ["Y0"], axis=1)),
    "another operation in one": pair(node("Tanh", ["F"], ["t"]), node("Concat", ["t", "B"], ["Y0"], axis=1)),
    "along the steps": pair(*squeezed("F", "f"), *squeezed("B", "b"), node("Concat", ["f", "b"], ["Y0"], axis=0)),
    "no axis there": pair(node("Concat", ["F", "B"], ["Y0"], axis=7)),
}
del APART["an output left out"].graph.node[0].output[:]


@pytest.mark.parametrize("made", APART.values(), ids=APART)
def test_a_pair_needs_no_joining(tmp_path, made):
    """Its outputs are what the two nodes make, side by side, whatever is made of them."""
    del made.graph.output[:]
    x = random(T, N, WIDTH)
    ((_, cell),) = rnnx.load_all(saved(tmp_path, made)).items()
    nodes = [node("LSTM", ("X", f"{letter}_W", f"{letter}_R", f"{letter}_B"), (letter,), direction=direction)
             for letter, direction in (("f", "forward"), ("b", "reverse"))]  # fmt: skip
    alone = model(
        nodes, {each.name: numpy_helper.to_array(each) for each in made.graph.initializer}, outputs=("f", "b")
    )
    expected = np.concatenate([merged(y) for y in ran(alone, X=x)], 2)
    np.testing.assert_allclose(outputs_of(cell, x), expected, atol=1e-5)


def test_a_width_that_does_not_fit_ends_the_stack(tmp_path):
    made = two_layers(squeezed("Y0", "X1"))
    made.graph.node[-1].input[1] = "thin"
    made.graph.initializer.append(numpy_helper.from_array(random(1, 3 * H, 2), "thin"))
    assert len(rnnx.infer(saved(tmp_path, made))) == 2


def test_a_backward_node_alone_is_refused_and_the_advice_works(tmp_path):
    made = model([node("LSTM", direction="reverse")], weights("LSTM"))
    path = saved(tmp_path, made)
    with pytest.raises(UnsupportedError, match=r"runs backwards alone.* set its direction to 'forward' and reverse"):
        rnnx.load(path)
    x = random(T, N, WIDTH)
    expected = merged(ran(made, X=x)[0])
    next(each for each in made.graph.node[0].attribute if each.name == "direction").s = b"forward"
    cell, _ = rnnx.load(saved(tmp_path, made))
    np.testing.assert_allclose(outputs_of(cell, x[::-1])[::-1], expected, atol=1e-5)

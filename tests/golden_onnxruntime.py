"""Golden cases of ONNX Runtime: nodes LSTM, GRU (both kinds) and RNN (five activations), over rows of many lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from golden_drawing import HIDDEN, LENGTHS, WIDTH, Drawing, Layer, N, T, both_spec, plain_spec, prefixed, regated
from rnnx.conformance.golden import Golden

PRODUCER = f"onnxruntime {onnxruntime.__version__}"

#: ONNX's names of rnnx's activations.
ACTIVATIONS = {
    "rnn_tanh": "Tanh",
    "rnn_relu": "Relu",
    "rnn_sigmoid": "Sigmoid",
    "rnn_softrelu": "Softplus",
    "rnn_softsign": "Softsign",
}

#: Places in rnnx's order of the gates of an LSTM node, i o f c, and of a GRU node, z r h.
ORDERS = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "gru_reset_before": (1, 0, 2)}


def cases() -> Iterator[Golden]:
    """Yield the cases."""
    for mode in (*ORDERS, *ACTIVATIONS):
        yield case(mode, 1)
        if mode in (*ORDERS, "rnn_relu"):
            yield case(mode, 2)


def case(mode: str, directions: int) -> Golden:
    """A case of one node."""
    name = f"onnxruntime-{mode}-directions{directions}"
    drawing = Drawing(name)
    layers, inputs = drawing.layers(mode, 1, directions), drawing.inputs()
    begin = [drawing.array(directions, N, HIDDEN) for _ in range(1 + (mode == "lstm"))]
    y, *finals = ran(mode, layers, inputs, begin)
    outputs = np.concatenate(list(y.transpose(1, 2, 0, 3)), -1)
    prefixes = ["l_", "r_"][:directions]
    cells = [plain_spec(mode, prefix) for prefix in prefixes]
    weights = {k: w for prefix, layer in zip(prefixes, layers, strict=True) for k, w in prefixed(prefix, layer).items()}
    spec = both_spec(*cells) if directions == 2 else cells[0]
    return Golden(name, PRODUCER, spec, weights, inputs, apart(begin), LENGTHS, outputs, apart(finals))


def apart(states: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """States (D, N, H), h before c, as those of one direction after the other."""
    return tuple(state for direction in zip(*states, strict=True) for state in direction)


def ran(mode: str, layers: list[Layer], inputs: np.ndarray, begin: list[np.ndarray]) -> list[np.ndarray]:
    """Y (T, D, N, H), and the final states (D, N, H)."""
    op = {"lstm": "LSTM"}.get(mode, "GRU" if mode.startswith("gru") else "RNN")
    directions, order = len(layers), ORDERS.get(mode, (0,))
    arrays = {
        "W": np.stack([regated(layer["i2h_weight"], order) for layer in layers]),
        "R": np.stack([regated(layer["h2h_weight"], order) for layer in layers]),
        "B": np.stack(
            [np.concatenate([regated(layer[f"{side}_bias"], order) for side in ("i2h", "h2h")]) for layer in layers]
        ),
        "lengths": LENGTHS.astype(np.int32),
        **dict(zip(("h", "c"), begin, strict=False)),
    }
    attributes = {"direction": "bidirectional" if directions == 2 else "forward", "hidden_size": HIDDEN}
    if op == "GRU":
        attributes["linear_before_reset"] = int(mode == "gru")
    if op == "RNN":
        attributes["activations"] = [ACTIVATIONS[mode]] * directions
    results = ["Y", "Y_h", "Y_c"][: 1 + len(begin)]
    node = helper.make_node(op, ["X", "W", "R", "B", "lengths", "h", "c"][: 5 + len(begin)], results, **attributes)
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [T, N, WIDTH])],
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, None) for result in results],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"X": inputs.transpose(1, 0, 2)})

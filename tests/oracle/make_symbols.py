"""Writes the symbol files of ``tests/fixtures/symbols`` with MXNet 1.9.1: ``python tests/oracle/make_symbols.py``."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mxnet as mx
from mxnet import rnn

TARGET = Path(__file__).parents[1] / "fixtures" / "symbols"

STEPS = 3
ACTIVATIONS = ("relu", "tanh", "sigmoid", "softrelu", "softsign")

#: How MXNet 0.8 called operators, and what it called attributes of operators.
OLD_OPERATORS = {"elemwise_add": "_Plus", "elemwise_mul": "_Mul", "_rminus_scalar": "_RMinusScalar"}

Symbol = Any
NETWORKS: dict[str, Callable[[], Any]] = {}


def network(build: Callable[[], Any]) -> Callable[[], Any]:
    NETWORKS[build.__name__] = build
    return build


def data(name: str = "data") -> Symbol:
    return mx.sym.Variable(name)


def unrolled(
    cell: Any, inputs: Any = None, length: int = STEPS, merge: bool | None = True, layout: str = "NTC"
) -> Symbol:
    """Unroll a cell from states of zeros: MXNet makes none for a residual cell around a bidirectional one."""
    states = [mx.sym.zeros(**info) for info in cell.state_info]
    inputs = data() if inputs is None else inputs
    outputs, _ = cell.unroll(length, inputs, begin_state=states, layout=layout, merge_outputs=merge)
    return outputs if isinstance(outputs, mx.sym.Symbol) else mx.sym.Group(outputs)


def stack(*cells: Any) -> Any:
    made = rnn.SequentialRNNCell()
    for cell in cells:
        made.add(cell)
    return made


def bidirectional(prefix: str = "") -> Any:
    cells = rnn.LSTMCell(4, prefix=f"{prefix}l_"), rnn.GRUCell(4, prefix=f"{prefix}r_")
    return rnn.BidirectionalCell(*cells, output_prefix=f"{prefix}bi_")


def deep() -> Any:
    """Every kind of cell, in one stack."""
    return stack(
        rnn.FusedRNNCell(8, mode="gru", prefix="a_"),
        rnn.DropoutCell(0.5),
        rnn.FusedRNNCell(8, mode="rnn_relu", prefix="b_"),
        rnn.ResidualCell(rnn.LSTMCell(8, prefix="c_")),
        rnn.DropoutCell(0.25),
        bidirectional("d_"),
        rnn.ResidualCell(bidirectional("e_")),
        rnn.ZoneoutCell(rnn.RNNCell(5, prefix="f_"), 0.1, 0.2),
        rnn.DropoutCell(0.75),
    )


# -- single cells -----------------------------------------------------------------------------------------------------


@network
def lstm() -> Symbol:
    return unrolled(rnn.LSTMCell(4, forget_bias=2.5))


@network
def gru() -> Symbol:
    return unrolled(rnn.GRUCell(4))


@network
def activations() -> Symbol:
    return mx.sym.Group(
        [unrolled(rnn.RNNCell(4, activation=name, prefix=f"{name}_"), length=2) for name in ACTIVATIONS]
    )


@network
def fused() -> Symbol:
    return unrolled(
        rnn.FusedRNNCell(4, num_layers=2, bidirectional=True, dropout=0.25, get_next_state=True, forget_bias=0.5)
    )


@network
def fused_modes() -> Symbol:
    modes = ("gru", "rnn_tanh", "rnn_relu")
    return mx.sym.Group([unrolled(rnn.FusedRNNCell(4, mode=mode), layout="TNC") for mode in modes])


@network
def fused_names() -> Symbol:
    """Parameters called otherwise than MXNet calls them."""
    named = [
        ("lstm_0rnn", "lstm_0parameters"),
        ("decoder", "top_parameters"),
        ("odd", "odd_weights"),
        ("two_rnn", "one_parameters"),
    ]
    return mx.sym.Group(
        [
            mx.sym.RNN(data(), data(parameters), data(f"{name}_h"), state_size=4, num_layers=1, mode="gru", name=name)
            for name, parameters in named
        ]
    )


@network
def one_step() -> Symbol:
    """A network for one step at a time, its states fed from outside."""
    cell = stack(rnn.LSTMCell(4, prefix="a_"), rnn.DropoutCell(0.5), rnn.GRUCell(4, prefix="b_"))
    outputs, states = cell(data(), cell.begin_state(func=mx.sym.Variable))
    return mx.sym.Group([outputs, *states])


@network
def one_step_bidirectional() -> Symbol:
    return unrolled(bidirectional(), length=1, merge=False)


@network
def one_step_zoneout() -> Symbol:
    return unrolled(rnn.ZoneoutCell(rnn.LSTMCell(4), 0.25, 0.125), length=1)


@network
def shared() -> Symbol:
    """A second cell, called otherwise, on the weights of a first."""
    first = rnn.LSTMCell(4, prefix="one_")
    second = rnn.LSTMCell(4, prefix="two_", params=first.params)
    return mx.sym.Group([unrolled(first, data("left")), unrolled(second, data("right"))])


@network
def backward() -> Symbol:
    """A cell that runs backwards by itself."""
    steps = list(mx.sym.split(data(), num_outputs=STEPS, axis=1, squeeze_axis=True))
    return unrolled(rnn.GRUCell(4), steps[::-1])


# -- cells around cells -----------------------------------------------------------------------------------------------


def around(name: str, build: Callable[[], Any]) -> None:
    """Write a tree with its outputs merged, as a list, and whatever MXNet finds faster."""
    for how, merge in (("merged", True), ("list", False), ("default", None)):
        NETWORKS[f"{name}_{how}"] = lambda merge=merge: unrolled(build(), merge=merge)


around("residual", lambda: rnn.ResidualCell(rnn.LSTMCell(4)))
around("zoneout", lambda: rnn.ZoneoutCell(rnn.LSTMCell(4), 0.25, 0.125))
around("zoneout_same", lambda: rnn.ZoneoutCell(rnn.LSTMCell(4), 0.25, 0.25))
around("zoneout_outputs", lambda: rnn.ZoneoutCell(rnn.RNNCell(4), 0.25, 0.0))
around("zoneout_states", lambda: rnn.ZoneoutCell(rnn.GRUCell(4), 0.0, 0.125))
around("zoneout_of_residual", lambda: rnn.ZoneoutCell(rnn.ResidualCell(rnn.LSTMCell(4)), 0.25, 0.125))
around("residual_of_zoneout", lambda: rnn.ResidualCell(rnn.ZoneoutCell(rnn.LSTMCell(4), 0.0, 0.125)))
around("bidirectional", bidirectional)
around("residual_of_bidirectional", lambda: rnn.ResidualCell(bidirectional()))
around(
    "residual_of_stack",
    lambda: rnn.ResidualCell(stack(rnn.LSTMCell(4, prefix="a_"), rnn.DropoutCell(0.5), rnn.GRUCell(4, prefix="b_"))),
)
around(
    "bidirectional_of_fused",
    lambda: rnn.BidirectionalCell(rnn.FusedRNNCell(4, prefix="l_"), rnn.FusedRNNCell(4, mode="gru", prefix="r_")),
)
around(
    "bidirectional_mixed",
    lambda: rnn.BidirectionalCell(rnn.LSTMCell(4, prefix="l_"), rnn.FusedRNNCell(4, prefix="r_")),
)
around(
    "bidirectional_of_stacks",
    lambda: rnn.BidirectionalCell(
        stack(rnn.LSTMCell(4, prefix="a_"), rnn.LSTMCell(4, prefix="b_")),
        stack(rnn.GRUCell(4, prefix="c_"), rnn.DropoutCell(0.5), rnn.GRUCell(4, prefix="d_")),
    ),
)
around("bidirectional_nested", lambda: rnn.BidirectionalCell(bidirectional("x_"), bidirectional("y_")))
around("unfused", lambda: rnn.FusedRNNCell(4, 2, mode="rnn_relu", bidirectional=True, dropout=0.25).unfuse())
around("deep", deep)


@network
def deep_time_first() -> Symbol:
    return unrolled(deep(), layout="TNC")


@network
def stepped() -> Symbol:
    """A stack stepped by hand."""
    cell = stack(rnn.LSTMCell(4, prefix="a_"), rnn.DropoutCell(0.5), rnn.ResidualCell(rnn.GRUCell(4, prefix="b_")))
    states, outputs = cell.begin_state(), []
    for step in range(STEPS):
        output, states = cell(data(f"t{step}"), states)
        outputs.append(output)
    return mx.sym.Group(outputs)


# -- networks ---------------------------------------------------------------------------------------------------------


@network
def language_model() -> Symbol:
    """As in MXNet's ``example/rnn/bucketing``: dropout before the softmax is the network's own."""
    embedded = mx.sym.Embedding(data(), input_dim=20, output_dim=6, name="embed")
    cell = stack(rnn.LSTMCell(4, prefix="lstm_l0_"), rnn.DropoutCell(0.5), rnn.LSTMCell(4, prefix="lstm_l1_"))
    outputs = mx.sym.Reshape(unrolled(cell, mx.sym.Dropout(embedded, p=0.1)), shape=(-1, 4))
    scores = mx.sym.FullyConnected(mx.sym.Dropout(outputs, p=0.2), num_hidden=20, name="pred")
    return mx.sym.SoftmaxOutput(scores, name="softmax")


@network
def encoder_decoder() -> Symbol:
    """Attention of a decoder, stepped by hand, over what a fused encoder makes; its state starts as the encoder's."""
    encoder = rnn.FusedRNNCell(4, bidirectional=True, get_next_state=True, prefix="encoder_")
    source = mx.sym.Embedding(data("source"), input_dim=20, output_dim=6, name="embed")
    outputs, (hidden, memory) = encoder.unroll(STEPS, source, merge_outputs=True)
    states = [mx.sym.slice_axis(state, axis=0, begin=0, end=1) for state in (hidden, memory)]
    states = [mx.sym.Reshape(state, shape=(-1, 4)) for state in states]
    decoder, made = rnn.LSTMCell(4, prefix="decoder_"), []
    for step in range(STEPS):
        query = mx.sym.FullyConnected(states[0], num_hidden=8, name=f"query{step}")
        weights = mx.sym.softmax(mx.sym.batch_dot(outputs, mx.sym.expand_dims(query, axis=2)), axis=1)
        context = mx.sym.sum(mx.sym.broadcast_mul(outputs, weights), axis=1)
        output, states = decoder(mx.sym.Concat(data(f"t{step}"), context, dim=1), states)
        made.append(output)
    return mx.sym.Group(made)


@network
def forked() -> Symbol:
    """One cell read by two others."""
    trunk = unrolled(rnn.GRUCell(4, prefix="trunk_"))
    return mx.sym.Group([unrolled(rnn.GRUCell(4, prefix=f"{name}_"), trunk) for name in ("left", "right")])


@network
def twice() -> Symbol:
    """One stack on two inputs."""
    cell = stack(rnn.LSTMCell(4, prefix="a_"), rnn.GRUCell(4, prefix="b_"))
    return mx.sym.Group([unrolled(cell, data("left")), unrolled(cell, data("right"), length=2)])


@network
def handed_on() -> Symbol:
    """A cell whose first input only is another cell's last output."""
    reader = unrolled(rnn.GRUCell(4, prefix="reader_"), merge=False)
    return unrolled(rnn.GRUCell(4, prefix="writer_"), [reader[STEPS - 1], data("one"), data("two")])


@network
def handed_on_and_added() -> Symbol:
    """As before, with the sum of what the first step makes and what the other cell reads at its last."""
    steps = list(mx.sym.split(data(), num_outputs=STEPS, axis=1, squeeze_axis=True))
    reader = unrolled(rnn.GRUCell(4, prefix="reader_"), steps, merge=False)
    writer = unrolled(rnn.GRUCell(4, prefix="writer_"), [reader[STEPS - 1], data("one"), data("two")], merge=False)
    return mx.sym.Group([writer, mx.sym.elemwise_add(writer[0], steps[STEPS - 1])])


@network
def states_handed_on() -> Symbol:
    """A cell that starts from the states another one ends with."""
    steps = [data(f"t{step}") for step in range(STEPS)]
    _, states = rnn.LSTMCell(4, prefix="reader_").unroll(STEPS, steps)
    outputs, _ = rnn.LSTMCell(4, prefix="writer_").unroll(STEPS, steps, begin_state=states)
    return unrolled(rnn.GRUCell(4, prefix="top_"), outputs)


@network
def side_by_side() -> Symbol:
    """Two cells in one direction, joined at every step, the middle one included."""
    return joined(list(mx.sym.split(data(), num_outputs=STEPS, axis=1, squeeze_axis=True)))


@network
def side_by_side_in_steps() -> Symbol:
    """The same over inputs that are no steps of one array."""
    return joined([data(f"t{step}") for step in range(STEPS)])


def joined(steps: list[Symbol]) -> Symbol:
    left, right = (unrolled(rnn.GRUCell(4, prefix=prefix), steps, merge=False) for prefix in ("a_", "b_"))
    return mx.sym.Group([mx.sym.Concat(one, other, dim=1) for one, other in zip(left, right, strict=True)])


@network
def side_by_side_out_of_step() -> Symbol:
    """Two cells in one direction, of which one starts with the last input."""
    steps = [data(f"t{step}") for step in range(STEPS)]
    left = unrolled(rnn.GRUCell(4, prefix="a_"), steps, merge=False)
    right = unrolled(rnn.GRUCell(4, prefix="b_"), [steps[-1], *steps[:-1]], merge=False)
    return mx.sym.Group([mx.sym.Concat(left[step], right[(step + 1) % STEPS], dim=1) for step in range(STEPS)])


@network
def side_by_side_for_one_step() -> Symbol:
    """Two cells stepped once by hand, which go no way at all."""
    inputs, cells = data(), (rnn.GRUCell(4, prefix="a_"), rnn.GRUCell(4, prefix="b_"))
    return mx.sym.Concat(*(cell(inputs, cell.begin_state())[0] for cell in cells), dim=1)


@network
def tried_twice() -> Symbol:
    """A stack, and its first cell once more from the state after one step."""
    first, second = rnn.GRUCell(4, prefix="a_"), rnn.GRUCell(4, prefix="b_")
    one, state = first(data("one"), first.begin_state())
    two, _ = first(data("two"), state)
    other, _ = first(data("other"), state)
    return mx.sym.Group([unrolled(second, [one, two], length=2), other])


@network
def bidirectional_in_steps() -> Symbol:
    """A bidirectional cell, and a residual one around it, over inputs that are no steps of one array."""
    cell = rnn.ResidualCell(bidirectional())
    return unrolled(cell, [data(f"t{step}") for step in range(STEPS)], merge=False)


@network
def bidirectional_in_merged_steps() -> Symbol:
    cell = rnn.ResidualCell(bidirectional())
    return unrolled(cell, [data(f"t{step}") for step in range(STEPS)], merge=True)


@network
def last_only() -> Symbol:
    """A bidirectional cell of whose outputs the last is used."""
    return mx.sym.FullyConnected(unrolled(bidirectional(), merge=False)[STEPS - 1], num_hidden=2, name="pred")


@network
def inconstant_dropout() -> Symbol:
    """Dropout between two cells that is none of a `DropoutCell`: the network drops out at inference, too."""
    below = unrolled(rnn.GRUCell(4, prefix="a_"))
    return unrolled(rnn.GRUCell(4, prefix="b_"), mx.sym.Dropout(below, p=0.5, mode="always"))


# -- other than MXNet's symbolic cells of today -----------------------------------------------------------------------


class OldLSTMCell(rnn.LSTMCell):
    """The LSTM of MXNet's first ``rnn_cell.py``: in_transform is the second slice."""

    def __call__(self, inputs: Symbol, states: list[Symbol]) -> tuple[Symbol, list[Symbol]]:
        self._counter += 1
        name = f"{self._prefix}t{self._counter}_"
        size = self._num_hidden * 4
        i2h = mx.sym.FullyConnected(inputs, self._iW, self._iB, num_hidden=size, name=f"{name}i2h")
        h2h = mx.sym.FullyConnected(states[0], self._hW, self._hB, num_hidden=size, name=f"{name}h2h")
        return old_equation(i2h + h2h, states[1])


def old_equation(gates: Symbol, memory: Symbol) -> tuple[Symbol, list[Symbol]]:
    slices = mx.sym.SliceChannel(gates, num_outputs=4)
    written = mx.sym.Activation(slices[0], act_type="sigmoid") * mx.sym.Activation(slices[1], act_type="tanh")
    kept = mx.sym.Activation(slices[2], act_type="sigmoid") * memory
    memory = kept + written
    hidden = mx.sym.Activation(slices[3], act_type="sigmoid") * mx.sym.Activation(memory, act_type="tanh")
    return hidden, [hidden, memory]


@network
def old_lstm() -> Symbol:
    return unrolled(stack(OldLSTMCell(4, prefix="a_"), rnn.DropoutCell(0.5), rnn.LSTMCell(4, prefix="b_")))


@network
def before_cells() -> Symbol:
    """As in ``example/rnn/lstm.py`` of MXNet 0.8, where there were no cells: two layers with dropout between them."""
    weights = [
        {name: data(f"l{layer}_{name}") for name in ("i2h_weight", "i2h_bias", "h2h_weight", "h2h_bias")}
        for layer in range(2)
    ]
    states = [[data(f"l{layer}_init_h"), data(f"l{layer}_init_c")] for layer in range(2)]
    outputs = []
    for step, below in enumerate(mx.sym.SliceChannel(data(), num_outputs=STEPS, axis=1, squeeze_axis=True)):
        for layer in range(2):
            named = weights[layer]
            below = mx.sym.Dropout(below, p=0.5) if layer else below
            i2h = mx.sym.FullyConnected(
                below, named["i2h_weight"], named["i2h_bias"], num_hidden=16, name=f"t{step}_l{layer}_i2h"
            )
            h2h = mx.sym.FullyConnected(
                states[layer][0], named["h2h_weight"], named["h2h_bias"], num_hidden=16, name=f"t{step}_l{layer}_h2h"
            )
            below, states[layer] = old_equation(i2h + h2h, states[layer][1])
        outputs.append(below)
    return mx.sym.FullyConnected(mx.sym.Concat(*outputs, dim=0), num_hidden=2, name="pred")


@network
def joined_by_hand() -> Symbol:
    """Both directions without a `BidirectionalCell`, as before there was one."""
    steps = list(mx.sym.split(data(), num_outputs=STEPS, axis=1, squeeze_axis=True))
    left = unrolled(rnn.LSTMCell(4, prefix="l0_"), steps, merge=False)
    right = list(unrolled(rnn.LSTMCell(4, prefix="l1_"), steps[::-1], merge=False))[::-1]
    return mx.sym.Group([mx.sym.Concat(one, other, dim=1) for one, other in zip(left, right, strict=True)])


@network
def gluon_layer() -> Symbol:
    return mx.gluon.rnn.GRU(4, num_layers=2, dropout=0.5, bidirectional=True, prefix="layer_")(data())


@network
def gluon_projection() -> Symbol:
    return mx.gluon.rnn.LSTM(4, projection_size=2, prefix="layer_")(data())[0]


@network
def gluon_cells() -> Symbol:
    cell = mx.gluon.rnn.SequentialRNNCell(prefix="")
    cell.add(mx.gluon.rnn.LSTMCell(4, prefix="a_"))
    cell.add(mx.gluon.rnn.DropoutCell(0.5))
    cell.add(mx.gluon.rnn.ResidualCell(mx.gluon.rnn.GRUCell(4, prefix="b_")))
    return cell.unroll(STEPS, data(), merge_outputs=True)[0]


@network
def leaky() -> Symbol:
    """A plain cell whose activation no cell of rnnx has by name."""
    return unrolled(rnn.RNNCell(4, activation=lambda x, name: mx.sym.LeakyReLU(x, slope=0.1, name=name)), length=2)


@network
def leaky_beside_lstm() -> Symbol:
    return mx.sym.Group([leaky(), unrolled(rnn.LSTMCell(4), length=2)])


@network
def convolutional() -> Symbol:
    return unrolled(rnn.ConvLSTMCell((1, 3, 8, 8), 4), length=2, merge=False)


@network
def no_cells() -> Symbol:
    """What a cell's modifiers do, without a cell."""
    inputs = data()
    turned = mx.sym.reverse(mx.sym.Dropout(mx.sym.reverse(inputs, axis=1), p=0.5), axis=1)
    both = mx.sym.Concat(mx.sym.Dropout(inputs, p=0.5), turned, dim=2)
    added = mx.sym.elemwise_add(mx.sym.Dropout(inputs, p=0.5), inputs)
    return mx.sym.Group([both, mx.sym.SoftmaxOutput(mx.sym.FullyConnected(added, num_hidden=4), name="softmax")])


def as_of_0_8(symbol: dict[str, Any]) -> dict[str, Any]:
    """Spell a symbol as MXNet 0.8 did: other names, ``param`` for ``attrs``, no versions of inputs."""
    nodes = [
        {
            "op": OLD_OPERATORS.get(node["op"], node["op"]),
            "param": {} if node["op"] == "null" else node.get("attrs", {}),
            "name": node["name"],
            "inputs": [entry[:2] for entry in node["inputs"]],
            "backward_source_id": -1,
            **({"attr": node["attrs"]} if node["op"] == "null" and "attrs" in node else {}),
        }
        for node in symbol["nodes"]
    ]
    return {"nodes": nodes, "arg_nodes": symbol["arg_nodes"], "heads": [entry[:2] for entry in symbol["heads"]]}


def as_of_0_9(symbol: dict[str, Any]) -> dict[str, Any]:
    """Spell a symbol as MXNet 0.9 did: ``attr``, and sums and products as it had them."""
    operators = {"elemwise_add": "broadcast_add", "elemwise_mul": "broadcast_mul"}
    nodes = [
        {**node, "op": operators.get(node["op"], node["op"]), "attr": node.get("attrs", {})} for node in symbol["nodes"]
    ]
    for node in nodes:
        node.pop("attrs", None)
    return {**symbol, "nodes": nodes}


def write(name: str, symbol: dict[str, Any]) -> None:
    (TARGET / f"{name}.json").write_text(json.dumps(symbol, separators=(",", ":")) + "\n")


def main() -> None:
    warnings.simplefilter("ignore")
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, build in NETWORKS.items():
        with mx.name.NameManager():
            symbol = json.loads(build().tojson())
        write(name, symbol)
        if name in ("before_cells", "fused", "gru"):
            write(f"{name}_0_8", as_of_0_8(symbol))
        if name in ("old_lstm", "gru"):
            write(f"{name}_0_9", as_of_0_9(symbol))


if __name__ == "__main__":
    main()

"""Cell trees to compare, each a function of the module that has the classes. Their inputs are 3 wide."""

from __future__ import annotations

from .bridge import Build, stacked

#: The activations that MXNet's ``Activation`` takes.
ACTIVATIONS = ("relu", "sigmoid", "tanh", "softrelu", "softsign")

MODES = ("lstm", "gru", "rnn_tanh", "rnn_relu")

PLAIN: dict[str, Build] = {
    "lstm": lambda rnn: rnn.LSTMCell(4),
    "gru": lambda rnn: rnn.GRUCell(4),
    **{f"rnn {name}": lambda rnn, name=name: rnn.RNNCell(4, activation=name) for name in ACTIVATIONS},
}

STACKS: dict[str, Build] = {
    "lstm on gru": lambda rnn: stacked(rnn, rnn.GRUCell(4), rnn.LSTMCell(5)),
    "equal lstms": lambda rnn: stacked(
        rnn, rnn.LSTMCell(4, prefix="a_"), rnn.LSTMCell(4, prefix="b_"), rnn.LSTMCell(4, prefix="c_")
    ),
    "stack in a stack": lambda rnn: stacked(
        rnn,
        rnn.GRUCell(4),
        stacked(rnn, rnn.LSTMCell(2), stacked(rnn, rnn.RNNCell(5))),
        rnn.LSTMCell(3, prefix="last_"),
    ),
    "fused under plain": lambda rnn: stacked(rnn, rnn.FusedRNNCell(4, get_next_state=True), rnn.GRUCell(2)),
    "fused on plain": lambda rnn: stacked(rnn, rnn.GRUCell(2), rnn.FusedRNNCell(4, 2, get_next_state=True)),
    "fused that keeps its states": lambda rnn: stacked(
        rnn, rnn.FusedRNNCell(4, mode="gru"), rnn.LSTMCell(2), rnn.FusedRNNCell(3, mode="rnn_tanh")
    ),
    "shared weights": lambda rnn: _shared(rnn),
    "fused with shared weights": lambda rnn: _shared_by_fused(rnn),
    "weights under another prefix": lambda rnn: stacked(
        rnn, rnn.GRUCell(4, params=rnn.RNNParams("a_")), rnn.FusedRNNCell(4, params=rnn.RNNParams("b_"))
    ),
}

BIDIRECTIONAL: dict[str, Build] = {
    "two lstms": lambda rnn: rnn.BidirectionalCell(rnn.LSTMCell(4, prefix="l_"), rnn.LSTMCell(4, prefix="r_")),
    "gru and gru": lambda rnn: rnn.BidirectionalCell(rnn.GRUCell(4, prefix="l_"), rnn.GRUCell(4, prefix="r_")),
    "lstm and gru": lambda rnn: rnn.BidirectionalCell(rnn.LSTMCell(4), rnn.GRUCell(2)),
    "relu and softsign": lambda rnn: rnn.BidirectionalCell(
        rnn.RNNCell(2, "relu", prefix="l_"), rnn.RNNCell(5, "softsign", prefix="r_")
    ),
    "fused and plain": lambda rnn: rnn.BidirectionalCell(
        rnn.FusedRNNCell(4, get_next_state=True), rnn.GRUCell(2), output_prefix="both_"
    ),
    "two fused": lambda rnn: rnn.BidirectionalCell(
        rnn.FusedRNNCell(4, get_next_state=True), rnn.FusedRNNCell(2, mode="gru", get_next_state=True)
    ),
    "one set of weights": lambda rnn: _one_set(rnn),
    "a stack on either side": lambda rnn: rnn.BidirectionalCell(
        stacked(rnn, rnn.GRUCell(4), rnn.LSTMCell(2)), stacked(rnn, rnn.RNNCell(4), rnn.RNNCell(3, prefix="top_"))
    ),
    "within another": lambda rnn: rnn.BidirectionalCell(
        rnn.BidirectionalCell(rnn.LSTMCell(2), rnn.GRUCell(4)), rnn.RNNCell(3)
    ),
    "two layers": lambda rnn: stacked(
        rnn,
        rnn.BidirectionalCell(rnn.LSTMCell(4, prefix="l0_"), rnn.LSTMCell(4, prefix="r0_")),
        rnn.BidirectionalCell(rnn.LSTMCell(4, prefix="l1_"), rnn.LSTMCell(4, prefix="r1_")),
    ),
}

RESIDUAL: dict[str, Build] = {
    "around lstm": lambda rnn: rnn.ResidualCell(rnn.LSTMCell(3)),
    "around fused": lambda rnn: rnn.ResidualCell(rnn.FusedRNNCell(3, 2, mode="gru", get_next_state=True)),
    "around a stack": lambda rnn: rnn.ResidualCell(stacked(rnn, rnn.GRUCell(4), rnn.LSTMCell(3))),
    "around bidirectional": lambda rnn: rnn.ResidualCell(rnn.BidirectionalCell(rnn.LSTMCell(2), rnn.GRUCell(1))),
    "around residual": lambda rnn: rnn.ResidualCell(rnn.ResidualCell(rnn.GRUCell(3))),
    "in a stack": lambda rnn: stacked(
        rnn,
        rnn.LSTMCell(4, prefix="a_"),
        rnn.ResidualCell(rnn.LSTMCell(4, prefix="b_")),
        rnn.ResidualCell(rnn.RNNCell(4, "sigmoid")),
    ),
    "in bidirectional": lambda rnn: rnn.BidirectionalCell(rnn.ResidualCell(rnn.LSTMCell(3)), rnn.GRUCell(2)),
}

#: These change only in training, and are compared out of it.
INFERENCE: dict[str, Build] = {
    "dropout": lambda rnn: rnn.DropoutCell(0.5),
    "dropout first": lambda rnn: stacked(rnn, rnn.DropoutCell(0.5), rnn.LSTMCell(4)),
    "dropout last": lambda rnn: stacked(rnn, rnn.LSTMCell(4), rnn.DropoutCell(0.5)),
    "dropout between": lambda rnn: stacked(
        rnn, rnn.LSTMCell(4, prefix="a_"), rnn.DropoutCell(0.3), rnn.LSTMCell(4, prefix="b_")
    ),
    "dropout after fused": lambda rnn: stacked(rnn, rnn.FusedRNNCell(4, get_next_state=True), rnn.DropoutCell(0.5)),
    "dropout in bidirectional": lambda rnn: rnn.BidirectionalCell(
        stacked(rnn, rnn.LSTMCell(4), rnn.DropoutCell(0.5)), rnn.GRUCell(2)
    ),
    "bidirectional dropout under lstm": lambda rnn: stacked(
        rnn, rnn.BidirectionalCell(rnn.DropoutCell(0.5), rnn.DropoutCell(0.5)), rnn.LSTMCell(4)
    ),
    "residual around dropout": lambda rnn: rnn.ResidualCell(rnn.DropoutCell(0.5)),
    "fused with dropout": lambda rnn: rnn.FusedRNNCell(4, 2, dropout=0.5, get_next_state=True),
    "zoneout": lambda rnn: rnn.ZoneoutCell(rnn.LSTMCell(4), 0.3, 0.6),
    "zoneout of outputs": lambda rnn: rnn.ZoneoutCell(rnn.GRUCell(4), zoneout_outputs=0.3),
    "zoneout of residual": lambda rnn: rnn.ZoneoutCell(rnn.ResidualCell(rnn.GRUCell(3)), 0.3, 0.6),
    "residual of zoneout": lambda rnn: rnn.ResidualCell(rnn.ZoneoutCell(rnn.GRUCell(3), 0.3, 0.6)),
    "zoneout in a stack": lambda rnn: stacked(
        rnn, rnn.ZoneoutCell(rnn.LSTMCell(4), 0.3, 0.6), rnn.GRUCell(2), rnn.ZoneoutCell(rnn.RNNCell(5), 0.1, 0.2)
    ),
    "zoneout in bidirectional": lambda rnn: rnn.BidirectionalCell(
        rnn.ZoneoutCell(rnn.LSTMCell(4), 0.3, 0.6), rnn.ZoneoutCell(rnn.GRUCell(2), 0.3, 0.6)
    ),
}


def _fused(mode: str, layers: int, directions: int) -> Build:
    return lambda rnn: rnn.FusedRNNCell(4, layers, mode, bidirectional=directions == 2, get_next_state=True)


FUSED: dict[str, Build] = {
    f"fused {mode}, {layers} layers, {directions} directions": _fused(mode, layers, directions)
    for mode in MODES
    for layers in (1, 2, 3)
    for directions in (1, 2)
}

#: All that is no fused cell.
COMPOSED: dict[str, Build] = {
    f"{family}: {name}" if family else name: build
    for family, trees in {
        "": PLAIN,
        "stack": STACKS,
        "bidirectional": BIDIRECTIONAL,
        "residual": RESIDUAL,
        "inference": INFERENCE,
    }.items()
    for name, build in trees.items()
}

TREES: dict[str, Build] = {**COMPOSED, **FUSED}


def _shared(rnn):
    first = rnn.LSTMCell(3, prefix="a_")
    return stacked(rnn, first, rnn.GRUCell(3), rnn.LSTMCell(3, prefix="b_", params=first.params))


def _shared_by_fused(rnn):
    first = rnn.FusedRNNCell(3, prefix="a_", get_next_state=True)
    return stacked(rnn, first, rnn.FusedRNNCell(3, prefix="b_", params=first.params, get_next_state=True))


def _one_set(rnn):
    forward = rnn.GRUCell(4, prefix="l_")
    return rnn.BidirectionalCell(forward, rnn.GRUCell(4, prefix="r_", params=forward.params))

"""`rnnx_tensorflow.RNNLayer`: NumPy's numbers, and those of Keras's own layers where there is one."""

from __future__ import annotations

import numpy as np
import pytest

import networks
import rnnx
from kerased import (
    BATCH,
    HIDDEN,
    LENGTHS,
    MASK,
    STEPS,
    THEIR_WARNINGS,
    TREES,
    WIDTH,
    assert_close,
    batch_first,
    begin_of,
    copied,
    fused,
    gradients,
    inputs_of,
    keras,
    keras_layer,
    layer_of,
    padded,
    tf,
    unrolled,
    weighted,
    zoned,
)
from networks import sequential
from rnnx_tensorflow import RNNLayer

pytestmark = THEIR_WARNINGS

L = keras.layers
PLAIN = {"lstm": rnnx.LSTMCell, "gru": rnnx.GRUCell, "simple": rnnx.RNNCell}


# -- what it computes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("masked", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("name", TREES)
def test_outputs_states_and_gradients_are_numpys(name, masked, graph):
    cell = weighted(TREES[name]())
    begin, rng = begin_of(cell), np.random.default_rng(2)
    lengths = LENGTHS if masked else None
    expected, expected_states, pull = cell.vjp(None, inputs_of(), begin, merge_outputs=True, valid_length=lengths)
    slopes = [rng.normal(size=array.shape) for array in [expected, *networks.leaves(expected_states)]]
    judge = pull(slopes[0], slopes[1:])
    of_states = batch_first(cell, slopes[1:])

    layer = RNNLayer(cell, return_sequences=True, return_state=True)
    given = [tf.constant(inputs_of()), *map(tf.constant, batch_first(cell, begin))]

    def run(inputs, *states):
        with tf.GradientTape() as tape:
            tape.watch([inputs, *states])
            found = layer(inputs, initial_state=list(states), mask=MASK if masked else None)
        sources = [inputs, *states, *layer.trainable_variables]
        return found, tape.gradient(found, sources, [slopes[0], *of_states])

    found, slope = (tf.function(run) if graph else run)(*given)
    assert_close(found, [expected, *batch_first(cell, expected_states)])
    of_begin = batch_first(cell, judge.begin_state)
    assert_close(slope, [judge.inputs, *of_begin, *judge.weights.values()], 1e-11)


@pytest.mark.parametrize("whole", [True, False], ids=["sequences", "last"])
@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
@pytest.mark.parametrize("kind", PLAIN)
def test_a_plain_cell_is_the_layer_of_keras(kind, masked, whole):
    cell = weighted(PLAIN[kind](HIDDEN))
    layer = RNNLayer(cell, return_sequences=whole, return_state=True)
    options = {"mask": MASK if masked else None, "initial_state": begin_of(cell)}
    outputs, *states = layer(inputs_of(), **options)
    expected, *expected_states = keras_layer(cell, return_sequences=whole, return_state=True)(inputs_of(), **options)
    if masked and whole:
        assert not np.asarray(outputs)[~MASK].any()
        outputs, expected = np.asarray(outputs)[MASK], np.asarray(expected)[MASK]
    if masked and not whole:  # of a row without steps Keras's RNN gives what its padding computes to, or zeros
        assert not np.asarray(outputs)[1].any()
        outputs, expected = np.delete(outputs, 1, 0), np.delete(expected, 1, 0)
    assert_close([outputs, *states], [expected, *expected_states])


@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
@pytest.mark.parametrize("kind", PLAIN)
def test_the_last_output_of_two_directions_is_that_of_keras(kind, masked):
    cells = weighted(PLAIN[kind](HIDDEN, prefix="ahead_")), weighted(PLAIN[kind](HIDDEN, prefix="back_"))
    judge = L.Bidirectional(
        keras_layer(cells[0]), backward_layer=keras_layer(cells[1], go_backwards=True), dtype="float64"
    )
    mask = np.arange(STEPS) < np.maximum(LENGTHS, 1)[:, None] if masked else None
    judge.build((BATCH, STEPS, WIDTH))
    judge.set_weights([*keras_layer(cells[0]).get_weights(), *keras_layer(cells[1]).get_weights()])
    found = RNNLayer(rnnx.BidirectionalCell(*cells))(inputs_of(), mask=mask)
    assert_close(found, judge(inputs_of(), mask=mask))


@pytest.mark.parametrize(
    ("make", "backward"),
    [
        (lambda: fused("gru"), [4, 5, 6, 7]),
        (lambda: sequential(fused("gru"), rnnx.DropoutCell(0.5)), [4, 5, 6, 7]),
        (lambda: sequential(fused("gru"), rnnx.ResidualCell(fused("lstm", prefix="top_"))), [4, 5, 6, 7]),
        (lambda: sequential(fused("gru"), rnnx.GRUCell(3, "top_")), []),
        (zoned, [2, 3, 4]),
        (
            lambda: rnnx.BidirectionalCell(
                rnnx.BidirectionalCell(rnnx.LSTMCell(2, "a_"), rnnx.LSTMCell(1, "b_")),
                sequential(rnnx.DropoutCell(0.1), rnnx.BidirectionalCell(rnnx.GRUCell(3, "c_"), rnnx.GRUCell(2, "d_"))),
            ),
            [2, 3, 4, 5],
        ),
        (lambda: rnnx.DropoutCell(0.5), []),
    ],
)
def test_the_last_output_of_a_tree_is_each_directions_own_last_step(make, backward):
    cell = make()
    if len(cell.state_info):
        weighted(cell)
    for lengths, mask in ((np.full(BATCH, STEPS), None), (LENGTHS, MASK)):
        layer = RNNLayer(cell, dtype="float64")
        expected, _ = unrolled(layer.cell, inputs_of(), valid_length=lengths)
        last = expected[np.arange(BATCH), np.maximum(lengths - 1, 0)]
        last[:, backward] = expected[:, 0, backward]
        assert_close(layer(inputs_of(), mask=mask), last)


def test_it_steps_where_that_is_asked_for():
    layer, other = layer_of(fused(), fuse=False), layer_of(fused())
    assert set(layer.explain(inputs_of()).kernels) == {"tensorflow.loop"}
    assert set(layer.explain(inputs_of(), MASK, training=True).kernels) == {"tensorflow.loop", "tensorflow.dropout"}
    assert "training" in str(layer.explain(inputs_of(), training=True))
    assert layer.explain(inputs_of("float32")).call.dtype == "float64"
    assert_close(layer(inputs_of()), other(inputs_of()))


def test_batches_may_be_empty():
    outputs, *states = layer_of(fused(), return_sequences=True, return_state=True)(inputs_of()[:0])
    assert outputs.shape == (0, STEPS, 2 * HIDDEN)
    assert [tuple(state.shape) for state in states] == [(0, 4, HIDDEN)] * 2


# -- masks ------------------------------------------------------------------------------------------------------------


def test_a_mask_of_keras_reaches_every_layer_that_follows():
    first, second = layer_of(rnnx.GRUCell(WIDTH, "a_"), return_sequences=True), layer_of(rnnx.LSTMCell(HIDDEN, "b_"))
    model = keras.Sequential([L.Input((None, WIDTH), dtype="float64"), L.Masking(dtype="float64"), first, second])
    between, _ = unrolled(first.cell, padded(), valid_length=LENGTHS)
    _, states = unrolled(second.cell, between, valid_length=LENGTHS)
    assert_close(model(padded()), states[0])
    assert_close(model.predict(padded("float32"), verbose=0), states[0], 1e-6)
    assert second.compute_mask(padded(), MASK) is None


def test_the_mask_of_an_embedding_reaches_it():
    tokens = np.where(MASK, np.random.default_rng(0).integers(1, 9, MASK.shape), 0)
    embed, layer = L.Embedding(9, WIDTH, mask_zero=True, dtype="float64"), layer_of(zoned(), return_sequences=True)
    outputs = layer(embed(tokens))
    expected, _ = unrolled(layer.cell, np.asarray(embed(tokens)), valid_length=LENGTHS)
    assert_close(outputs, expected)
    np.testing.assert_array_equal(outputs._keras_mask, MASK)


@pytest.mark.parametrize("state", [False, True])
def test_a_mask_reaches_it_beside_initial_states(state):
    layer = layer_of(rnnx.LSTMCell(HIDDEN), return_state=state)
    sequences, states = L.Input((None, WIDTH), dtype="float64"), [L.Input((HIDDEN,), dtype="float64") for _ in range(2)]
    model = keras.Model([sequences, *states], layer(L.Masking(dtype="float64")(sequences), initial_state=states))
    begin = begin_of(layer.cell)
    _, final = unrolled(layer.cell, padded(), begin_state=begin, valid_length=LENGTHS)
    last = np.where(LENGTHS[:, None] > 0, final[0], 0)
    assert_close(model([padded(), *begin]), [last, *final] if state else last)


def test_a_mask_that_is_not_padding_on_the_right_is_refused():
    layer = layer_of(rnnx.LSTMCell(HIDDEN))
    holes = MASK[:, ::-1]
    with pytest.raises(rnnx.ShapeError, match="a step that does not count before one that does"):
        layer(inputs_of(), mask=holes)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a step that does not count before one that does"):
        tf.function(layer)(tf.constant(inputs_of()), mask=tf.constant(holes))
    with pytest.raises(rnnx.ShapeError, match=r"the mask has shape \(4, 4\), expected \(4, 5\)"):
        layer(inputs_of(), mask=MASK[:, 1:])


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("name", ["lstm", "zoned", "own"])
def test_training_draws_anew_in_each_call_and_a_seed_repeats_it(name, graph):
    layers = [layer_of(TREES[name](), return_sequences=True, seed=7) for _ in range(2)]
    still = layers[0](inputs_of())
    assert_close(layers[0](inputs_of(), training=False), still, 0)
    run, again = (tf.function(layer) if graph else layer for layer in layers)
    first, second = (run(tf.constant(inputs_of()), training=True) for _ in range(2))
    for one, other in ((first, still), (second, still), (first, second)):
        assert not np.allclose(one, other)
    assert_close(again(tf.constant(inputs_of()), training=True), first, 0)
    assert not np.allclose(layer_of(TREES[name](), return_sequences=True, seed=8)(inputs_of(), training=True), first)


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_set_random_seed_repeats_weights_and_draws(graph):
    def made():
        keras.utils.set_random_seed(5)
        layer = RNNLayer(fused(), return_sequences=True, dtype="float64")
        run = tf.function(layer) if graph else layer
        outputs = run(tf.constant(inputs_of()), training=True)
        return [outputs, *layer.get_weights(), run(tf.constant(inputs_of()), training=True)]

    assert_close(made(), made(), 0)


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_dropout_drops_its_share_and_each_element_by_itself(graph):
    layer = RNNLayer(sequential(rnnx.DropoutCell(0.25), rnnx.DropoutCell(0.5)), return_sequences=True, seed=1)
    inputs = tf.ones((40, 30, WIDTH))
    first, second = ((tf.function(layer) if graph else layer)(inputs, training=True).numpy() for _ in range(2))
    assert set(np.unique(first)) == {0.0, np.float32(1 / 0.375)} == set(np.unique(second))
    kept = first > 0
    assert abs(kept.mean() - 0.375) < 5 * np.sqrt(0.375 * 0.625 / kept.size)
    for axis in range(3):
        assert (kept != np.roll(kept, 1, axis)).mean() > 0.4
    assert (kept != (second > 0)).mean() > 0.4


def test_zoneout_draws_anew_at_each_step():
    layer = layer_of(rnnx.ZoneoutCell(rnnx.RNNCell(64, prefix="a_"), 0.5), return_sequences=True)
    outputs = np.asarray(tf.function(layer)(tf.constant(inputs_of(steps=8)), training=True))
    stays = outputs[:, 1:] == outputs[:, :-1]
    assert 0.4 < stays.mean() < 0.6
    assert all(not np.array_equal(stays[:, one], stays[:, one + 1]) for one in range(6))


def test_the_gradient_is_of_what_was_drawn():
    """A central difference of the loss with the same draws."""
    layer, direction = layer_of(zoned(), return_sequences=True, seed=3), np.random.default_rng(4)
    layer(inputs_of())
    start = layer.get_weights()
    ways = [direction.normal(size=each.shape) for each in start]

    def loss(step: float) -> float:
        other = copied(layer)
        other.set_weights([each + step * way for each, way in zip(start, ways, strict=True)])
        return float(tf.reduce_sum(tf.square(other(inputs_of(), training=True))))

    slope = sum(
        np.vdot(one, way) for one, way in zip(gradients(copied(layer), inputs_of(), training=True), ways, strict=True)
    )
    assert slope == pytest.approx((loss(1e-6) - loss(-1e-6)) / 2e-6, rel=1e-6)


def test_two_calls_of_one_layer_in_a_graph_draw_apart_and_share_the_weights():
    layer = layer_of(zoned(), return_sequences=True)
    inputs = L.Input((None, WIDTH), dtype="float64")
    model = keras.Model(inputs, [layer(inputs), layer(inputs)])
    assert len(model.weights) == len(layer.weights)
    one, other = model(inputs_of(), training=True)
    assert not np.allclose(one, other)
    assert_close(*model(inputs_of()), 0)
    with tf.GradientTape() as tape:
        loss = tf.add_n([tf.reduce_sum(tf.square(each)) for each in model(inputs_of())])
    twice = [2 * each for each in gradients(layer, inputs_of())]
    assert_close(tape.gradient(loss, layer.trainable_variables), twice, 1e-11)


# -- states -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("name", ["plain", "own", "forward"])
def test_a_stateful_layer_goes_on_where_it_ended(name, graph):
    trees = {**TREES, "forward": lambda: rnnx.FusedRNNCell(HIDDEN, 2, "gru")}
    layer = layer_of(trees[name](), stateful=True, return_sequences=True)
    run = tf.function(layer) if graph else layer
    expected, final = unrolled_whole(layer)
    for _ in range(2):
        halves = [run(tf.constant(part)) for part in (inputs_of()[:, :2], inputs_of()[:, 2:])]
        assert_close(tf.concat(halves, 1), expected)
        assert_close(layer.states, final)
        layer.reset_states()
        assert not any(np.asarray(state).any() for state in layer.states)
    assert not any("state" in weight.path for weight in layer.weights)


def unrolled_whole(layer: RNNLayer) -> tuple[np.ndarray, list[np.ndarray]]:
    outputs, *states = layer_of(layer.cell, return_sequences=True, return_state=True)(inputs_of())
    return outputs, states


def test_a_stateful_layer_does_as_keras_does():
    cell = weighted(rnnx.LSTMCell(HIDDEN))
    both = [RNNLayer(cell, stateful=True), keras_layer(cell, stateful=True)]
    models = [keras.Sequential([L.Input(batch_shape=(BATCH, None, WIDTH), dtype="float64"), each]) for each in both]
    for _ in range(2):
        assert_close(*(model.predict(inputs_of(), batch_size=BATCH, verbose=0) for model in models))
        assert_close(*(model(inputs_of(), training=True) for model in models))
        begin = begin_of(cell)
        assert_close(*(each(inputs_of(), initial_state=begin) for each in both))
    for each in both:
        each.reset_state()
    assert_close(*(model(inputs_of()) for model in models))


def test_a_stateful_layer_needs_the_size_of_its_batches():
    with pytest.raises(rnnx.ShapeError, match="has to know the size of its batches"):
        layer_of(rnnx.LSTMCell(HIDDEN), stateful=True)(L.Input((None, WIDTH), dtype="float64"))
    layer = layer_of(rnnx.LSTMCell(HIDDEN), stateful=True)
    layer(inputs_of())
    with pytest.raises(rnnx.ShapeError, match=r"initial_state\[0\] has shape \(4, 4\), expected \(2, 4\)"):
        layer(inputs_of(batch=2))
    layer_of(rnnx.LSTMCell(HIDDEN)).reset_states()


def test_initial_states_are_taken_in_every_form():
    layer = layer_of(rnnx.BidirectionalCell(rnnx.LSTMCell(HIDDEN, "l_"), rnnx.GRUCell(2, "r_")), return_state=True)
    begin = begin_of(layer.cell)
    expected = layer(inputs_of(), initial_state=begin)
    assert not np.allclose(expected[0], layer(inputs_of())[0])
    for given in (tuple(begin), [begin[:2], begin[2:]], list(map(tf.constant, begin)), list(map(tf.Variable, begin))):
        assert_close(layer(inputs_of(), initial_state=given), expected, 0)
    assert_close(layer(tf.constant(inputs_of()), begin), expected, 0)
    outputs, final = layer_of(rnnx.GRUCell(2), return_state=True)(inputs_of(), initial_state=begin[2])
    assert_close(outputs, final, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda states: states[:1], "initial_state holds 1 arrays, expected 2"),
        (
            lambda states: [states[0], states[1][:, :2]],
            r"initial_state\[1\] has shape \(4, 2, 4\), expected \(4, 4, 4\)",
        ),
    ],
)
def test_states_that_do_not_fit_are_refused(change, message):
    layer = layer_of(fused())
    with pytest.raises(rnnx.ShapeError, match=message):
        layer(inputs_of(), initial_state=change(batch_first(layer.cell, begin_of(layer.cell))))

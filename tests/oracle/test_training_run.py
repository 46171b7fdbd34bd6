"""A language model trained by MXNet and by rnnx from the same weights comes down the same curve."""

from __future__ import annotations

import numpy as np

import rnnx

from .bridge import Array, mx, random_array

STEPS, RATE = 300, 2.0
WORDS, WIDTH, HIDDEN = 12, 6, 10
BATCH, LENGTH = 8, 7


def rnn_cell(rnn):
    return rnn.FusedRNNCell(HIDDEN, num_layers=2, mode="lstm", prefix="lstm_")


def initial_weights() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    cell = rnn_cell(rnnx)
    cell.initialize(WIDTH)
    shapes = {
        "embed_weight": (WORDS, WIDTH),
        "pred_weight": (WORDS, HIDDEN),
        "pred_bias": (WORDS,),
        **{name: array.shape for name, array in cell.get_params().items()},
    }
    return {name: np.float32(0.9) * random_array(rng, *shape) for name, shape in shapes.items()}


def text(length: int) -> Array:
    """Return words that are mostly told by the two before: something to learn, and something that cannot be."""
    rng = np.random.default_rng(1)
    words = [1, 2]
    for surprise in rng.random(length):
        words.append(int(rng.integers(WORDS)) if surprise < 0.1 else (2 * words[-1] + words[-2] + 1) % WORDS)
    return np.array(words)


def batches() -> list[tuple[Array, Array]]:
    """Return the words and the words that follow, (N, T) each, of every step."""
    words, rng = text(2000), np.random.default_rng(2)
    starts = rng.integers(0, len(words) - LENGTH - 1, (STEPS, BATCH))
    windows = words[starts[..., None] + np.arange(LENGTH + 1)]
    return [(window[:, :-1], window[:, 1:]) for window in windows]


def mean_loss(probabilities: Array, following: Array) -> float:
    """Return the mean negative log-likelihood of (N * T, V) probabilities, as MXNet's perplexity takes it."""
    chosen = probabilities[np.arange(following.size), following.ravel()]
    return float(-np.log(chosen.astype(np.float64)).mean())


def losses_of_mxnet(weights: dict[str, Array]) -> list[float]:
    data, label = mx.sym.Variable("data"), mx.sym.Variable("softmax_label")
    embedded = mx.sym.Embedding(data, input_dim=WORDS, output_dim=WIDTH, name="embed")
    outputs, _ = rnn_cell(mx.rnn).unroll(LENGTH, embedded, layout="NTC", merge_outputs=True)
    scores = mx.sym.FullyConnected(mx.sym.reshape(outputs, (-1, HIDDEN)), num_hidden=WORDS, name="pred")
    network = mx.sym.SoftmaxOutput(scores, mx.sym.reshape(label, (-1,)), name="softmax")
    module = mx.mod.Module(network)
    module.bind([("data", (BATCH, LENGTH))], [("softmax_label", (BATCH, LENGTH))])
    module.init_params(arg_params={name: mx.nd.array(array) for name, array in weights.items()})
    module.init_optimizer(
        optimizer="sgd", optimizer_params={"learning_rate": RATE, "rescale_grad": 1 / (BATCH * LENGTH)}
    )
    losses = []
    for words, following in batches():
        batch = mx.io.DataBatch([mx.nd.array(words)], [mx.nd.array(following)])
        module.forward_backward(batch)
        losses.append(mean_loss(module.get_outputs()[0].asnumpy(), following))
        module.update()
    return losses


def losses_of_rnnx(weights: dict[str, Array]) -> list[float]:
    cell = rnn_cell(rnnx)
    cell.load_params(weights, ignore_extra=True)
    others = {name: weights[name].copy() for name in ("embed_weight", "pred_weight", "pred_bias")}
    losses = []
    for words, following in batches():
        probabilities, gradients = gradients_of(cell, others, words, following)
        losses.append(mean_loss(probabilities, following))
        for name, gradient in gradients.items():
            (others if name in others else cell.params)[name] -= np.float32(RATE) * gradient
    return losses


def gradients_of(cell, others: dict[str, Array], words: Array, following: Array) -> tuple[Array, dict[str, Array]]:
    """Return the probabilities (N * T, V) and the gradients of the mean loss, all but the cell's by hand."""
    outputs, _, pullback = cell.vjp(None, others["embed_weight"][words], merge_outputs=True)
    hidden = outputs.reshape(-1, HIDDEN)
    scores = hidden @ others["pred_weight"].T + others["pred_bias"]
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    of_scores = (probabilities - np.eye(WORDS, dtype=np.float32)[following.ravel()]) / np.float32(words.size)
    found = pullback((of_scores @ others["pred_weight"]).reshape(outputs.shape))
    of_embedding = np.zeros_like(others["embed_weight"])
    np.add.at(of_embedding, words, found.inputs)
    by_hand = {"embed_weight": of_embedding, "pred_weight": of_scores.T @ hidden, "pred_bias": of_scores.sum(axis=0)}
    return probabilities, {**by_hand, **found.weights}


def test_the_loss_comes_down_the_same_curve():
    weights = initial_weights()
    expected, found = losses_of_mxnet(weights), losses_of_rnnx(weights)
    assert len(expected) == STEPS
    assert np.mean(expected[-20:]) < 0.7 * expected[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4)

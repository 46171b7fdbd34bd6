"""A language model that MXNet trained by stochastic gradient descent comes down the same curve on every backend."""

from __future__ import annotations

import os

import numpy as np
import pytest

from sgd_curve import Run, assert_same_curve, runs

RUNS = runs()
OTHERS = ("embed_weight", "pred_weight", "pred_bias")

all_runs = pytest.mark.parametrize("name", RUNS)
fused_or_not = pytest.mark.parametrize("fuse", [True, False], ids=["fused", "stepped"])


def test_the_runs_learn_in_buckets_of_several_lengths():
    for run in RUNS.values():
        assert len(run.losses) == len(run.batches) == 200
        assert run.losses[-20:].mean() < 0.6 * run.losses[0]
        assert len({words.shape[1] for words, _ in run.batches}) == 3
    assert {run.momentum for run in RUNS.values()} == {0.0, 0.9}
    assert {run.mode for run in RUNS.values()} == {"lstm", "gru"}


class NumpyTrainer:
    """`BaseRNNCell.vjp` for the recurrent part, and the rest by hand."""

    def __init__(self, run: Run, fuse: bool) -> None:
        self.run, self.fuse, self.cell = run, fuse, run.cell()
        others = {name: run.weights[name].copy() for name in OTHERS}
        self.weights = {**others, **dict(self.cell.params.items())}
        self.velocity = {name: np.zeros_like(array) for name, array in self.weights.items()}

    def kernels(self, words: np.ndarray) -> set[str]:
        inputs = self.weights["embed_weight"][words]
        return set(self.cell.explain(inputs, training=True, fuse=self.fuse).kernels)

    def step(self, words: np.ndarray, following: np.ndarray) -> float:
        loss, gradients = self.gradients(words, following)
        for name, gradient in gradients.items():
            self.velocity[name] *= self.run.momentum
            self.velocity[name] -= self.run.rate * gradient
            self.weights[name] += self.velocity[name]
        return loss

    def gradients(self, words: np.ndarray, following: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        embedding, decoder, bias = (self.weights[name] for name in OTHERS)
        outputs, _, pullback = self.cell.vjp(
            None, embedding[words], merge_outputs=True, training=True, seed=0, fuse=self.fuse
        )
        hidden = outputs.reshape(-1, self.run.hidden)
        loss, of_scores = self.cross_entropy(hidden @ decoder.T + bias, following.ravel())
        found = pullback((of_scores @ decoder).reshape(outputs.shape))
        of_embedding = np.zeros_like(embedding)
        np.add.at(of_embedding, words, found.inputs)
        by_hand = zip(OTHERS, (of_embedding, of_scores.T @ hidden, of_scores.sum(0)), strict=True)
        return loss, {**dict(by_hand), **found.weights}

    def cross_entropy(self, scores: np.ndarray, following: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the mean over the words that count, and its gradient."""
        logarithms = scores - np.logaddexp.reduce(scores, 1, keepdims=True)
        counts = following != self.run.padding
        places = np.arange(len(following))
        of_scores = np.exp(logarithms)
        of_scores[places, following] -= 1
        of_scores *= counts[:, None] / np.float32(counts.sum())
        return float(-logarithms[places, following][counts].mean(dtype=np.float64)), of_scores


@fused_or_not
@all_runs
def test_numpy(name, fuse):
    run = RUNS[name]
    assert_same_curve(NumpyTrainer(run, fuse), run, f"numpy.{run.mode}" if fuse else "numpy.loop")


class TorchTrainer:
    """`rnnx_torch.RNNModule` between torch's own layers, with torch's own optimiser."""

    def __init__(self, run: Run, fuse: bool) -> None:
        torch = pytest.importorskip("torch", reason="PyTorch is not installed")
        from rnnx_torch import RNNModule

        embedding, decoder, bias = (torch.from_numpy(run.weights[name].copy()) for name in OTHERS)
        self.torch = torch
        self.embedding = torch.nn.Embedding.from_pretrained(embedding, freeze=False)
        self.recurrent = RNNModule(run.cell(), run.width, fuse=fuse)
        self.decoder = torch.nn.Linear(run.hidden, len(bias))
        self.decoder.load_state_dict({"weight": decoder, "bias": bias})
        self.criterion = torch.nn.CrossEntropyLoss(ignore_index=run.padding)
        layers = torch.nn.ModuleList([self.embedding, self.recurrent, self.decoder])
        self.optimizer = torch.optim.SGD(layers.parameters(), run.rate, run.momentum)

    def kernels(self, words: np.ndarray) -> set[str]:
        return set(self.recurrent.explain(self.embedding(self.torch.from_numpy(words))).kernels)

    def step(self, words: np.ndarray, following: np.ndarray) -> float:
        words, following = map(self.torch.from_numpy, (words, following))
        scores = self.decoder(self.recurrent(self.embedding(words))[0])
        loss = self.criterion(scores.flatten(0, 1), following.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


@fused_or_not
@all_runs
def test_torch(name, fuse):
    run = RUNS[name]
    fused = {"lstm": "torch.mkldnn", "gru": "torch.native"}[run.mode]
    assert_same_curve(TorchTrainer(run, fuse), run, fused if fuse else "torch.loop")


class TensorFlowTrainer:
    """`rnnx_tensorflow.RNNLayer` between Keras's own layers, with Keras's own optimiser, in a graph for any length."""

    def __init__(self, run: Run, fuse: bool) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
        keras = pytest.importorskip("keras", reason="Keras is not installed")
        if keras.config.backend() != "tensorflow":
            pytest.skip("Keras runs on another backend")
        from rnnx_tensorflow import RNNLayer

        self.tf = tf
        embedding, decoder, bias = (run.weights[name] for name in OTHERS)
        self.embedding = keras.layers.Embedding(*embedding.shape)
        self.recurrent = RNNLayer(run.cell(), return_sequences=True, fuse=fuse)
        layers = [self.embedding, self.recurrent, keras.layers.Dense(len(bias))]
        self.model = keras.Sequential([keras.Input((None,), dtype="int64"), *layers])
        self.embedding.set_weights([embedding])
        layers[-1].set_weights([decoder.T, bias])
        self.criterion = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=run.padding)
        self.optimizer = keras.optimizers.SGD(run.rate, run.momentum)
        self.optimizer.build(self.model.trainable_variables)
        self.graph = tf.function(self.traced, input_signature=[tf.TensorSpec((None, None), tf.int64)] * 2)

    def kernels(self, words: np.ndarray) -> set[str]:
        return set(self.recurrent.explain(self.embedding(words), training=True).kernels)

    def step(self, words: np.ndarray, following: np.ndarray) -> float:
        return float(self.graph(words, following))

    def traced(self, words, following):
        with self.tf.GradientTape() as tape:
            loss = self.criterion(following, self.model(words, training=True))
        variables = self.model.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss


@fused_or_not
@all_runs
def test_tensorflow(name, fuse):
    run = RUNS[name]
    assert_same_curve(TensorFlowTrainer(run, fuse), run, "tensorflow.compiled" if fuse else "tensorflow.loop")

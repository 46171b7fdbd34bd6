"""Write down the losses of small language models that MXNet trains, for tests to train the same where MXNet is not.

Run from the root of the repository, in an environment with MXNet 1.9.1: ``python -m tests.oracle.make_sgd``.

The file holds ``words`` and ``following`` (steps, N, T), the batches, padded with 0 to the longest bucket; ``buckets``
(steps,), the length of each; and for every run ``<run>:settings``, a text of JSON, ``<run>:losses`` (steps,), float64,
and ``<run>:weights:<name>``, float32, what it starts from.

A loss is the mean negative log-likelihood of the words that follow, padding left out. MXNet's gradient is that of the
same number: ``SoftmaxOutput`` divides by the labels that count where its ``normalization`` is ``"valid"``, and
``rescale_grad`` is 1, or `Module` would divide by the batch size once more.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

import rnnx

from .bridge import Array, mx, random_array

GOLDEN = Path(__file__).parents[1] / "golden" / "mxnet-sgd.npz"

STEPS, BATCH, BUCKETS = 200, 8, (4, 7, 10)
PADDING, WORDS, WIDTH, HIDDEN, LAYERS = 0, 16, 7, 12, 2


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run, by stochastic gradient descent."""

    mode: str
    rate: float
    momentum: float
    seed: int

    @property
    def prefix(self) -> str:
        return f"{self.mode}_"


RUNS = {
    "lstm": Run("lstm", rate=1.0, momentum=0.0, seed=0),
    "gru": Run("gru", rate=0.5, momentum=0.0, seed=1),
    "lstm with momentum": Run("lstm", rate=0.1, momentum=0.9, seed=2),
}


def sentences(count: int) -> list[list[int]]:
    """Return sentences of a Markov chain in which each word is followed by one of four, one of them most often."""
    rng = np.random.default_rng(3)
    followers = np.stack([rng.choice(np.arange(1, WORDS), 4, replace=False) for _ in range(WORDS)])
    lengths = rng.integers(3, max(BUCKETS) + 1, count)
    made = []
    for length in lengths:
        words = [int(rng.integers(1, WORDS))]
        while len(words) < length:
            words.append(int(rng.choice(followers[words[-1]], p=[0.7, 0.1, 0.1, 0.1])))
        made.append(words)
    return made


def batches() -> tuple[Array, Array, Array]:
    """Return words, following words and bucket of every step, the first two padded to the longest bucket."""
    texts = rnnx.BucketSentenceIter(sentences(400), BATCH, BUCKETS, PADDING, layout="NT", seed=4)
    words, following = (np.full((STEPS, BATCH, max(BUCKETS)), PADDING, np.uint8) for _ in range(2))
    buckets, step = np.zeros(STEPS, np.uint8), 0
    while step < STEPS:
        texts.reset()
        for batch in list(texts)[: STEPS - step]:
            words[step, :, : batch.bucket_key] = batch.data[0]
            following[step, :, : batch.bucket_key] = batch.label[0]
            buckets[step] = batch.bucket_key
            step += 1
    return words, following, buckets


def starting_weights(run: Run) -> dict[str, Array]:
    """Return weights that are all different, by the names that MXNet has for them."""
    rng = np.random.default_rng(run.seed)
    cell = rnnx.FusedRNNCell(HIDDEN, LAYERS, run.mode, prefix=run.prefix)
    cell.initialize(WIDTH)
    shapes = {
        "embed_weight": (WORDS, WIDTH),
        "pred_weight": (WORDS, HIDDEN),
        "pred_bias": (WORDS,),
        **{name: array.shape for name, array in cell.get_params().items()},
    }
    return {name: np.float32(0.8) * random_array(rng, *shape) for name, shape in shapes.items()}


def network(run: Run, length: int):
    """Return the symbol for sentences of a length."""
    data, label = mx.sym.Variable("data"), mx.sym.Variable("softmax_label")
    embedded = mx.sym.Embedding(data, input_dim=WORDS, output_dim=WIDTH, name="embed")
    cell = mx.rnn.FusedRNNCell(HIDDEN, LAYERS, run.mode, prefix=run.prefix)
    outputs, _ = cell.unroll(length, embedded, layout="NTC", merge_outputs=True)
    scores = mx.sym.FullyConnected(mx.sym.reshape(outputs, (-1, HIDDEN)), num_hidden=WORDS, name="pred")
    return mx.sym.SoftmaxOutput(
        scores,
        mx.sym.reshape(label, (-1,)),
        use_ignore=True,
        ignore_label=PADDING,
        normalization="valid",
        name="softmax",
    )


def module(run: Run):
    """Return MXNet's module of the run before its first step."""
    made = mx.mod.BucketingModule(
        lambda length: (network(run, length), ("data",), ("softmax_label",)), max(BUCKETS), context=mx.cpu()
    )
    made.bind(*shapes(max(BUCKETS)))
    made.init_params(arg_params={name: mx.nd.array(array) for name, array in starting_weights(run).items()})
    descent = {"learning_rate": run.rate, "momentum": run.momentum, "rescale_grad": 1.0}
    made.init_optimizer(kvstore=None, optimizer="sgd", optimizer_params=descent)
    return made


def shapes(length: int):
    """Return the descriptions of a batch's data and labels."""
    return [mx.io.DataDesc("data", (BATCH, length))], [mx.io.DataDesc("softmax_label", (BATCH, length))]


def losses(run: Run) -> Array:
    """Return the loss before each step."""
    trained, found = module(run), []
    for words, following, bucket in zip(*batches(), strict=True):
        data, label = words[:, :bucket], following[:, :bucket]
        described = dict(zip(("provide_data", "provide_label"), shapes(int(bucket)), strict=True))
        trained.forward_backward(
            mx.io.DataBatch([mx.nd.array(data)], [mx.nd.array(label)], bucket_key=int(bucket), **described)
        )
        found.append(mean_loss(trained.get_outputs()[0].asnumpy(), label.ravel()))
        trained.update()
    return np.array(found)


def mean_loss(probabilities: Array, following: Array) -> float:
    """Return the mean negative log-likelihood of the labels that are not padding, of probabilities (N * T, V)."""
    chosen = probabilities[np.arange(following.size), following][following != PADDING]
    return float(-np.log(chosen.astype(np.float64)).mean())


def settings(run: Run) -> dict[str, Any]:
    """Return what a reader of the file has to know of a run, beside its weights."""
    descent = {"mode": run.mode, "rate": run.rate, "momentum": run.momentum}
    return {**descent, "layers": LAYERS, "hidden": HIDDEN, "prefix": run.prefix, "padding": PADDING}


def golden() -> dict[str, Array]:
    """Return what the file should hold."""
    words, following, buckets = batches()
    arrays = {"words": words, "following": following, "buckets": buckets}
    for name, run in RUNS.items():
        arrays[f"{name}:settings"] = np.array(json.dumps(settings(run)))
        arrays[f"{name}:losses"] = losses(run)
        arrays |= {f"{name}:weights:{weight}": array for weight, array in starting_weights(run).items()}
    return arrays


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **golden())
    print(f"{GOLDEN}: {len(RUNS)} runs of {STEPS} steps, {GOLDEN.stat().st_size} bytes")

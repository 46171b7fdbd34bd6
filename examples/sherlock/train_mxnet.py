"""Train a small word language model with MXNet 1.9.1, as its ``cudnn_lstm_bucketing.py`` example does.

    python train_mxnet.py FOLDER [--output FOLDER]

FOLDER holds ``sherlockholmes.train.txt`` and ``sherlockholmes.valid.txt``: words with spaces between them. Written are
``vocab.json``, ``sherlock-symbol.json`` and ``sherlock-0010.params``, the last two by MXNet's ``do_rnn_checkpoint``.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
from collections.abc import Iterable
from pathlib import Path

import mxnet as mx
import numpy as np
from corpus import (
    BATCH_SIZE,
    BUCKETS,
    DROPOUT,
    EMBEDDING_SIZE,
    EPOCHS,
    HIDDEN_SIZE,
    LAYERS,
    NAME,
    PADDING_ID,
    UNKNOWN,
    VOCABULARY_SIZE,
    Sentences,
    make_vocabulary,
    read_sentences,
)


def encode(sentences: Sentences, vocabulary: dict[str, int]) -> list[list[int]]:
    """Return the ids of the words; MXNet's own `unknown_token` gives a new id to every unknown word."""
    known = [[word if word in vocabulary else UNKNOWN for word in sentence] for sentence in sentences]
    return mx.rnn.encode_sentences(known, vocab=vocabulary, invalid_label=PADDING_ID)[0]


def lstm(get_next_state: bool = False) -> mx.rnn.FusedRNNCell:
    """Return the recurrent part."""
    return mx.rnn.FusedRNNCell(
        HIDDEN_SIZE, num_layers=LAYERS, mode="lstm", dropout=DROPOUT, get_next_state=get_next_state, prefix="lstm_"
    )


def embed(data: mx.sym.Symbol) -> mx.sym.Symbol:
    """Return the words as vectors."""
    return mx.sym.Embedding(data, input_dim=VOCABULARY_SIZE, output_dim=EMBEDDING_SIZE, name="embed")


def predict(outputs: mx.sym.Symbol, label: mx.sym.Symbol) -> mx.sym.Symbol:
    """Return the probability of each word of the vocabulary to be the next one, ``(T * N, vocabulary)``."""
    flat = mx.sym.Reshape(outputs, shape=(-1, HIDDEN_SIZE))
    pred = mx.sym.FullyConnected(flat, num_hidden=VOCABULARY_SIZE, name="pred")
    return mx.sym.SoftmaxOutput(
        pred, mx.sym.Reshape(label, shape=(-1,)), use_ignore=True, ignore_label=PADDING_ID, name="softmax"
    )


def train(cell: mx.rnn.FusedRNNCell, batches: mx.io.DataIter, held_out: mx.io.DataIter, prefix: Path) -> None:
    """Fit the model and write the checkpoint of the last epoch."""

    def model(length: int) -> tuple[mx.sym.Symbol, tuple[str], tuple[str]]:
        vectors = embed(mx.sym.Variable("data"))
        outputs, _ = cell.unroll(length, inputs=vectors, merge_outputs=True, layout="TNC")
        return predict(outputs, mx.sym.Variable("softmax_label")), ("data",), ("softmax_label",)

    module = mx.mod.BucketingModule(model, default_bucket_key=batches.default_bucket_key, context=mx.cpu())
    module.fit(
        train_data=batches,
        eval_data=held_out,
        eval_metric=mx.metric.Perplexity(PADDING_ID),
        initializer=mx.init.Xavier(factor_type="in", magnitude=2.34),
        optimizer="adam",
        optimizer_params={"learning_rate": 0.004, "wd": 1e-5, "clip_gradient": 1.0},
        num_epoch=EPOCHS,
        epoch_end_callback=mx.rnn.do_rnn_checkpoint(cell, str(prefix), period=EPOCHS),
    )


def unigram_perplexity(encoded: list[list[int]], held_out: Iterable[mx.io.DataBatch]) -> float:
    """Return the perplexity of the labels by the frequency of the words alone: what is known without learning."""
    counts = np.bincount(np.concatenate(encoded), minlength=VOCABULARY_SIZE)
    labels = np.concatenate([batch.label[0].asnumpy().ravel() for batch in held_out]).astype(int)
    labels = labels[labels != PADDING_ID]
    return float(np.exp(-np.log(np.maximum(counts, 1)[labels] / counts.sum()).mean()))


def main() -> None:
    """Read the text, train, and write the three files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the text is")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="where to write (default: here)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for seed in (random.seed, np.random.seed, mx.random.seed):
        seed(20)

    sentences = {part: read_sentences(arguments.folder / f"sherlockholmes.{part}.txt") for part in ("train", "valid")}
    vocabulary = make_vocabulary(sentences["train"])
    encoded = {part: encode(text, vocabulary) for part, text in sentences.items()}
    batches, held_out = (
        mx.rnn.BucketSentenceIter(ids, BATCH_SIZE, buckets=BUCKETS.copy(), invalid_label=PADDING_ID, layout="TN")
        for ids in encoded.values()
    )
    logging.info("Unigram perplexity of the validation text: %.2f", unigram_perplexity(encoded["train"], held_out))
    held_out.reset()
    (arguments.output / "vocab.json").write_text(json.dumps(vocabulary, indent=0) + "\n", encoding="utf-8")
    train(lstm(), batches, held_out, arguments.output / NAME)


if __name__ == "__main__":
    main()

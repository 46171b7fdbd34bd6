"""The language model as arrays that any framework takes up and gives back: checkpoints, batches of text, perplexity."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path

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
    read_sentences,
)

import rnnx

HERE = Path(__file__).parent

#: The words (N, T) of a batch, and the word after each, `PADDING_ID` where there is none.
Batch = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass
class LanguageModel:
    """Embedding, recurrent part and decoder, as an MXNet checkpoint holds them.

    Parameters
    ----------
    cell : BaseRNNCell
        The recurrent part with its weights, on whatever backend.
    others : dict of str to array
        ``embed_weight (V, C)``, ``pred_weight (V, H)`` and ``pred_bias (V,)``, as NumPy arrays.
    symbol : bytes or None
        MXNet's description of the network, which a checkpoint keeps byte for byte.
    """

    cell: rnnx.BaseRNNCell
    others: dict[str, np.ndarray]
    symbol: bytes | None

    @classmethod
    def load(cls, prefix: Path = HERE / NAME, epoch: int = EPOCHS) -> LanguageModel:
        """Read a checkpoint: the one that MXNet trained, if no other is named."""
        cell = _recurrent()
        symbol, arrays, _ = rnnx.load_rnn_checkpoint(cell, str(prefix), epoch)
        cell.load_params(arrays, ignore_extra=True)
        others = {name: np.array(array) for name, array in arrays.items() if name not in cell.get_params()}
        return cls(cell, others, symbol)

    @classmethod
    def untrained(cls, seed: int) -> LanguageModel:
        """Return the same network with first weights as MXNet drew them: ``Xavier("uniform", "in", 2.34)``."""
        cell, rng = _recurrent(), np.random.default_rng(seed)
        cell.initialize(EMBEDDING_SIZE)
        others = {
            "embed_weight": np.zeros((VOCABULARY_SIZE, EMBEDDING_SIZE), np.float32),
            "pred_weight": np.zeros((VOCABULARY_SIZE, HIDDEN_SIZE), np.float32),
            "pred_bias": np.zeros(VOCABULARY_SIZE, np.float32),
        }
        gates = cell.unpack_weights(cell.get_params())
        for name, array in (others | gates).items():
            if name.endswith("weight"):
                array[...] = np.sqrt(2.34 / array.shape[1]) * rng.uniform(-1, 1, array.shape)
        cell.load_params(gates)
        return cls(cell, others, (HERE / f"{NAME}-symbol.json").read_bytes())

    def save(self, prefix: Path, epoch: int) -> None:
        """Write a checkpoint that MXNet loads, with its symbol."""
        arrays = {**self.others, **self.cell.get_params()}
        rnnx.save_rnn_checkpoint(self.cell, str(prefix), epoch, self.symbol, arrays)

    def score(self, words: np.ndarray, following: np.ndarray) -> float:
        """Return the summed negative log-likelihood of the words that follow, computed with NumPy."""
        outputs, _ = self.cell.unroll(None, self.others["embed_weight"][words], merge_outputs=True)
        scores = outputs @ self.others["pred_weight"].T + self.others["pred_bias"]
        return summed_loss(scores - np.logaddexp.reduce(scores, 2, np.float64, keepdims=True), following)


def _recurrent() -> rnnx.FusedRNNCell:
    return rnnx.FusedRNNCell(HIDDEN_SIZE, LAYERS, "lstm", dropout=DROPOUT, prefix="lstm_")


def read_batches(folder: Path, part: str, seed: int) -> rnnx.BucketSentenceIter:
    """Return the batches of ``"train"`` or ``"valid"``, by the vocabulary of the checkpoint."""
    vocabulary = json.loads((HERE / "vocab.json").read_text(encoding="utf-8"))
    sentences = read_sentences(folder / f"sherlockholmes.{part}.txt")
    encoded, _ = rnnx.encode_sentences(sentences, vocabulary, PADDING_ID, unknown_token=UNKNOWN)
    return rnnx.BucketSentenceIter(encoded, BATCH_SIZE, BUCKETS, PADDING_ID, dtype="int64", seed=seed)


def held_out(folder: Path) -> list[Batch]:
    """Return the batches of validation text to score a model on, the same ones in every epoch and framework."""
    return [(batch.data[0], batch.label[0]) for batch in read_batches(folder, "valid", seed=0)]


def summed_loss(log_probabilities: np.ndarray, following: np.ndarray) -> float:
    """Return the negative log-likelihood of the labels that are not padding, of log-probabilities (N, T, V)."""
    chosen = np.take_along_axis(log_probabilities, following[..., None], 2)[..., 0]
    return -float(chosen[following != PADDING_ID].sum(dtype=np.float64))


def perplexity(score: Callable[[np.ndarray, np.ndarray], float], batches: Iterable[Batch]) -> float:
    """Return the perplexity of the words that follow; `score` gives a batch's summed negative log-likelihood."""
    total, labels = 0.0, 0
    for words, following in batches:
        total += score(words, following)
        labels += int((following != PADDING_ID).sum())
    return float(np.exp(total / labels))

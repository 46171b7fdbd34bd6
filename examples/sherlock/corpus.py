"""The text as sentences and a vocabulary, and the sizes of the model: what every script here shares, MXNet's or not."""

from __future__ import annotations

import collections
from pathlib import Path

NAME = "sherlock"
EPOCHS = 10
BATCH_SIZE = 32
BUCKETS = [8, 16, 24, 32, 48]

VOCABULARY_SIZE = 1000
EMBEDDING_SIZE = 48
HIDDEN_SIZE = 60
LAYERS = 2
DROPOUT = 0.2

PADDING, PADDING_ID = "\n", 0
UNKNOWN = "<unk>"
SENTENCE_ENDS = (".", "!", "?")

Sentences = list[list[str]]


def read_sentences(path: Path) -> Sentences:
    """Return the text as sentences, each up to and with the word that begins with a full stop or the like."""
    sentences: Sentences = [[]]
    for word in path.read_text(encoding="utf-8").split():
        sentences[-1].append(word)
        if word.startswith(SENTENCE_ENDS):
            sentences.append([])
    return [sentence for sentence in sentences if sentence]


def make_vocabulary(sentences: Sentences) -> dict[str, int]:
    """Number the most frequent words from 1 on, the most frequent first; 0 is padding."""
    counts = collections.Counter(word for sentence in sentences for word in sentence)
    del counts[UNKNOWN]
    words = [PADDING, UNKNOWN, *(word for word, _ in counts.most_common(VOCABULARY_SIZE - 2))]
    return {word: number for number, word in enumerate(words, start=PADDING_ID)}

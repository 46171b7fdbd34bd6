"""Encoding and bucketing against MXNet itself: the same ids, buckets and batches, whatever the order."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rnnx.data

with warnings.catch_warnings():
    # MXNet 1.9.1 uses names that NumPy 1.23 deprecates.
    warnings.simplefilter("ignore")
    mx = pytest.importorskip("mxnet")

RNG = np.random.default_rng(7)
SENTENCES = [RNG.integers(1, 50, RNG.integers(0, 13)).tolist() for _ in range(90)]

texts = st.lists(st.lists(st.sampled_from(["a", "b", "c", "d", "\n"]), max_size=5), max_size=8)
labels = st.integers(-2, 3)


def both(sentences: list[list[int]], *args: Any, **options: Any) -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = rnnx.data.BucketSentenceIter(sentences, *args, **options)
    theirs = mx.rnn.BucketSentenceIter(sentences, *args, **options)
    return ours, theirs


def array_of(array: Any) -> np.ndarray:
    return array if isinstance(array, np.ndarray) else array.asnumpy()


def descriptions(*descs: Any) -> list[tuple[str, tuple[int, ...], str]]:
    return [(desc.name, tuple(desc.shape), desc.layout) for desc in descs]


def batches_of(iterator: Any) -> list[tuple[Any, ...]]:
    """All that a batch is but its numbers, in one order."""
    return sorted(
        (
            batch.bucket_key,
            batch.pad,
            descriptions(*batch.provide_data, *batch.provide_label),
            [(array_of(array).dtype.name, array.shape) for array in (*batch.data, *batch.label)],
        )
        for batch in iterator
    )


def rows_of(iterator: Any) -> list[tuple[Any, ...]]:
    """The bucket, the words and the labels of every sentence, in one order."""
    axis = iterator.layout.index("N")
    return sorted(
        (batch.bucket_key, row.tolist(), next_words.tolist())
        for batch in iterator
        for row, next_words in zip(
            np.moveaxis(array_of(batch.data[0]), axis, 0), np.moveaxis(array_of(batch.label[0]), axis, 0), strict=True
        )
    )


@given(texts, labels, labels)
def test_a_new_vocabulary(sentences, invalid_label, start_label):
    options = {"invalid_label": invalid_label, "start_label": start_label, "invalid_key": "\n"}
    ours = rnnx.data.encode_sentences(sentences, **options)
    theirs = mx.rnn.encode_sentences(sentences, **options)
    assert ours == theirs
    assert list(ours[1]) == list(theirs[1])


@given(texts, st.permutations(range(5)))
def test_a_given_vocabulary(sentences, ids):
    vocab = dict(zip(["a", "b", "c", "d", "\n"], ids, strict=True))
    assert rnnx.data.encode_sentences(sentences, vocab) == mx.rnn.encode_sentences(sentences, vocab)


@pytest.mark.parametrize("start_label", [-1, 0, 4])
def test_one_unknown_word(start_label):
    vocab = {"a": 1, "b": 2, "c": 3}
    options = {"invalid_label": -1, "start_label": start_label, "unknown_token": "unknown"}
    ours = rnnx.data.encode_sentences([["a", "?", "c"]], vocab, **options)
    assert vocab == {"a": 1, "b": 2, "c": 3}
    assert ours == mx.rnn.encode_sentences([["a", "?", "c"]], vocab, **options)


def test_an_unknown_word_without_a_token_is_an_error():
    with pytest.raises(AssertionError, match="Unknown token"):
        mx.rnn.encode_sentences([["a"]], {})
    with pytest.raises(rnnx.RNNXError, match="unknown_token="):
        rnnx.data.encode_sentences([["a"]], {})


def test_where_the_unknown_token_of_mxnet_takes_the_ids_of_other_words():
    vocab = {"a": 0, "b": 1, "unknown": 7}
    sentences = [["a", "x", "y", "b"]]
    assert rnnx.data.encode_sentences(sentences, vocab, unknown_token="unknown") == ([[0, 7, 7, 1]], vocab)
    encoded, changed = mx.rnn.encode_sentences(sentences, vocab, unknown_token="unknown")
    assert (encoded, changed) == ([[0, 0, 1, 1]], {"a": 0, "b": 1, "unknown": 1})
    assert changed is vocab


@pytest.mark.parametrize("layout", ["NT", "TN"])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
@pytest.mark.parametrize("buckets", [[13], [3, 7, 13], [9, 4], [2, 5, 11, 12, 30]])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_what_the_iterator_and_its_batches_are(batch_size, buckets, dtype, layout):
    names = {"data_name": "words", "label_name": "next"}
    ours, theirs = both(SENTENCES, batch_size, buckets.copy(), invalid_label=0, dtype=dtype, layout=layout, **names)
    for name in ("buckets", "default_bucket_key", "batch_size", "layout", "dtype", "data_name", "label_name"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert descriptions(*ours.provide_data) == descriptions(*theirs.provide_data)
    assert descriptions(*ours.provide_label) == descriptions(*theirs.provide_label)
    expected = batches_of(theirs)
    assert batches_of(ours) == expected
    assert len(ours) == len(expected) > 0


@pytest.mark.parametrize("layout", ["NT", "TN"])
@pytest.mark.parametrize("buckets", [[13], [3, 7, 13], [9, 4], [2, 5, 11, 12, 30]])
def test_the_batches_have_the_same_sentences(buckets, layout):
    ours, theirs = both(SENTENCES, 1, buckets.copy(), layout=layout)
    for _ in range(2):
        expected = rows_of(theirs)
        assert rows_of(ours) == expected
        assert len(expected) == len(SENTENCES) - ours.discarded
        assert [list(ours), list(theirs)] == [[], []]
        ours.reset()
        theirs.reset()


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=13, max_size=40), st.integers(1, 3))
def test_automatic_buckets(sentences, batch_size):
    ours, theirs = both(sentences, batch_size)
    assert ours.buckets == theirs.buckets
    assert batches_of(ours) == batches_of(theirs)


def test_the_number_of_discarded_sentences(capsys):
    with pytest.warns(UserWarning, match="discarded") as caught:
        ours = rnnx.data.BucketSentenceIter(SENTENCES, 2, [4])
    mx.rnn.BucketSentenceIter(SENTENCES, 2, [4])
    said = f"discarded {ours.discarded} sentences longer than the largest bucket"
    assert said in capsys.readouterr().out
    assert said in str(caught[0].message)


def test_no_bucket_at_all():
    with pytest.raises(ValueError, match="max"):
        mx.rnn.BucketSentenceIter([[1], [2, 3]], 2)
    with pytest.raises(ValueError, match="no bucket has the batch_size=2 sentences"):
        rnnx.data.BucketSentenceIter([[1], [2, 3]], 2)


def test_where_mxnet_gives_no_batch_without_a_word():
    assert list(mx.rnn.BucketSentenceIter([[1], [2, 3]], 3, [2])) == []
    with pytest.raises(ValueError, match="2 in the bucket of 2"):
        rnnx.data.BucketSentenceIter([[1], [2, 3]], 3, [2])


def test_where_mxnet_fails_on_a_batch_of_empty_sentences():
    with pytest.raises(IndexError):
        mx.rnn.BucketSentenceIter([[], [], [1], [2]], 2)
    assert rnnx.data.BucketSentenceIter([[], [], [1], [2]], 2).buckets == [1]

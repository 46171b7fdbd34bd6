"""Encoding sentences, and iterating over them in buckets."""

from __future__ import annotations

import itertools
import random
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnx.data import BucketSentenceIter, DataDesc, encode_sentences
from rnnx.errors import RNNXError, ShapeError

PAD = 0

SENTENCES = [[1, 2, 3], [4, 5, 6], [7, 8], [9, 1, 4, 6], [3, 2], [5], [8, 7, 6], [2, 4, 6, 8], [9]]

WORDS = [["to", "be"], ["or", "not", "to", "be"], []]


def make(sentences=SENTENCES, batch_size=2, buckets=(2, 4), **options) -> BucketSentenceIter:
    return BucketSentenceIter(sentences, batch_size, buckets, **{"invalid_label": PAD, "seed": 3, **options})


def rows_of(batches) -> list[tuple[int, ...]]:
    return [tuple(row) for batch in batches for row in batch.data[0].astype(int)]


def padded(sentences, length: int) -> list[tuple[int, ...]]:
    return [(*sentence, *[PAD] * (length - len(sentence))) for sentence in sentences]


class TestEncodeSentences:
    def test_makes_a_vocabulary(self):
        encoded, vocab = encode_sentences(WORDS)
        assert encoded == [[0, 1], [2, 3, 0, 1], []]
        assert list(vocab.items()) == [("\n", -1), ("to", 0), ("be", 1), ("or", 2), ("not", 3)]

    def test_no_word_gets_the_id_of_padding(self):
        encoded, vocab = encode_sentences(WORDS, invalid_label=2, invalid_key="<pad>", start_label=1)
        assert encoded == [[1, 3], [4, 5, 1, 3], []]
        assert vocab == {"<pad>": 2, "to": 1, "be": 3, "or": 4, "not": 5}

    def test_the_invalid_key_is_a_word_of_the_new_vocabulary(self):
        assert encode_sentences([["be", "\n"]], invalid_label=7)[0] == [[0, 7]]

    def test_takes_generators_and_strings_of_characters(self):
        encoded, vocab = encode_sentences((character for character in word) for word in ["aba", "b"])
        assert (encoded, vocab) == ([[0, 1, 0], [1]], {"\n": -1, "a": 0, "b": 1})
        assert encode_sentences(["aba", "b"]) == (encoded, vocab)

    def test_uses_a_vocabulary_and_returns_another_dict(self):
        given = {"be": 5, "to": 3, "or": 4, "not": 9}
        encoded, vocab = encode_sentences(WORDS, vocab=given)
        assert encoded == [[3, 5], [4, 9, 3, 5], []]
        assert vocab == given
        assert vocab is not given

    def test_a_word_that_the_vocabulary_lacks_is_an_error(self):
        with pytest.raises(RNNXError, match=r"no id for 2 of the words, the first of which is 'or'.*unknown_token="):
            encode_sentences(WORDS, vocab={"to": 0, "be": 1})

    def test_all_unknown_words_have_the_id_of_the_unknown_token(self):
        given = {"to": 0, "?": 7}
        encoded, vocab = encode_sentences(WORDS, vocab=given, unknown_token="?")
        assert encoded == [[0, 7], [7, 7, 0, 7], []]
        assert vocab == {"to": 0, "?": 7}

    def test_an_unknown_token_without_an_id_gets_the_first_free_one(self):
        given = {"to": 3, "or": 5}
        encoded, vocab = encode_sentences(WORDS, given, invalid_label=4, start_label=3, unknown_token="?")
        assert encoded == [[3, 6], [5, 6, 3, 6], []]
        assert vocab == {"to": 3, "or": 5, "?": 6}
        assert given == {"to": 3, "or": 5}

    def test_an_unknown_token_that_is_not_needed_gets_no_id(self):
        given = {"to": 0, "be": 1}
        assert encode_sentences([["to"]], vocab=given, unknown_token="?") == ([[0]], given)

    def test_a_new_vocabulary_has_the_unknown_token(self):
        encoded, vocab = encode_sentences(WORDS, unknown_token="?")
        assert encoded == [[0, 1], [2, 3, 0, 1], []]
        assert vocab == {"\n": -1, "to": 0, "be": 1, "or": 2, "not": 3, "?": 4}
        assert encode_sentences([["so", "be"]], vocab=vocab, unknown_token="?") == ([[4, 1]], vocab)

    @given(st.lists(st.lists(st.text("abc\n", max_size=2))), st.integers(-3, 3), st.integers(-3, 3))
    def test_the_vocabulary_decodes_what_it_encoded(self, sentences, invalid_label, start_label):
        encoded, vocab = encode_sentences(sentences, invalid_label=invalid_label, start_label=start_label)
        words = {label: word for word, label in vocab.items()}
        assert len(words) == len(vocab)
        assert [[words[label] for label in ids] for ids in encoded] == sentences


class TestBatches:
    def test_every_sentence_is_padded_to_the_shortest_bucket_that_holds_it(self):
        by_bucket = {2: [], 4: []}
        for batch in make(batch_size=1):
            by_bucket[batch.bucket_key] += rows_of([batch])
        assert sorted(by_bucket[2]) == sorted(padded([[7, 8], [3, 2], [5], [9]], 2))
        longer = [[1, 2, 3], [4, 5, 6], [9, 1, 4, 6], [8, 7, 6], [2, 4, 6, 8]]
        assert sorted(by_bucket[4]) == sorted(padded(longer, 4))

    @pytest.mark.parametrize("pad", [-1, 0, 9])
    def test_the_label_is_the_next_word_and_padding_at_the_end(self, pad):
        (batch,) = make([[1, 2, 3], [4, 5]], buckets=[4], invalid_label=pad)
        order = np.argsort(batch.data[0][:, 0])
        assert batch.data[0][order].tolist() == [[1, 2, 3, pad], [4, 5, pad, pad]]
        assert batch.label[0][order].tolist() == [[2, 3, pad, pad], [5, pad, pad, pad]]

    @pytest.mark.parametrize("dtype", ["float32", "float64", "int32", np.int64, np.uint8])
    def test_the_arrays_have_the_dtype(self, dtype):
        for batch in make(dtype=dtype):
            assert [batch.data[0].dtype, batch.label[0].dtype] == [np.dtype(dtype)] * 2

    def test_a_batch_describes_itself(self):
        for batch in make(data_name="words", label_name="next_words"):
            assert batch.provide_data == [DataDesc("words", batch.data[0].shape, "NT")]
            assert batch.provide_label == [DataDesc("next_words", batch.label[0].shape, "NT")]
            assert batch.data[0].shape == (2, batch.bucket_key)
            assert batch.pad == 0

    def test_words_first(self):
        by_sentence, by_word = make(), make(layout="TN")
        assert by_word.provide_data == [DataDesc("data", (4, 2), "TN")]
        assert by_word.provide_label == [DataDesc("softmax_label", (4, 2), "TN")]
        for one, other in zip(by_sentence, by_word, strict=True):
            np.testing.assert_array_equal(other.data[0], one.data[0].T)
            np.testing.assert_array_equal(other.label[0], one.label[0].T)
            assert other.provide_data == [DataDesc("data", other.data[0].shape, "TN")]
            assert other.provide_label == [DataDesc("softmax_label", other.label[0].shape, "TN")]
            assert other.data[0].flags.c_contiguous

    def test_a_batch_is_the_callers_own(self):
        iterator = make()
        kept = [(batch, batch.data[0].copy()) for batch in iterator]
        iterator.reset()
        for batch in iterator:
            batch.data[0][:] = 77
        assert all((batch.data[0] == data).all() for batch, data in kept)
        iterator.reset()
        assert 77 not in np.concatenate([batch.data[0].ravel() for batch in iterator])

    def test_a_batch_is_frozen(self):
        batch = make().next()
        with pytest.raises(AttributeError):
            batch.pad = 3


class TestBuckets:
    def test_what_the_iterator_says_of_itself(self):
        iterator = make()
        assert (iterator.batch_size, iterator.buckets, iterator.default_bucket_key) == (2, [2, 4], 4)
        assert iterator.provide_data == [DataDesc("data", (2, 4), "NT")]
        assert iterator.provide_label == [DataDesc("softmax_label", (2, 4), "NT")]
        assert (iterator.discarded, iterator.left_over, len(iterator)) == (0, 1, 4)

    def test_the_callers_buckets_stay_as_they_are(self):
        given = [9, 4, 2, 4]
        assert make(buckets=given).buckets == [2, 4]
        assert given == [9, 4, 2, 4]

    @pytest.mark.parametrize("buckets", [(4, 2), iter([4, 2]), np.array([4, 2])])
    def test_buckets_of_any_kind(self, buckets):
        iterator = make(buckets=buckets)
        assert iterator.buckets == [2, 4]
        assert {batch.bucket_key for batch in iterator} == {2, 4}

    @pytest.mark.parametrize("buckets", [None, []])
    def test_automatic_buckets_are_the_lengths_of_enough_sentences(self, buckets):
        sentences = [[1], [2, 3], [4], [5, 6, 7], [8, 9, 1], [2, 3, 4], [5, 6], [7, 8, 9, 1, 2]]
        with pytest.warns(UserWarning, match="discarded 1 sentences longer than the largest bucket, 3"):
            iterator = make(sentences, batch_size=3, buckets=buckets)
        assert iterator.buckets == [3]
        assert (iterator.discarded, iterator.left_over) == (1, 1)
        with pytest.warns(UserWarning, match="discarded 1"):
            assert make(sentences, batch_size=2, buckets=buckets).buckets == [1, 2, 3]

    def test_empty_sentences_are_padding_and_have_no_bucket_of_their_own(self):
        iterator = make([[], [1, 2], [], [3, 4]], buckets=None)
        assert iterator.buckets == [2]
        assert sorted(rows_of(iterator)) == [(0, 0), (0, 0), (1, 2), (3, 4)]

    def test_a_bucket_without_a_sentence_is_left_out(self):
        iterator = make(buckets=[1, 2, 3, 5, 8], batch_size=1, sentences=[[1], [2, 3, 4], [5, 6, 7, 8], [9]])
        assert iterator.buckets == [1, 3, 5]
        assert iterator.default_bucket_key == 5
        found = sorted((batch.bucket_key, *rows_of([batch])) for batch in iterator)
        assert found == [(1, (1,)), (1, (9,)), (3, (2, 3, 4)), (5, (5, 6, 7, 8, PAD))]

    def test_a_bucket_with_too_few_sentences_gives_no_batch(self):
        iterator = make([[1], [2], [3], [4, 5, 6]], buckets=[1, 3])
        assert (iterator.buckets, iterator.default_bucket_key) == ([1, 3], 3)
        assert [batch.bucket_key for batch in iterator] == [1]
        assert (iterator.left_over, len(iterator)) == (2, 1)

    def test_sentences_longer_than_every_bucket_are_discarded_with_a_warning(self):
        with pytest.warns(UserWarning, match="discarded 5 sentences longer than the largest bucket, 2") as caught:
            iterator = BucketSentenceIter(SENTENCES, 2, [1, 2])
        assert caught[0].filename == __file__
        assert (iterator.discarded, iterator.left_over, len(iterator)) == (5, 0, 2)

    def test_no_warning_where_nothing_is_discarded(self):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            make()
        assert caught == []


class TestIteration:
    def test_every_full_batch_once(self):
        iterator = make(batch_size=3)
        batches = list(iterator)
        assert len(batches) == len(iterator) == 2
        found = rows_of(batches)
        assert len(set(found)) == 6
        short = [sentence for sentence in SENTENCES if len(sentence) <= 2]
        assert set(found) <= {*padded(short, 2), *padded(SENTENCES, 4)}

    def test_an_iterator_at_its_end_stays_there_until_reset(self):
        iterator = make()
        assert iter(iterator) is iterator
        first = iterator.next()
        assert len([first, *iterator]) == 4
        assert list(iterator) == []
        with pytest.raises(StopIteration):
            iterator.next()
        iterator.reset()
        assert len(list(iterator)) == 4

    def test_reset_in_the_middle_starts_anew(self):
        iterator = make()
        iterator.next()
        iterator.reset()
        assert len(list(iterator)) == 4

    def test_shuffles_the_sentences_and_the_batches(self):
        sentences = [[label] * (1 + label % 2) for label in range(1, 41)]
        iterator = make(sentences, batch_size=2, buckets=None)
        epochs = []
        for _ in range(3):
            epochs.append([(batch.bucket_key, sorted(rows_of([batch]))) for batch in iterator])
            iterator.reset()
        for one, other in itertools.combinations(epochs, 2):
            assert [key for key, _ in one] != [key for key, _ in other]
            assert sorted(one) != sorted(other)
            assert sorted(row for _, rows in one for row in rows) == sorted(row for _, rows in other for row in rows)

    def test_the_left_over_sentences_change(self):
        iterator = make([[label] for label in range(1, 8)], batch_size=3, buckets=None)
        left_over = set()
        for _ in range(10):
            left_over |= set(range(1, 8)) - {row[0] for row in rows_of(iterator)}
            iterator.reset()
        assert len(left_over) > 1

    def test_a_seed_makes_it_reproducible(self):
        def three_epochs(seed):
            iterator = make(seed=seed)
            rows = []
            for _ in range(3):
                rows += rows_of(iterator)
                iterator.reset()
            return rows

        assert three_epochs(5) == three_epochs(5)
        assert three_epochs(5) != three_epochs(6)
        assert three_epochs(None) != three_epochs(None)

    def test_the_global_random_states_are_neither_used_nor_changed(self):
        def run(seed):
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002 - the global state is what must not matter
            iterator = make()
            rows = rows_of(iterator)
            iterator.reset()
            return rows + rows_of(iterator), random.random(), np.random.random()  # noqa: NPY002

        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        untouched = random.random(), np.random.random()  # noqa: NPY002
        assert run(1)[1:] == untouched
        assert run(1)[0] == run(2)[0]

    @given(
        st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=30),
        st.integers(1, 4),
        st.lists(st.integers(1, 7), max_size=4),
    )
    def test_no_sentence_is_lost_or_doubled(self, sentences, batch_size, buckets):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                iterator = make(sentences, batch_size, buckets)
            except ShapeError:
                return
        found = rows_of(iterator)
        assert len(found) == len(iterator) * batch_size == len(sentences) - iterator.discarded - iterator.left_over
        expected = [tuple(sentence) for sentence in sentences]
        for row in found:
            expected.remove(tuple(label for label in row if label != PAD))


class TestErrors:
    def test_no_automatic_bucket(self):
        with pytest.raises(ShapeError, match=r"batch_size=4 .* of 9 sentences there are none in a bucket"):
            make(batch_size=4, buckets=None)

    def test_no_full_batch(self):
        with pytest.raises(ShapeError, match="4 in the bucket of 2, 5 in the bucket of 4"):
            make(batch_size=6)

    def test_every_sentence_too_long(self):
        with pytest.raises(ShapeError, match="2 sentences there are none in a bucket"):
            make([[1, 2, 3], [4, 5, 6]], buckets=[2])

    def test_no_sentences(self):
        with pytest.raises(ShapeError, match="of 0 sentences"):
            make([])

    @pytest.mark.parametrize("layout", ["NTC", "nt", ""])
    def test_layout(self, layout):
        with pytest.raises(ShapeError, match=rf"layout is '{layout}', expected 'NT'"):
            make(layout=layout)

    def test_batch_size(self):
        with pytest.raises(ShapeError, match="batch_size is 0, expected at least 1"):
            make(batch_size=0)

    def test_bucket(self):
        with pytest.raises(ShapeError, match="a bucket has the length 0, expected at least 1"):
            make(buckets=[4, 0])

    @pytest.mark.parametrize("sentence", [["to", "be"], "to be", 5, [[1, 2], [3, 4]], [None], {1: 2}])
    def test_sentences_that_are_not_ids(self, sentence):
        with pytest.raises(RNNXError, match=r"sentence 1 is no sequence of word ids: .*encode_sentences"):
            make([[1, 2], sentence])

    @pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "1.24.0", reason="NumPy only warns of it")
    def test_what_encode_sentences_returns_is_not_the_sentences_alone(self):
        with pytest.raises(RNNXError, match="sentence 0 is no sequence of word ids"):
            make(encode_sentences([["to", "be"], ["or", "not", "to"]]))

    @pytest.mark.parametrize(
        ("sentence", "dtype"),
        [([1, 2049], "float16"), ([1, 70_001], "float16"), ([2**24 + 1], "float32"), ([1, 256], "uint8")],
    )
    def test_ids_that_the_dtype_rounds(self, sentence, dtype):
        with pytest.raises(RNNXError, match=rf"dtype {dtype} cannot hold all the ids of sentence 1, \["):
            make([[1], sentence], dtype=dtype)

    def test_padding_that_the_dtype_cannot_hold(self):
        with pytest.raises(RNNXError, match=r"dtype uint8 cannot hold all the ids of invalid_label, \[-1\]"):
            make(dtype="uint8", invalid_label=-1)

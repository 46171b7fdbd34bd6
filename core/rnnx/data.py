"""Sentences as batches: word ids, and the bucketing iterator of a language model.

Source: ``python/mxnet/rnn/io.py`` of MXNet 1.9.1.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import itertools
import operator
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rnnx.errors import RNNXError, ShapeError

__all__ = ["BucketSentenceIter", "DataBatch", "DataDesc", "encode_sentences"]

Array = npt.NDArray[Any]


def encode_sentences(
    sentences: Iterable[Iterable[str]],
    vocab: Mapping[str, int] | None = None,
    invalid_label: int = -1,
    invalid_key: str = "\n",
    start_label: int = 0,
    unknown_token: str | None = None,
) -> tuple[list[list[int]], dict[str, int]]:
    r"""Encode words as integers, by a given vocabulary or by a new one of all the words there are.

    Parameters
    ----------
    sentences : iterable of iterable of str
        The words of each sentence. A plain string is a sentence of characters.
    vocab : mapping of str to int, optional
        The vocabulary to encode by; it is not changed. Without it, each new word gets the next id.
    invalid_label : int
        Id of padding, which no new word gets; a new vocabulary begins with ``{invalid_key: invalid_label}``.
    invalid_key : str
        The word that stands for padding, often the end of a sentence.
    start_label : int
        The first id to give. Ids that the vocabulary uses already are passed over.
    unknown_token : str, optional
        The word that takes the place of those that `vocab` lacks; where `vocab` lacks it too, it gets an id of its own
        when it is first needed. A new vocabulary always has it, after the words of the sentences.

    Returns
    -------
    encoded : list of list of int
        The ids of each sentence.
    vocab : dict of str to int
        The vocabulary they were encoded by, a new dict.

    Raises
    ------
    RNNXError
        Where `vocab` lacks a word and there is no `unknown_token`.

    Notes
    -----
    MXNet 1.9.1 differs where `unknown_token` is given: it gives that token a new id at every unknown word, over the id
    it has and perhaps over another word's; it takes every word for unknown where it makes the vocabulary itself; and
    it changes the caller's `vocab`. Here all unknown words have one id, and `vocab` stays as it is.

    Examples
    --------
    >>> from rnnx.data import encode_sentences
    >>> encoded, vocab = encode_sentences([["to", "be"], ["or", "not", "to", "be"]], invalid_label=0, start_label=1)
    >>> encoded
    [[1, 2], [3, 4, 1, 2]]
    >>> vocab
    {'\n': 0, 'to': 1, 'be': 2, 'or': 3, 'not': 4}
    """
    texts = [list(sentence) for sentence in sentences]
    words = list(dict.fromkeys(itertools.chain.from_iterable(texts)))
    if vocab is None:
        known = {invalid_key: invalid_label}
        replaced: dict[str, str] = {}
        newcomers = words if unknown_token is None else [*words, unknown_token]
    else:
        known = dict(vocab)
        replaced = _replace_unknown(words, known, unknown_token)
        newcomers = list(replaced.values())
    taken = {invalid_label, *known.values()}
    free_ids = (label for label in itertools.count(start_label) if label not in taken)
    for word in newcomers:
        if word not in known:
            known[word] = next(free_ids)
    return [[known[replaced.get(word, word)] for word in text] for text in texts], known


def _replace_unknown(words: list[str], known: Mapping[str, int], unknown_token: str | None) -> dict[str, str]:
    """Return the word to use for each one that is not known."""
    unknown = [word for word in words if word not in known]
    if not unknown:
        return {}
    if unknown_token is None:
        raise RNNXError(
            f"vocab has no id for {len(unknown)} of the words, the first of which is {unknown[0]!r}:"
            " give unknown_token=, the word to use in their place"
        )
    return dict.fromkeys(unknown, unknown_token)


@dataclasses.dataclass(frozen=True)
class DataDesc:
    """What one array of a batch is: its name, its shape and the meaning of the axes, ``"NT"`` or ``"TN"``."""

    name: str
    shape: tuple[int, ...]
    layout: str


@dataclasses.dataclass(frozen=True, eq=False)
class DataBatch:
    """One batch, with the fields of MXNet's.

    Attributes
    ----------
    data, label : list of numpy.ndarray
        One array each, of the shape in `provide_data` and `provide_label`: the words, and the word after each.
    bucket_key : int
        The length of the bucket that the sentences are from.
    provide_data, provide_label : list of DataDesc
        The description of `data` and of `label`.
    pad : int
        How many of the sentences are no data: always 0.
    """

    data: list[Array]
    label: list[Array]
    _: dataclasses.KW_ONLY
    bucket_key: int
    provide_data: list[DataDesc]
    provide_label: list[DataDesc]
    pad: int = 0


class BucketSentenceIter(Iterator[DataBatch]):
    """Batches of sentences of about one length, each word labelled with the one after it.

    A sentence of length L goes to the shortest bucket of length T >= L, padded with `invalid_label`, so that for its
    ids x_0, …, x_{L-1}::

        data  = x_0, x_1, …, x_{L-1}, invalid_label, …      (T,)
        label = x_1, …, x_{L-1}, invalid_label,      …      (T,)

    Iterating gives every full batch once, in random order. An iterator at its end stays there until `reset` starts it
    anew, with the sentences of each bucket and the order of the batches shuffled again.

    Parameters
    ----------
    sentences : iterable of sequences of int
        The sentences, encoded.
    batch_size : int
        Sentences in a batch.
    buckets : iterable of int, optional
        Lengths of the buckets. Without it (or with none in it), every length of at least `batch_size` sentences.
    invalid_label : int
        Id of padding.
    data_name, label_name : str
        The names in `provide_data` and `provide_label`.
    dtype : dtype
        Of the arrays. It must hold every id exactly.
    layout : {"NT", "TN"}
        Axes of the arrays: N is the sentence in the batch, T the word in the sentence.
    seed : int, optional
        Makes the shuffling reproducible. Without it, every iterator shuffles differently. NumPy's and Python's global
        random states are neither used nor changed.

    Attributes
    ----------
    buckets : list of int
        Lengths of the buckets that hold a sentence, in ascending order.
    default_bucket_key : int
        The longest of them.
    discarded : int
        Number of sentences longer than the longest bucket, which are in no batch.
    left_over : int
        Number of sentences that are in no batch of one iteration, because no batch is made with fewer than
        `batch_size`. Shuffling makes them others each time.

    Raises
    ------
    ShapeError
        For a layout, batch size or bucket that is none, and where there is no full batch.
    RNNXError
        Where a sentence is not a sequence of numbers, or `dtype` cannot hold them.

    Warns
    -----
    UserWarning
        Where sentences are discarded.

    Notes
    -----
    MXNet 1.9.1 differs in that it sorts the caller's `buckets` in place, fails where `batch_size` sentences are empty
    and the buckets are automatic, gives no batch at all where buckets are given and none is full, rounds ids that
    `dtype` cannot hold, and shuffles by the global random states.

    Examples
    --------
    >>> from rnnx.data import BucketSentenceIter
    >>> batches = BucketSentenceIter([[1, 2, 3], [4, 5]], batch_size=2, buckets=[4], invalid_label=0, seed=1)
    >>> for batch in batches:
    ...     print(batch.bucket_key, batch.data[0].shape, batch.label[0].shape)
    4 (2, 4) (2, 4)
    """

    def __init__(
        self,
        sentences: Iterable[npt.ArrayLike],
        batch_size: int,
        buckets: Iterable[int] | None = None,
        invalid_label: int = -1,
        data_name: str = "data",
        label_name: str = "softmax_label",
        dtype: npt.DTypeLike = "float32",
        layout: str = "NT",
        seed: int | None = None,
    ) -> None:
        _check_batch(batch_size, layout)
        self.batch_size = batch_size
        self.invalid_label = invalid_label
        self.data_name = data_name
        self.label_name = label_name
        self.dtype = dtype
        self.layout = layout
        padding = _as_ids("invalid_label", [invalid_label], dtype)
        encoded = [_as_ids(f"sentence {index}", sentence, dtype) for index, sentence in enumerate(sentences)]
        lengths = _check_buckets(buckets) or _automatic_buckets(encoded, batch_size)
        self._padded = _fill_buckets(encoded, lengths, padding)
        self.discarded = len(encoded) - sum(map(len, self._padded.values()))
        self.left_over = sum(len(padded) % batch_size for padded in self._padded.values())
        if len(self) == 0:
            raise ShapeError(self._why_no_batch(len(encoded)))
        if self.discarded:
            message = f"discarded {self.discarded} sentences longer than the largest bucket, {lengths[-1]}"
            warnings.warn(message, stacklevel=2)
        self.buckets = list(self._padded)
        self.default_bucket_key = self.buckets[-1]
        self._rng = np.random.default_rng(seed)
        self.reset()

    @property
    def provide_data(self) -> list[DataDesc]:
        """What `data` is in a batch of the longest bucket."""
        return [self._describe(self.data_name, self.default_bucket_key)]

    @property
    def provide_label(self) -> list[DataDesc]:
        """What `label` is in a batch of the longest bucket."""
        return [self._describe(self.label_name, self.default_bucket_key)]

    def reset(self) -> None:
        """Start anew, with everything shuffled again."""
        batches = [(length, rows) for length in self.buckets for rows in self._shuffled_rows(length)]
        self._upcoming = iter([batches[place] for place in self._rng.permutation(len(batches))])

    def next(self) -> DataBatch:
        """Return the next batch.

        Raises
        ------
        StopIteration
            After the last one.
        """
        length, rows = next(self._upcoming)
        data = self._padded[length][rows]
        label = np.full_like(data, self.invalid_label)
        label[:, :-1] = data[:, 1:]
        return DataBatch(
            [self._lay_out(data)],
            [self._lay_out(label)],
            bucket_key=length,
            provide_data=[self._describe(self.data_name, length)],
            provide_label=[self._describe(self.label_name, length)],
        )

    def __next__(self) -> DataBatch:
        return self.next()

    def __len__(self) -> int:
        """Return the number of batches of a whole iteration."""
        return sum(len(padded) // self.batch_size for padded in self._padded.values())

    def _shuffled_rows(self, length: int) -> Array:
        """Return the rows of this bucket that make up each full batch, ``(batches, batch_size)``."""
        rows = self._rng.permutation(len(self._padded[length]))
        full = len(rows) - len(rows) % self.batch_size
        return rows[:full].reshape(-1, self.batch_size)

    def _lay_out(self, batch: Array) -> Array:
        return batch if self.layout == "NT" else np.ascontiguousarray(batch.T)

    def _describe(self, name: str, length: int) -> DataDesc:
        shape = (self.batch_size, length) if self.layout == "NT" else (length, self.batch_size)
        return DataDesc(name, shape, self.layout)

    def _why_no_batch(self, sentences: int) -> str:
        found = ", ".join(f"{len(padded)} in the bucket of {length}" for length, padded in self._padded.items())
        return (
            f"no bucket has the batch_size={self.batch_size} sentences of a batch: of {sentences} sentences there are"
            f" {found or 'none in a bucket'}; give more sentences, a smaller batch_size, or other buckets="
        )


def _check_batch(batch_size: int, layout: str) -> None:
    if layout not in ("NT", "TN"):
        raise ShapeError(f"layout is {layout!r}, expected 'NT' (sentences first) or 'TN' (words first)")
    if batch_size < 1:
        raise ShapeError(f"batch_size is {batch_size}, expected at least 1")


def _as_ids(what: str, ids: npt.ArrayLike, dtype: npt.DTypeLike) -> Array:
    """Return the ids of one sentence as an array of `dtype`, which must hold them exactly."""
    try:
        found = np.asarray(ids)
    except ValueError as error:
        raise _not_ids(what, ids) from error
    if found.ndim != 1 or (found.size and found.dtype.kind not in "iuf"):
        raise _not_ids(what, ids)
    with np.errstate(over="ignore", invalid="ignore"):
        exact = found.astype(dtype)
    if not np.array_equal(exact, found):
        raise RNNXError(f"dtype {dtype} cannot hold all the ids of {what}, {ids!r:.80}: give a wider dtype=")
    return exact


def _not_ids(what: str, found: npt.ArrayLike) -> RNNXError:
    return RNNXError(f"{what} is no sequence of word ids: {found!r:.80}; encode_sentences makes them of words")


def _check_buckets(buckets: Iterable[int] | None) -> list[int]:
    """Return the lengths in ascending order, each once."""
    lengths = sorted({operator.index(length) for length in (() if buckets is None else buckets)})
    if lengths and lengths[0] < 1:
        raise ShapeError(f"a bucket has the length {lengths[0]}, expected at least 1")
    return lengths


def _automatic_buckets(encoded: list[Array], batch_size: int) -> list[int]:
    """Return every length that enough sentences for a batch have; the empty sentences have none."""
    counts = collections.Counter(map(len, encoded))
    return sorted(length for length, count in counts.items() if length and count >= batch_size)


def _fill_buckets(encoded: list[Array], lengths: list[int], padding: Array) -> dict[int, Array]:
    """Return the padded sentences ``(sentences, length)`` of every bucket that has any, in ascending order."""
    members: dict[int, list[Array]] = {length: [] for length in lengths}
    for ids in encoded:
        place = bisect.bisect_left(lengths, len(ids))
        if place < len(lengths):
            members[lengths[place]].append(ids)
    return {length: _pad(sentences, length, padding) for length, sentences in members.items() if sentences}


def _pad(sentences: list[Array], length: int, padding: Array) -> Array:
    padded = np.full((len(sentences), length), padding, dtype=padding.dtype)
    for row, ids in zip(padded, sentences, strict=True):
        row[: len(ids)] = ids
    return padded

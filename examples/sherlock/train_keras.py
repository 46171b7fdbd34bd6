"""Train the language model on with Keras, from MXNet's checkpoint or from scratch, and give it back to MXNet.

    python train_keras.py FOLDER [--from-scratch] [--epochs 10] [--output FOLDER]

FOLDER holds ``sherlockholmes.train.txt`` and ``sherlockholmes.valid.txt``: words with spaces between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from corpus import BATCH_SIZE, PADDING_ID
from language_model import Batch, LanguageModel, summed_loss
from training import CONSOLE, LARGEST_GRADIENT, WEIGHT_DECAY, main

import rnnx
from rnnx_tensorflow import RNNLayer


class KerasTrainer:
    """See `training.Trainer`."""

    def __init__(self, model: LanguageModel, rate: float, seed: int) -> None:
        keras.utils.set_random_seed(seed)
        self.symbol = model.symbol
        vocabulary, width = model.others["embed_weight"].shape
        self.embed = keras.layers.Embedding(vocabulary, width)
        self.lstm = RNNLayer(model.cell, return_sequences=True)
        self.pred = keras.layers.Dense(vocabulary)
        self.network = keras.Sequential([keras.Input((None,), dtype="int64"), self.embed, self.lstm, self.pred])
        self.embed.set_weights([model.others["embed_weight"]])
        self.pred.set_weights([model.others["pred_weight"].T, model.others["pred_bias"]])
        self.network.compile(
            Adam(rate, epsilon=1e-8, clipvalue=LARGEST_GRADIENT),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=PADDING_ID, reduction="sum"),
            loss_weights=1 / BATCH_SIZE,
            metrics=[Perplexity()],
        )

    def fit(self, texts: rnnx.BucketSentenceIter, epochs: int, ended: Callable[[float], None]) -> None:
        """See `training.Trainer.fit`."""
        bar = keras.callbacks.ProgbarLogger()  # given, so that it is at its end when the epoch is told
        self.network.fit(
            pipeline(texts),
            epochs=epochs,
            verbose=int(CONSOLE.is_terminal),
            callbacks=[bar, EpochEnd(ended)],
            shuffle=False,  # the pipeline does it
        )

    def score(self, words: np.ndarray, following: np.ndarray) -> float:
        """See `training.Trainer.score`."""
        return summed_loss(tf.nn.log_softmax(self.network.predict_on_batch(words)).numpy(), following)

    def model(self) -> LanguageModel:
        """See `training.Trainer.model`."""
        (embedding,), (decoder, bias) = self.embed.get_weights(), self.pred.get_weights()
        others = {"embed_weight": embedding, "pred_weight": decoder.T, "pred_bias": bias}
        return LanguageModel(self.lstm.cell, others, self.symbol)


class Adam(keras.optimizers.Adam):
    """Adam as MXNet has it: weight decay is part of the gradient, and what is cut is the whole gradient of a weight.

    Keras would decay the weights themselves, as AdamW does, and of an embedding cut what each place of a word adds.
    """

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any]) -> None:
        """Take a step down the gradients."""
        pairs = zip(grads, trainable_variables, strict=True)
        whole = [tf.convert_to_tensor(gradient) + WEIGHT_DECAY * variable for gradient, variable in pairs]
        super().apply(whole, trainable_variables)


class Perplexity(keras.metrics.Metric):
    """Perplexity over all labels but padding. A `keras.metrics.Mean` would weight them by the length of their batch."""

    def __init__(self) -> None:
        super().__init__(name="perplexity")
        self.total = self.add_weight(name="total", initializer="zeros")
        self.labels = self.add_weight(name="labels", initializer="zeros")

    def update_state(self, following: Any, scores: Any, sample_weight: None = None) -> None:
        """Add a batch."""
        losses = keras.losses.sparse_categorical_crossentropy(following, scores, True, PADDING_ID)
        self.total.assign_add(tf.reduce_sum(losses))
        self.labels.assign_add(tf.reduce_sum(tf.cast(following != PADDING_ID, self.labels.dtype)))

    def result(self) -> Any:
        """Return the perplexity of what was added."""
        return tf.exp(self.total / self.labels)


class EpochEnd(keras.callbacks.Callback):
    """Tells the training perplexity of each epoch that ends."""

    def __init__(self, ended: Callable[[float], None]) -> None:
        super().__init__()
        self.ended = ended

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """See `keras.callbacks.Callback`."""
        self.ended(logs["perplexity"])


def pipeline(texts: rnnx.BucketSentenceIter) -> tf.data.Dataset:
    """Return the batches of an epoch, of any bucket's length, shuffled anew each time that they are gone through."""

    def batches() -> Iterator[Batch]:
        texts.reset()
        for batch in texts:
            yield batch.data[0], batch.label[0]

    shape = tf.TensorSpec((BATCH_SIZE, None), tf.int64)
    found = tf.data.Dataset.from_generator(batches, output_signature=(shape, shape))
    return found.apply(tf.data.experimental.assert_cardinality(len(texts)))


if __name__ == "__main__":
    main(__doc__, "keras", KerasTrainer)

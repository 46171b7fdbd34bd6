"""Score a checkpoint with MXNet 1.9.1, whoever wrote it.

    python score_mxnet.py FOLDER PREFIX EPOCH

FOLDER holds ``sherlockholmes.valid.txt``. The network is the checkpoint's own ``PREFIX-symbol.json``, the weights are
those of ``PREFIX-0001.params``, and the text is the validation text in the batches on which every other script here
scores it, so that the perplexity is to be the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import mxnet as mx
import numpy as np
from corpus import BATCH_SIZE, DROPOUT, HIDDEN_SIZE, LAYERS, VOCABULARY_SIZE
from language_model import held_out, perplexity, summed_loss


class Scorer:
    """MXNet's executors of a checkpoint, one for each length of sentences."""

    def __init__(self, prefix: Path, epoch: int) -> None:
        cell = mx.rnn.FusedRNNCell(HIDDEN_SIZE, num_layers=LAYERS, mode="lstm", dropout=DROPOUT, prefix="lstm_")
        self.symbol, self.arguments, _ = mx.rnn.load_rnn_checkpoint(cell, str(prefix), epoch)
        self.executors: dict[int, mx.executor.Executor] = {}

    def score(self, words: np.ndarray, following: np.ndarray) -> float:
        """Return the summed negative log-likelihood of the words that follow."""
        probabilities = self.executor(words.shape[1]).forward(is_train=False, data=mx.nd.array(words.T))[0].asnumpy()
        return summed_loss(np.log(probabilities).reshape(*words.T.shape, VOCABULARY_SIZE), following.T)

    def executor(self, length: int) -> mx.executor.Executor:
        """Return the executor of sentences of a length."""
        if length not in self.executors:
            shape = (length, BATCH_SIZE)
            bound = self.symbol.simple_bind(mx.cpu(), grad_req="null", data=shape, softmax_label=shape)
            bound.copy_params_from(self.arguments)
            self.executors[length] = bound
        return self.executors[length]


def main() -> None:
    """Print the perplexity."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the text is")
    parser.add_argument("prefix", type=Path, help="what the names of the checkpoint's files begin with")
    parser.add_argument("epoch", type=int, help="the number in the name of the weights' file")
    options = parser.parse_args()
    print(f"perplexity {perplexity(Scorer(options.prefix, options.epoch).score, held_out(options.folder)):.6f}")


if __name__ == "__main__":
    main()

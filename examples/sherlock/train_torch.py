"""Train the language model on with PyTorch, from MXNet's checkpoint or from scratch, and give it back to MXNet.

    python train_torch.py FOLDER [--from-scratch] [--epochs 10] [--output FOLDER]

FOLDER holds ``sherlockholmes.train.txt`` and ``sherlockholmes.valid.txt``: words with spaces between them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from corpus import BATCH_SIZE, PADDING_ID
from language_model import LanguageModel, perplexity
from training import LARGEST_GRADIENT, WEIGHT_DECAY, each_epoch, main

import rnnx
from rnnx_torch import RNNModule


class Network(torch.nn.Module):
    """The model's three parts: torch's own layers around an `RNNModule`."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        weights = {name: torch.from_numpy(array) for name, array in model.others.items()}
        vocabulary, width = weights["embed_weight"].shape
        hidden = weights["pred_weight"].shape[1]
        self.embed = torch.nn.Embedding(vocabulary, width)
        self.lstm = RNNModule(model.cell, width)
        self.pred = torch.nn.Linear(hidden, vocabulary)
        self.embed.load_state_dict({"weight": weights["embed_weight"]})
        self.pred.load_state_dict({"weight": weights["pred_weight"], "bias": weights["pred_bias"]})

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Return the scores (N, T, V) of every word of the vocabulary to be the next one."""
        return self.pred(self.lstm(self.embed(words))[0])


class TorchTrainer:
    """See `training.Trainer`."""

    def __init__(self, model: LanguageModel, rate: float, seed: int) -> None:
        torch.manual_seed(seed)
        self.symbol, self.network = model.symbol, Network(model)
        self.optimizer = torch.optim.Adam(self.network.parameters(), rate, weight_decay=WEIGHT_DECAY)

    def fit(self, texts: rnnx.BucketSentenceIter, epochs: int, ended: Callable[[float], None]) -> None:
        """See `training.Trainer.fit`."""
        for batches in each_epoch(texts, epochs):
            ended(perplexity(self.step, batches))

    def step(self, words: np.ndarray, following: np.ndarray) -> float:
        """Take one step of Adam, and return the summed negative log-likelihood of the batch before it."""
        loss = self.loss(words, following)
        self.optimizer.zero_grad()
        (loss / BATCH_SIZE).backward()
        torch.nn.utils.clip_grad_value_(self.network.parameters(), LARGEST_GRADIENT)
        self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def score(self, words: np.ndarray, following: np.ndarray) -> float:
        """See `training.Trainer.score`."""
        self.network.eval()
        found = self.loss(words, following).item()
        self.network.train()
        return found

    def loss(self, words: np.ndarray, following: np.ndarray) -> torch.Tensor:
        """Return the summed negative log-likelihood of the words that follow."""
        scores, labels = self.network(torch.from_numpy(words)), torch.from_numpy(following)
        return torch.nn.functional.cross_entropy(
            scores.flatten(0, 1), labels.flatten(), ignore_index=PADDING_ID, reduction="sum"
        )

    def model(self) -> LanguageModel:
        """See `training.Trainer.model`."""
        state = self.network.state_dict()
        names = {"embed_weight": "embed.weight", "pred_weight": "pred.weight", "pred_bias": "pred.bias"}
        others = {name: state[key].numpy() for name, key in names.items()}
        return LanguageModel(self.network.lstm.cell, others, self.symbol)


if __name__ == "__main__":
    main(__doc__, "torch", TorchTrainer)

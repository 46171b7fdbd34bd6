"""Record what MXNet 1.9.1 computes from the checkpoint that ``train_mxnet.py`` wrote.

    python reference_mxnet.py FOLDER [--checkpoint FOLDER]

FOLDER holds ``sherlockholmes.valid.txt``. Written beside the checkpoint is ``sherlock-0010.reference.safetensors``: one
batch of validation text with everything that goes into the LSTM and comes out of it in inference.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import mxnet as mx
import numpy as np
from corpus import EPOCHS, HIDDEN_SIZE, LAYERS, NAME, PADDING_ID, read_sentences
from safetensors.numpy import save_file
from train_mxnet import embed, encode, lstm, predict

BATCH_SIZE = 16
BEFORE = 12
LENGTH = 32
SHORTEST = 20


def choose_sentences(encoded: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the beginnings ``(N, BEFORE)`` of sentences from all over the text, and the rest ``(N, T)``, padded."""
    fitting = [sentence for sentence in encoded if SHORTEST <= len(sentence) - BEFORE <= LENGTH]
    padded = np.full((len(fitting), BEFORE + LENGTH), PADDING_ID, np.int32)
    for row, sentence in zip(padded, fitting, strict=True):
        row[: len(sentence)] = sentence
    chosen = padded[np.linspace(0, len(fitting) - 1, BATCH_SIZE).astype(int)]
    return chosen[:, :BEFORE], chosen[:, BEFORE:]


def next_words(tokens: np.ndarray) -> np.ndarray:
    """Return the label of each word: the one after it, and padding after the last."""
    return np.pad(tokens[:, 1:], [(0, 0), (0, 1)], constant_values=PADDING_ID)


def run(checkpoint: Path, tokens: np.ndarray, begin_state: list[np.ndarray]) -> list[np.ndarray]:
    """Return the embedded words, the outputs, the two final states and the probabilities, in inference."""
    cell = lstm(get_next_state=True)
    _, weights, _ = mx.rnn.load_rnn_checkpoint(cell, str(checkpoint), EPOCHS)
    vectors = embed(mx.sym.Variable("data"))
    begin = cell.begin_state(func=mx.sym.Variable)
    outputs, states = cell.unroll(tokens.shape[1], vectors, begin, layout="NTC", merge_outputs=True)
    probabilities = predict(outputs, mx.sym.Variable("softmax_label"))
    given = {"data": tokens, **{symbol.name: state for symbol, state in zip(begin, begin_state, strict=True)}}
    executor = mx.sym.Group([vectors, outputs, *states, probabilities]).simple_bind(
        mx.cpu(), grad_req="null", softmax_label=tokens.shape, **{name: array.shape for name, array in given.items()}
    )
    executor.copy_params_from(weights)
    found = executor.forward(is_train=False, **{name: mx.nd.array(array) for name, array in given.items()})
    return [array.asnumpy() for array in found]


def perplexity(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return what MXNet's metric says."""
    metric = mx.metric.Perplexity(PADDING_ID)
    metric.update([mx.nd.array(labels)], [mx.nd.array(probabilities)])
    return float(metric.get()[1])


def main() -> None:
    """Run the checkpoint and write the reference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the text is")
    parser.add_argument("--checkpoint", type=Path, default=Path(__file__).parent, help="where it is (default: here)")
    arguments = parser.parse_args()

    vocabulary = json.loads((arguments.checkpoint / "vocab.json").read_text(encoding="utf-8"))
    encoded = encode(read_sentences(arguments.folder / "sherlockholmes.valid.txt"), vocabulary)
    before, tokens = choose_sentences(encoded)
    labels = next_words(tokens)

    checkpoint = arguments.checkpoint / NAME
    zeros = np.zeros((LAYERS, BATCH_SIZE, HIDDEN_SIZE), np.float32)
    _, _, *begin_state, _ = run(checkpoint, before, [zeros, zeros])
    inputs, outputs, *states, probabilities = run(checkpoint, tokens, begin_state)

    tensors = {"tokens": np.ascontiguousarray(tokens), "labels": labels, "inputs": inputs, "outputs": outputs}
    tensors |= {f"begin_state_{index}": state for index, state in enumerate(begin_state)}
    tensors |= {f"state_{index}": state for index, state in enumerate(states)}
    metadata = {
        "format": "rnnx-reference",
        "format_version": "1",
        "produced_by": f"mxnet {mx.__version__}",
        "layout": "NTC",
        "perplexity": repr(perplexity(probabilities, labels)),
        "ignore_label": str(PADDING_ID),
        "embedding": "embed_weight",
        "decoder_weight": "pred_weight",
        "decoder_bias": "pred_bias",
    }
    save_file(tensors, arguments.checkpoint / f"{NAME}-{EPOCHS:04d}.reference.safetensors", metadata)


if __name__ == "__main__":
    main()

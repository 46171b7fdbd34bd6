"""Time rnnx on TensorFlow against Keras's layers in a `tf.function`, in one process, turn by turn.

Prints the medians in milliseconds, their interquartile range, and the ratios of the medians to Keras's: of rnnx called
eagerly, and of rnnx in a `tf.function` of the caller's. All share TensorFlow's threads. Run it with

    python benchmarks/tensorflow_against_keras.py
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when TensorFlow loads

import argparse
import platform
import statistics
from collections.abc import Callable
from typing import Any

from timing import SHAPES, THREADS, interleaved, shown  # first, for it sets the thread counts

import keras  # isort: skip
import numpy as np  # isort: skip
import tensorflow as tf  # isort: skip

import rnnx  # isort: skip

KERAS = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "rnn_tanh": keras.layers.SimpleRNN}

Call = Callable[[], object]


def contenders(mode: str, shape: tuple[int, ...], training: bool) -> tuple[Call, Call, Call]:
    """Return the calls of rnnx eagerly, of rnnx in a graph, and of Keras in a graph, on the same inputs."""
    batch, length, width, hidden, layers = shape
    values = np.random.default_rng(0).normal(size=(batch, length, width)).astype(np.float32)
    eager, graph = (rnnx.FusedRNNCell(hidden, layers, mode) for _ in range(2))
    eager.initialize(width, backend="tensorflow", seed=0)
    variable = tf.Variable(eager.params[f"{mode}_parameters"])
    graph.params[f"{mode}_parameters"] = variable
    inputs, slope = tf.constant(values), tf.ones((batch, length, hidden))
    stack = keras.Sequential([KERAS[mode](hidden, return_sequences=True) for _ in range(layers)])
    stack(inputs)
    assert set(eager.explain(inputs).kernels) <= {"tensorflow.compiled", "tensorflow.cudnn"}

    def unroll(sequence: Any) -> Any:
        return graph.unroll(length, sequence)[0]

    def train() -> object:
        _, _, pullback = eager.vjp(length, inputs)
        return pullback(slope)

    if training:
        mine, theirs = step(unroll, [variable]), step(stack, [each.value for each in stack.trainable_variables])
        return train, lambda: mine(inputs), lambda: theirs(inputs)
    mine, theirs = tf.function(unroll), tf.function(stack)
    return lambda: eager.unroll(length, inputs), lambda: mine(inputs), lambda: theirs(inputs)


def step(model: Callable[[Any], Any], weights: list[Any]) -> Any:
    """Return the gradients of the sum of a model's outputs with respect to inputs and weights, as a `tf.function`."""

    @tf.function
    def gradients(inputs: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(model(inputs))
        return tape.gradient(loss, [inputs, *weights])

    return gradients


def main() -> None:
    """Time every shape and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each row")
    parser.add_argument("--modes", nargs="+", default=["lstm", "gru"], choices=sorted(KERAS))
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(int(THREADS))
    tf.config.threading.set_inter_op_parallelism_threads(int(THREADS))
    print(f"{platform.machine()}, {THREADS} threads, TensorFlow {tf.__version__}, Keras {keras.__version__}\n")
    print(
        "| mode | batch, time, input, hidden, layers | what | rnnx eager, ms | rnnx in tf.function, ms "
        "| Keras in tf.function, ms | eager, ratio | tf.function, ratio |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for mode in options.modes:
        for shape in SHAPES:
            for training in (False, True):
                times = interleaved(contenders(mode, shape, training), options.seconds)
                eager, graph, theirs = map(statistics.median, times)
                what, name = "training step" if training else "inference", ", ".join(map(str, shape))
                cells = " | ".join(map(shown, times))
                print(
                    f"| {mode} | {name} | {what} | {cells} | {eager / theirs:.2f} | {graph / theirs:.2f} |", flush=True
                )


if __name__ == "__main__":
    main()

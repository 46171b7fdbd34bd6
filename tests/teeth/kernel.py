"""A fused kernel written out, every decision in a method of its own: what the faults override."""

from __future__ import annotations

import numpy as np

__all__ = ["Kernel", "sigmoid", "turned", "within"]


def sigmoid(x):
    return 0.5 * np.tanh(0.5 * x) + 0.5


def within(lengths, steps):
    """The mask (T, N) that is true at the steps that count."""
    return np.arange(steps)[:, None] < lengths


def turned(array, lengths):
    """(T, N, C) reversed in time, each row within its own length."""
    if lengths is None:
        return array[::-1]
    times = np.arange(len(array))[:, None]
    source = np.where(times < lengths, lengths - 1 - times, times)
    return np.take_along_axis(array, source[..., None], 0)


class Kernel:
    """All layers and directions of a recurrence; arguments and results as `rnnx.backend.Backend.run` has them."""

    def __init__(self, backend, recurrence, seeds):
        self.backend, self.recurrence, self.seeds = backend, recurrence, seeds
        self.mode, self.hidden = recurrence.mode, recurrence.hidden_size
        self.depth, self.directions = recurrence.num_layers, recurrence.directions

    def run(self, weights, inputs, states, lengths):
        layers, begin = self.read(weights), self.begin(states, inputs)
        current, finals = inputs, []
        for layer in range(self.depth):
            current = self.layer_inputs(layer, current, inputs)
            outputs = []
            for direction in range(self.directions):
                place = layer * self.directions + direction
                mine = self.layer_weights(layers, place)
                lengths_here = self.layer_lengths(layer, lengths)
                output, final = self.sweep(mine, current, begin[place], lengths_here, direction == 1, layer)
                outputs.append(output)
                finals.append(final)
            current = self.joined(outputs, layer)
            if layer < self.depth - 1:
                current = self.between(layer, current)
        return self.outputs(current, lengths), self.final(finals, states)

    # -- what is read -----------------------------------------------------------------------------------------------

    def read(self, weights):
        """Each layer's and direction's four weights."""
        return [tuple(map(np.asarray, layer)) for layer in weights.layers]

    def layer_weights(self, layers, place):
        return layers[place]

    def begin(self, states, inputs):
        """Each layer's and direction's states."""
        return [[state[place] for state in map(np.asarray, states)] for place in range(self.depth * self.directions)]

    def layer_inputs(self, layer, current, inputs):
        return current

    def layer_lengths(self, layer, lengths):
        return lengths

    # -- one layer in one direction ---------------------------------------------------------------------------------

    def sweep(self, weights, inputs, states, lengths, backward, layer):
        inputs = self.before(inputs, lengths) if backward else inputs
        gate_inputs = self.gate_inputs(inputs, weights)
        outputs = []
        for time in range(len(inputs)):
            new = self.step(gate_inputs[time], states, weights)
            output = new[0]
            if lengths is not None:
                mask = self.valid(time, lengths, len(inputs))[:, None]
                output = self.masked(mask, output)
                new = self.kept(mask, new, states)
            states = self.carried(new, time, backward, layer)
            outputs.append(output)
        outputs = np.stack(outputs)
        return (self.after(outputs, lengths) if backward else outputs), states

    def before(self, inputs, lengths):
        """What the backward direction reads."""
        return turned(inputs, lengths)

    def after(self, outputs, lengths):
        """What it gives."""
        return turned(outputs, lengths)

    def valid(self, time, lengths, steps):
        return time < lengths

    def masked(self, mask, output):
        return np.where(mask, output, 0)

    def kept(self, mask, new, old):
        return [np.where(mask, after, before) for after, before in zip(new, old, strict=True)]

    def carried(self, states, time, backward, layer):
        return states

    # -- one step ---------------------------------------------------------------------------------------------------

    def gate_inputs(self, inputs, weights):
        return inputs @ weights[0].T + weights[2]

    def recurrent(self, h, weights):
        return h @ weights[1].T + weights[3]

    def step(self, a, states, weights):
        """The states after a step; `a` is the inputs' share of the gates."""
        g = self.recurrent(states[0], weights)
        if self.mode == "lstm":
            return self.lstm(*np.split(a + g, 4, 1), states[1])
        if self.mode == "gru":
            return [self.gru(*np.split(a, 3, 1), *np.split(g, 3, 1), states[0], weights)]
        return [self.activation(a + g)]

    def lstm(self, i, f, c, o, cell):
        new = sigmoid(f) * cell + sigmoid(i) * np.tanh(c)
        return [sigmoid(o) * np.tanh(new), new]

    def gru(self, ar, az, an, gr, gz, gn, h, weights):
        r, z = sigmoid(ar + gr), sigmoid(az + gz)
        return self.mixed(z, np.tanh(an + r * gn), h)

    def mixed(self, z, n, h):
        return (1 - z) * n + z * h

    def activation(self, x):
        return np.maximum(x, 0) if self.mode == "rnn_relu" else np.tanh(x)

    # -- what is given ----------------------------------------------------------------------------------------------

    def joined(self, outputs, layer):
        return np.concatenate(outputs, -1)

    def between(self, layer, outputs):
        """Dropout on the way to the next layer."""
        return self.dropped(outputs, self.seeds[layer]) if self.seeds else outputs

    def dropped(self, outputs, seed):
        rate = self.recurrence.dropout
        keep = self.backend.bernoulli(seed, 1 - rate, outputs.shape, outputs)
        return np.where(keep, outputs * self.scale(rate), 0)

    def scale(self, rate):
        return 1 / (1 - rate) if rate < 1 else 0.0

    def outputs(self, outputs, lengths):
        return outputs

    def final(self, finals, states):
        return [np.stack(kind) for kind in zip(*finals, strict=True)]

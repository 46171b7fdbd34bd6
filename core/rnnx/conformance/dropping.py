"""What dropout and zoneout did in a call, read from its results, and the reference's networks that do the same.

Dropout is read through networks whose lower layers give ones and whose upper layer returns what it reads: its outputs
are the factors themselves. Zoneout is read step by step: every number is either the new one or the old one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rnnx.cells import FusedRNNCell, ZoneoutCell
from rnnx.conformance import networks, reference, unrolled
from rnnx.conformance.equations import States
from rnnx.conformance.networks import Array, Tree, Trial
from rnnx.conformance.subject import Subject

__all__ = ["Boundary", "dropped", "factors_of", "zoned", "zoned_out"]


@dataclasses.dataclass(frozen=True)
class Boundary:
    """A fused cell with dropout, what it is run on, and one place between its layers, counted from below.

    Parameters
    ----------
    layers, bidirectional, hidden, rate
        Of the cell.
    batch, steps
        N and T.
    dtype : str
        What to compute in.
    seed : int
        Of the call.
    place : int
        0 is between the lowest layer and the one above.
    fuse : bool
        Whether a kernel may run it.
    """

    layers: int
    bidirectional: bool
    hidden: int
    rate: float
    batch: int
    steps: int
    dtype: str
    seed: int
    place: int = 0
    fuse: bool = True

    def read(self, subject: Subject) -> Array:
        """Return what the upper layer's inputs were multiplied by, (N, T, D * H)."""
        halves = range(2 if self.bidirectional else 1)
        if self.place == self.layers - 2:
            outputs = unrolled.run(subject, self._trial(0), fuse=self.fuse, training=True, seed=self.seed).outputs
            return subject.numpy(outputs)
        return np.concatenate([self._states(subject, half) for half in halves], -1)

    def _states(self, subject: Subject, half: int) -> Array:
        """Read half of the factors from the upper layer's states after each step, as ever longer rows end with them."""
        at = (self.place + 1) * (2 if self.bidirectional else 1)
        trial, steps = self._trial(half), []
        for length in range(1, self.steps + 1):
            shorter = dataclasses.replace(trial, lengths=(length,) * self.batch)
            found = unrolled.run(subject, shorter, fuse=self.fuse, training=True, seed=self.seed)
            steps.append(subject.numpy(found.states[0])[at])
        return np.stack(steps, 1)

    def _trial(self, half: int) -> Trial:
        """Return the network that shows the factors; each direction of the upper layer shows a half of its own."""
        tree = networks.fused_tree(
            "rnn_relu", self.layers, self.bidirectional, self.hidden, dropout=self.rate, prefix="cell_"
        )
        trial = networks.trial(tree, self.dtype, batch=self.batch, steps=self.steps, begin=False)
        vector = np.zeros_like(trial.weights["cell_parameters"])
        directions = 2 if self.bidirectional else 1
        for layer, both in enumerate(networks.cut(tree, vector)):
            for direction, weights in enumerate(both):
                if layer == self.place + 1:
                    start = (direction + half) % directions * self.hidden
                    weights["i2h_weight"][:, start : start + self.hidden] = np.eye(self.hidden)
                else:
                    weights["i2h_bias"][:] = 1.0
        return dataclasses.replace(trial, weights={"cell_parameters": vector})


def factors_of(subject: Subject, tree: Tree, dtype: str, seed: int, fuse: bool) -> list[Array]:
    """Return what each layer but the lowest of a fused cell's tree has its inputs multiplied by, for a seed."""
    cell = tree.build()
    assert isinstance(cell, FusedRNNCell)
    fields = cell.spec.fields
    return [
        Boundary(
            fields["num_layers"],
            fields["bidirectional"],
            fields["num_hidden"],
            fields["dropout"],
            networks.BATCH,
            networks.STEPS,
            dtype,
            seed,
            place,
            fuse,
        ).read(subject)
        for place in range(fields["num_layers"] - 1)
    ]


def dropped(tree: Tree, factors: Sequence[Array]) -> Tree:
    """Return a fused cell's tree whose reference multiplies by factors between the layers."""
    fields = tree.build().spec.fields

    def network(weights: Mapping[str, Array]) -> reference.Network:
        (vector,) = weights.values()
        lowest, *upper = networks.cut(tree, vector)
        parts = [reference.stack(fields["mode"], [lowest])]
        for factor, layer in zip(factors, upper, strict=True):
            parts += [_multiplied(factor), reference.stack(fields["mode"], [layer])]
        return reference.fused(reference.sequential(*parts), 1 + (fields["mode"] == "lstm"))

    return dataclasses.replace(tree, network=network)


def _multiplied(factor: Array) -> reference.Network:
    return lambda inputs, begin, lengths: (inputs * factor, [])


# -- zoneout ----------------------------------------------------------------------------------------------------------


def zoned_out(subject: Subject, trial: Trial, seed: int) -> list[Array]:
    """Return where zoneout took the new number and not the old one, (N, T, H) of the outputs and of each state.

    The trial's tree is a `ZoneoutCell`. It is run over ever more steps, and its states after each are compared with
    those that the reference makes of the states before.
    """
    inner = reference.of_spec(_inner(trial.tree), trial.weights)
    states = [*(trial.begin or ())]
    output = np.zeros_like(trial.expected()[0][:, 0])
    kept: list[list[Array]] = []
    for time in range(trial.inputs.shape[1]):
        shorter = dataclasses.replace(trial, inputs=trial.inputs[:, : time + 1])
        found = unrolled.run(subject, shorter, training=True, seed=seed)
        new_output, new_states = reference.run(inner, trial.inputs[:, time : time + 1], states)
        after = [subject.numpy(found.outputs)[:, time], *map(subject.numpy, found.states)]
        pairs = zip(after, [new_output[:, 0], *new_states], [output, *states], strict=True)
        kept.append([_which(*pair, subject.tolerance(trial.dtype), time) for pair in pairs])
        output, *states = after
    return [np.stack(masks, 1) for masks in zip(*kept, strict=True)]


def _which(found: Array, new: Array, old: Array, tolerance: float, time: int) -> Array:
    """Return where the number found is the new one; each has to be the new or the old."""
    limit = 10 * tolerance * max(1.0, float(np.abs(new).max()))
    is_new, is_old = np.abs(found - new) <= limit, np.abs(found - old) <= limit
    if not (is_new | is_old).all():
        place = tuple(int(index) for index in np.argwhere(~(is_new | is_old))[0])
        raise AssertionError(
            f"zoneout gives {found[place]:.9g} in step {time} at {place}, neither the new number, {new[place]:.9g}, "
            f"nor the old one, {old[place]:.9g}"
        )
    return np.asarray(is_new)


def zoned(tree: Tree, masks: Sequence[Array]) -> Tree:
    """Return a `ZoneoutCell`'s tree whose reference takes new numbers where the masks say so, old ones elsewhere."""
    of_outputs, *of_states = masks

    def network(weights: Mapping[str, Array]) -> reference.Network:
        inner = reference.of_spec(_inner(tree), weights)

        def run(inputs: Array, begin: Iterator[Array] | None, lengths: Sequence[int]) -> tuple[Array, States]:
            assert begin is not None
            states, output, outputs = [next(begin) for _ in of_states], None, []
            for time in range(inputs.shape[1]):
                new_output, new = inner(inputs[:, time : time + 1], iter(states), [1] * len(inputs))
                last = np.zeros_like(new_output[:, 0]) if output is None else output
                output = np.where(of_outputs[:, time], new_output[:, 0], last)
                pairs = zip(of_states, new, states, strict=True)
                states = [np.where(mask[:, time], after, before) for mask, after, before in pairs]
                outputs.append(output)
            return np.stack(outputs, 1), states

        return run

    return dataclasses.replace(tree, network=network)


def _inner(tree: Tree) -> dict[str, object]:
    cell = tree.build()
    assert isinstance(cell, ZoneoutCell)
    return cell.base_cell.spec.to_dict()

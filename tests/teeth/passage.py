"""Faults of time, masks, layers, directions and states."""

from __future__ import annotations

import numpy as np

from teeth.fault import in_kernel
from teeth.kernel import turned

__all__ = ["FAULTS"]


def over_padding(self, array, lengths):
    return array[::-1]


def directions():
    yield from in_kernel(
        "not_reversed",
        "the backward direction runs forward",
        before=lambda self, array, lengths: array,
        after=lambda self, array, lengths: array,
    )
    yield from in_kernel(
        "reversed_over_padding", "padding is reversed as well", before=over_padding, after=over_padding
    )
    yield from in_kernel(
        "not_turned_back", "backward outputs stand in the order of running", after=lambda self, array, lengths: array
    )
    yield from in_kernel("turned_back_whole", "backward outputs are turned back over the padding", after=over_padding)
    yield from in_kernel(
        "halves_exchanged",
        "backward outputs stand before forward ones",
        joined=lambda self, outputs, layer: np.concatenate(outputs[::-1], -1),
    )
    yield from in_kernel(
        "halves_interleaved",
        "the two directions' units alternate",
        joined=lambda self, outputs, layer: np.stack(outputs, -1).reshape(*outputs[0].shape[:2], -1),
    )
    yield from in_kernel(
        "halves_added",
        "the two directions are added in the first half",
        joined=lambda self, outputs, layer: np.concatenate([sum(outputs), *outputs[1:]], -1),
    )
    yield from in_kernel(
        "forward_weights_twice",
        "the backward direction has the forward one's weights",
        layer_weights=lambda self, layers, place: layers[place - place % self.directions],
    )
    yield from in_kernel(
        "direction_major_weights",
        "weights are taken direction by direction",
        layer_weights=lambda self, layers, place: (
            layers[place % self.directions * self.depth + place // self.directions] if _alike(layers) else layers[place]
        ),
    )
    yield from in_kernel(
        "last_layer_forward_only",
        "the last layer's backward outputs are zero",
        joined=lambda self, outputs, layer: np.concatenate(
            [outputs[0], *(0 * other if layer == self.depth - 1 else other for other in outputs[1:])], -1
        ),
    )
    yield from in_kernel(
        "only_forward_passed_on",
        "the next layer reads zeros for the backward half",
        between=lambda self, layer, outputs: np.concatenate(
            [outputs[..., : self.hidden], 0 * outputs[..., self.hidden :]], -1
        ),
    )


def _alike(layers):
    return len({layer[0].shape for layer in layers}) == 1


def masks():
    yield from in_kernel(
        "lengths_ignored", "lengths are not looked at", layer_lengths=lambda self, layer, lengths: None
    )
    yield from in_kernel(
        "lengths_ignored_above",
        "lengths are not looked at from layer 1 on",
        layer_lengths=lambda self, layer, lengths: None if layer else lengths,
    )
    yield from in_kernel(
        "one_step_more", "a row runs a step too far", valid=lambda self, time, lengths, steps: time <= lengths
    )
    yield from in_kernel(
        "one_step_less", "a row stops a step early", valid=lambda self, time, lengths, steps: time < lengths - 1
    )
    yield from in_kernel(
        "empty_row_runs",
        "a row of length 0 runs one step",
        valid=lambda self, time, lengths, steps: time < np.maximum(lengths, 1),
    )
    yield from in_kernel(
        "left_padding",
        "the padding is taken to be on the left",
        valid=lambda self, time, lengths, steps: time >= steps - lengths,
    )
    yield from in_kernel(
        "sorted_lengths",
        "lengths are sorted and the rows are not",
        layer_lengths=lambda self, layer, lengths: None if lengths is None else np.sort(lengths)[::-1],
    )
    yield from in_kernel(
        "longest_for_all",
        "every row is as long as the longest",
        layer_lengths=lambda self, layer, lengths: None if lengths is None else np.full_like(lengths, lengths.max()),
    )
    yield from in_kernel(
        "padding_repeats",
        "outputs past a row's length repeat the last",
        sweep=_repeating,
        masked=lambda self, mask, output: output,
    )
    yield from in_kernel(
        "padding_not_zero",
        "outputs past a row's length are what the step gave",
        masked=lambda self, mask, output: output,
    )
    yield from in_kernel(
        "padding_nan",
        "outputs past a row's length are 0 times what the step gave",
        sweep=_poisoned,
        masked=lambda self, mask, output: output * mask,
    )
    yield from in_kernel(
        "states_run_on",
        "final states are those of the last step, padding or not",
        kept=lambda self, mask, new, old: new,
    )
    yield from in_kernel(
        "cell_runs_on",
        "h stops at a row's length and c runs on",
        kept=lambda self, mask, new, old: [np.where(mask, new[0], old[0]), *new[1:]],
    )
    yield from in_kernel(
        "states_zeroed",
        "final states of a row with padding are zero",
        kept=lambda self, mask, new, old: [np.where(mask, each, 0) for each in new],
    )
    yield from in_kernel("empty_row_zeroed", "a row of length 0 ends with zeros", run=_empty_zeroed)


def _repeating(self, weights, inputs, states, lengths, backward, layer):
    outputs, final = type(self).__mro__[1].sweep(self, weights, inputs, states, lengths, backward, layer)
    if lengths is not None and not backward:
        last = np.maximum(lengths - 1, 0)
        rows = np.arange(len(lengths))
        past = np.arange(len(outputs))[:, None, None] >= lengths[:, None]
        outputs = np.where(past, outputs[last, rows], outputs)
    return outputs, final


def _poisoned(self, weights, inputs, states, lengths, backward, layer):
    if lengths is not None:
        past = np.arange(len(inputs))[:, None, None] >= lengths[:, None]
        inputs = np.where(past, np.nan, inputs)
    return type(self).__mro__[1].sweep(self, weights, inputs, states, lengths, backward, layer)


def _empty_zeroed(self, weights, inputs, states, lengths):
    outputs, final = type(self).__mro__[1].run(self, weights, inputs, states, lengths)
    if lengths is not None:
        final = [np.where((lengths == 0)[:, None], 0, state) for state in final]
    return outputs, final


def states():
    def exchanged(order):
        def begin(self, given, inputs):
            return order(self, [list(map(np.asarray, place)) for place in zip(*given, strict=True)])

        return begin

    def ended(order):
        return lambda self, finals, given: [np.stack(kind) for kind in zip(*order(self, finals), strict=True)]

    orders = {
        "layers": ("layers", lambda self, places: _by_layer(self, places)[::-1]),
        "directions": ("directions", lambda self, places: [place[::-1] for place in _by_layer(self, places)]),
        "direction_major": (
            "layers and directions",
            lambda self, places: [
                [places[place % self.depth * self.directions + place // self.depth]] for place in range(len(places))
            ],
        ),
    }
    for name, (what, order) in orders.items():
        flat = lambda self, places, order=order: [place for layer in order(self, places) for place in layer]  # noqa: E731
        yield from in_kernel(f"begin_{name}", f"initial states of {what} are exchanged", begin=exchanged(flat))
        yield from in_kernel(f"final_{name}", f"final states of {what} are exchanged", final=ended(flat))
    yield from in_kernel("begin_hc", "h and c are exchanged at the start", begin=exchanged(_kinds_turned))
    yield from in_kernel("final_hc", "h and c are exchanged at the end", final=ended(_kinds_turned))
    ignored = {
        "h": ("h", lambda kind, place, self: kind == 0),
        "c": ("c", lambda kind, place, self: kind == 1),
        "above": ("states above the first layer", lambda kind, place, self: place >= self.directions),
        "backward": ("states of the backward direction", lambda kind, place, self: place % self.directions == 1),
    }
    for name, (what, drop) in ignored.items():
        yield from in_kernel(
            f"begin_{name}_ignored", f"initial {what} are taken for zero", begin=exchanged(_without(drop))
        )
        yield from in_kernel(f"final_{name}_zero", f"final {what} are zero", final=ended(_without(drop)))
    yield from in_kernel("final_before_last", "final states are those before the last step", sweep=_before_last)
    yield from in_kernel(
        "final_begin", "final states are the initial ones", final=lambda self, finals, given: list(given)
    )


def _by_layer(self, places):
    return [places[start : start + self.directions] for start in range(0, len(places), self.directions)]


def _kinds_turned(self, places):
    return [list(kinds)[::-1] for kinds in places]


def _without(drop):
    return lambda self, places: [
        [0 * array if drop(kind, place, self) else array for kind, array in enumerate(kinds)]
        for place, kinds in enumerate(places)
    ]


def _before_last(self, weights, inputs, states, lengths, backward, layer):
    right = type(self).__mro__[1].sweep
    outputs, _ = right(self, weights, inputs, states, lengths, backward, layer)
    if len(inputs) == 1:
        return outputs, states
    read = turned(inputs, lengths) if backward else inputs
    shorter = None if lengths is None else np.minimum(lengths, len(inputs) - 1)
    _, final = right(self, weights, read[:-1], states, shorter, False, layer)
    return outputs, final


def layers():
    yield from in_kernel(
        "inputs_again",
        "a layer whose sizes allow it reads the inputs again",
        layer_inputs=lambda self, layer, current, inputs: inputs if inputs.shape == current.shape else current,
    )
    yield from in_kernel(
        "first_layer_again",
        "every layer whose sizes allow it has the first one's weights",
        layer_weights=lambda self, layers, place: layers[
            place % self.directions if layers[place][0].shape == layers[place % self.directions][0].shape else place
        ],
    )
    yield from in_kernel(
        "second_layer_again",
        "layers above the second have its weights",
        layer_weights=lambda self, layers, place: layers[min(place, self.directions + place % self.directions)],
    )
    yield from in_kernel("last_layer_left_out", "three layers are two", run=_less_deep)
    yield from in_kernel("residual", "layers whose sizes allow it add their inputs", sweep=_residual)


def _less_deep(self, weights, inputs, states, lengths):
    if self.depth > 2:
        self.depth -= 1
        outputs, final = type(self).__mro__[1].run(self, weights, inputs, states, lengths)
        return outputs, [
            np.concatenate([state, np.asarray(given)[len(state) :]]) for state, given in zip(final, states, strict=True)
        ]
    return type(self).__mro__[1].run(self, weights, inputs, states, lengths)


def _residual(self, weights, inputs, states, lengths, backward, layer):
    outputs, final = type(self).__mro__[1].sweep(self, weights, inputs, states, lengths, backward, layer)
    return outputs + inputs if layer and inputs.shape == outputs.shape else outputs, final


def rows():
    def with_rows(change):
        def run(self, weights, inputs, states, lengths):
            outputs, final = type(self).__mro__[1].run(self, weights, inputs, states, lengths)
            return change(outputs), final

        return run

    yield from in_kernel("rows_turned", "rows of the outputs are in another order", run=with_rows(lambda o: o[:, ::-1]))
    yield from in_kernel(
        "rows_shifted", "each row has its neighbour's outputs", run=with_rows(lambda o: np.roll(o, 1, 1))
    )
    yield from in_kernel("time_shifted", "outputs come one step late", run=with_rows(lambda o: np.roll(o, 1, 0)))
    yield from in_kernel(
        "axes_confused",
        "batch and time are reshaped, not exchanged",
        run=with_rows(lambda o: o.reshape(o.shape[1], o.shape[0], -1).swapaxes(0, 1)),
    )


FAULTS = [*directions(), *masks(), *states(), *layers(), *rows()]

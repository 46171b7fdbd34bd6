"""Verification: what it runs, what it compares, and that it finds what is wrong."""

from __future__ import annotations

import dataclasses
import json
import math
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

import kernelled
import networks
import rnnx
import tier1
from rnnx import trials
from rnnx.reference import Embedding, Reference, Scoring, read_reference, reference_path
from rnnx.verification import Difference, Perplexity, verify

WIDTH, HIDDEN, BATCH, STEPS, WORDS = 5, 4, 3, 7, 11

TOKENS = np.random.default_rng(3).integers(0, WORDS, (BATCH, STEPS)).astype(np.int32)
LABELS = np.roll(TOKENS, -1, 1)


@pytest.fixture(autouse=True)
def timed_once(monkeypatch):
    monkeypatch.setattr(trials, "REPEATS", 1)


def on_numpy(*arguments, **options):
    """Verification on NumPy alone, whatever else is installed."""
    return verify(*arguments, backends=["numpy"], **options)


def fused(**options) -> rnnx.FusedRNNCell:
    cell = rnnx.FusedRNNCell(HIDDEN, **{"num_layers": 2, "prefix": "lstm_", **options})
    return networks.randomized(cell, WIDTH, "float32")


def model() -> dict[str, np.ndarray]:
    """What surrounds the recurrent part of a language model."""
    rng = np.random.default_rng(4)
    shapes = {"embed_weight": (WORDS, WIDTH), "pred_weight": (WORDS, HIDDEN), "pred_bias": (WORDS,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def recorded(cell: rnnx.BaseRNNCell, **changes) -> Reference:
    """What the cell itself computes, as if another framework had."""
    copy = rnnx.BaseRNNCell.from_spec(cell.spec)
    copy.load_params(cell.get_params())
    copy._get_next_state = True
    inputs = model()["embed_weight"][TOKENS]
    begin = [np.full([size or BATCH for size in shape], 0.3, np.float32) for shape in cell.state_shape]
    outputs, states = copy.unroll(None, inputs, begin, merge_outputs=True, fuse=False)
    scoring = Scoring(judged_perplexity(outputs), LABELS, 0, "pred_weight", "pred_bias")
    parts = (inputs, tuple(begin), outputs, tuple(networks.leaves(states)))
    return dataclasses.replace(
        Reference("mxnet 1.9.1", None, *parts, Embedding(TOKENS, "embed_weight"), scoring), **changes
    )


def judged_perplexity(outputs: np.ndarray) -> float:
    """The definition, word by word."""
    arrays, costs = model(), []
    for row, labels in zip(outputs, LABELS, strict=True):
        for output, label in zip(row, labels, strict=True):
            scores = arrays["pred_weight"].astype(float) @ output + arrays["pred_bias"]
            if label != 0:
                costs.append(min(np.logaddexp.reduce(scores) - scores[label], -math.log(1e-10)))
    return math.exp(sum(costs) / len(costs))


def by_name(verification):
    return {run.name: run for run in verification.runs}


class TestWhatRuns:
    def test_a_fused_cell_runs_planned_stepped_and_unfused(self):
        found = on_numpy(fused())
        assert {name: run.kernels for name, run in by_name(found).items()} == {
            "numpy fused": ("numpy.lstm",),
            "numpy unfused": ("numpy.loop", "numpy.loop"),
            "numpy unfuse()": ("numpy.lstm",),
        }
        assert found.verified
        assert all(run.ragged_kernels == run.kernels and run.milliseconds > 0 for run in found.runs)
        assert found.runs[0].first is None
        assert 0 < found.runs[1].first.largest < 1e-5
        assert 0 < found.runs[1].ragged.largest < 1e-5

    def test_a_stack_runs_fused_too_where_it_equals_a_fused_cell(self):
        stack = networks.sequential(rnnx.LSTMCell(HIDDEN, prefix="l0_"), rnnx.LSTMCell(HIDDEN, prefix="l1_"))
        found = on_numpy(networks.randomized(stack, WIDTH, "float64"))
        assert [run.form for run in found.runs] == ["fused", "unfused", "fuse()"]
        assert found.tolerance == 1e-12
        assert found.verified

    def test_any_other_tree_runs_in_two_forms(self):
        tree = networks.sequential(
            rnnx.BidirectionalCell(rnnx.GRUCell(HIDDEN, prefix="a_"), rnnx.LSTMCell(HIDDEN, prefix="b_")),
            rnnx.ResidualCell(rnnx.RNNCell(2 * HIDDEN, "softsign", prefix="c_")),
            fused(bidirectional=True, get_next_state=False),
        )
        found = on_numpy(networks.randomized(tree, WIDTH, "float32"))
        assert [run.form for run in found.runs] == ["fused", "unfused"]
        assert found.verified

    @pytest.mark.parametrize("dtype", ["float16", "float64"])
    @pytest.mark.parametrize("mode", networks.FUSED_MODES)
    def test_every_mode_and_dtype(self, mode, dtype):
        cell = networks.randomized(rnnx.FusedRNNCell(HIDDEN, 2, mode, bidirectional=True), WIDTH, dtype)
        found = on_numpy(cell)
        assert found.verified, found.problems
        assert len(found.runs) == 3

    def test_every_backend_runs_numpy_first(self, other_backend):
        found = verify(fused())
        backends = [run.backend for run in found.runs]
        assert backends[:3] == ["numpy"] * 3
        assert backends.count("tier1") == 3
        assert by_name(found)["tier1 fused"].kernels == ("tier1.loop", "tier1.loop")
        assert found.verified

    def test_backends_that_cannot_run_are_named_with_the_reason(self, fresh_registry):
        missing = dataclasses.replace(tier1.INFO, name="absent", framework="no_such_framework")
        broken = dataclasses.replace(
            tier1.INFO, name="broken", target="tier1:NoSuchBackend", array_types=("nowhere.Array",)
        )
        rnnx.register_backend(missing)
        rnnx.register_backend(broken)
        found = verify(fused())
        assert found.missing["absent"] == f"no_such_framework is not installed: {missing.install_hint}"
        assert "NoSuchBackend" in found.missing["broken"]
        assert found.verified

    def test_backends_can_be_chosen(self, other_backend):
        assert {run.backend for run in verify(fused(), backends=["tier1"]).runs} == {"tier1"}
        with pytest.raises(rnnx.BackendNotFoundError, match="tier1"):
            verify(fused(), backends=["tier2"])

    def test_where_nothing_ran_nothing_is_verified(self):
        assert verify(fused(), backends=[]).problems == ("there is no backend to run on",)

    def test_progress_is_told_before_each_run(self):
        told = []
        on_numpy(fused(), progress=lambda *what: told.append(what))
        assert told == [(0, 3, "numpy fused"), (1, 3, "numpy unfused"), (2, 3, "numpy unfuse()")]

    def test_the_cell_is_left_as_it_was(self):
        cell = fused(get_next_state=False)
        before, spec = cell.get_params(), cell.spec
        on_numpy(cell)
        assert cell.spec == spec
        np.testing.assert_array_equal(cell.get_params()["lstm_parameters"], before["lstm_parameters"])

    def test_a_cell_of_the_users_own_is_refused(self):
        cell = networks.randomized(networks.PeepholeLSTM(HIDDEN), WIDTH)
        with pytest.raises(rnnx.UnsupportedError, match="PeepholeLSTM"):
            on_numpy(cell)

    def test_a_cell_without_weights_is_refused(self):
        with pytest.raises(rnnx.UnsupportedError, match="not there"):
            on_numpy(rnnx.LSTMCell(HIDDEN))


class TestBrokenBackends:
    def verified_with(self, name, cell=None, reference=None):
        rnnx.register_backend(kernelled.info(name))
        return verify(cell or fused(), model(), reference, ["numpy", name])

    def test_a_right_one_passes(self, fresh_registry):
        found = self.verified_with("right")
        assert by_name(found)["right fused"].kernels == ("right.lstm",)
        assert found.verified

    def test_swapped_gates_are_found_where_they_are(self, fresh_registry):
        found = self.verified_with("swapping")
        assert [run.name for run in found.runs if not run.agrees] == ["swapping fused", "swapping unfuse()"]
        assert found.problems[0].startswith("swapping fused differs from numpy fused by ")
        assert by_name(found)["swapping fused"].first.outputs > 1e-3

    def test_swapped_gates_are_found_against_a_reference(self, fresh_registry):
        cell = fused()
        found = self.verified_with("swapping", cell, recorded(cell))
        assert found.problems[0].startswith("swapping fused differs from mxnet 1.9.1 by ")

    def test_a_mask_that_is_not_kept_is_found_by_the_ragged_run_alone(self, fresh_registry):
        run = by_name(found := self.verified_with("unmasked"))["unmasked fused"]
        assert run.first.agrees
        assert not run.ragged.agrees
        assert "over ragged sequences" in found.problems[0]

    def test_what_it_raises_is_reported_and_stops_nobody_else(self, fresh_registry):
        found = self.verified_with("raising")
        runs = by_name(found)
        assert runs["raising fused"].failure == "RuntimeError: no kernel image is available"
        assert runs["raising unfused"].agrees
        assert runs["numpy fused"].agrees
        assert found.problems[0] == "raising fused failed: RuntimeError: no kernel image is available"

    def test_where_the_first_fails_the_next_is_what_others_are_compared_with(self, fresh_registry):
        rnnx.register_backend(kernelled.info("raising"))
        found = verify(fused(), backends=["raising", "numpy"])
        assert found.baseline == "raising unfused"
        assert by_name(found)["numpy fused"].agrees
        assert not found.verified

    def test_outputs_of_another_shape_differ_whatever_they_hold(self, fresh_registry):
        run = by_name(self.verified_with("narrow"))["narrow fused"]
        assert run.first.outputs == math.inf
        assert not run.agrees

    def test_no_backend_gets_weights_that_another_has_had(self, fresh_registry):
        cell = fused()
        rnnx.register_backend(kernelled.info("lossy"))
        found = verify(cell, model(), recorded(cell), ["lossy", "numpy"])
        assert [run.backend for run in found.runs if run.recorded.agrees] == ["numpy"] * 3

    def test_nan_agrees_with_nothing(self):
        cell = fused()
        weights = cell.get_params()
        weights["lstm_parameters"][0] = np.nan
        cell.load_params(weights)
        found = on_numpy(cell)
        assert math.isnan(found.runs[1].first.outputs)
        assert not found.verified


class TestReference:
    def test_all_of_it_is_checked(self):
        cell = fused(get_next_state=False)
        found = on_numpy(cell, model(), recorded(cell))
        assert found.verified, found.problems
        assert (found.source, found.batch, found.steps) == ("mxnet 1.9.1", BATCH, STEPS)
        assert found.embedding == 0
        assert all(run.recorded.largest < 1e-6 for run in found.runs)
        assert found.perplexity.computed == pytest.approx(found.perplexity.recorded, rel=1e-6)

    @pytest.mark.parametrize("what", ["outputs", "states"])
    def test_other_numbers_are_found(self, what):
        cell = fused()
        reference = recorded(cell)
        wrong = (
            {"outputs": reference.outputs + np.float32(3e-5)}
            if what == "outputs"
            else {"states": (reference.states[0], reference.states[1] + np.float32(1e-3))}
        )
        found = on_numpy(cell, model(), dataclasses.replace(reference, **wrong))
        run = found.runs[1]
        assert getattr(run.recorded, what) == pytest.approx(3e-5 if what == "outputs" else 1e-3, rel=0.1)
        assert not run.recorded.agrees
        assert run.first.agrees
        assert found.problems[0].startswith("numpy fused differs from mxnet 1.9.1 by ")

    def test_tolerance_grows_with_the_numbers_of_each_array_alone(self):
        cell = networks.randomized(rnnx.RNNCell(HIDDEN, "relu"), WIDTH, "float32", scale=4.0)
        reference = recorded(cell)
        largest = float(np.abs(reference.outputs).max())
        assert largest > 100
        near = dataclasses.replace(reference, outputs=reference.outputs + np.float32(5e-6 * largest))
        far = dataclasses.replace(reference, outputs=reference.outputs + np.float32(3e-5 * largest))
        assert on_numpy(cell, model(), near).runs[0].recorded.agrees
        assert not on_numpy(cell, model(), far).runs[0].recorded.agrees

    def test_float64_weights_are_held_to_what_a_float32_reference_can_tell(self):
        cell = fused()
        reference = recorded(cell)
        found = on_numpy(cell.to("numpy", dtype="float64"), model(), reference)
        assert found.tolerance == 1e-5
        assert found.verified

    def test_another_embedding_is_found(self):
        cell = fused()
        reference, arrays = recorded(cell), model()
        arrays["embed_weight"][TOKENS[0, 0], 2] += 0.5
        found = on_numpy(cell, arrays, reference)
        assert found.embedding == pytest.approx(0.5)
        assert found.problems == ("the embedded tokens differ from the recorded inputs by 5.0e-01",)

    def test_another_output_layer_is_found(self):
        cell = fused()
        reference, arrays = recorded(cell), model()
        arrays["pred_bias"][3] += 0.5
        (problem,) = on_numpy(cell, arrays, reference).problems
        assert problem.startswith("the perplexity is ")
        assert f"recorded as {reference.scoring.perplexity:.6g}" in problem

    def test_a_reference_need_not_be_of_a_language_model(self):
        cell = fused()
        found = on_numpy(cell, {}, recorded(cell, embedding=None, scoring=None))
        assert found.verified
        assert (found.embedding, found.perplexity) == (None, None)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"inputs": np.zeros((BATCH, STEPS, 6), np.float32)}, r"inputs have shape \(3, 7, 6\).*\(3, 7, 5\)"),
            ({"outputs": np.zeros((BATCH, STEPS, 8), np.float32)}, r"outputs have shape \(3, 7, 8\).*\(3, 7, 4\)"),
            ({"states": (np.zeros((2, 3, 4), np.float32),)}, r"states have shape \[\(2, 3, 4\)\].*\(2, 3, 4\), \("),
        ],
    )
    def test_one_of_another_network_is_refused(self, changes, message):
        cell = fused()
        with pytest.raises(rnnx.WeightFormatError, match=message):
            on_numpy(cell, model(), recorded(cell, **changes))

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("pred_weight", None, "needs array 'pred_weight'"),
            ("pred_bias", np.zeros(3), r"'pred_bias' \(3,\) make no scores"),
            ("pred_weight", np.zeros((WORDS, 9)), r"'pred_weight' \(11, 9\)"),
            ("embed_weight", np.zeros((5, WIDTH)), "'embed_weight' has 5 rows"),
            ("embed_weight", None, "needs array 'embed_weight'"),
        ],
    )
    def test_arrays_that_do_not_fit_it_are_refused(self, name, value, message):
        cell = fused()
        arrays = {key: array for key, array in {**model(), name: value}.items() if array is not None}
        with pytest.raises(rnnx.WeightFormatError, match=message):
            on_numpy(cell, arrays, recorded(cell))

    def test_it_becomes_json(self):
        cell = fused()
        text = json.dumps(on_numpy(cell, model(), recorded(cell)).to_dict(), allow_nan=False)
        found = json.loads(text)
        assert found["verified"] is True
        assert found["perplexity"]["agrees"] is True
        assert [run["agrees"] for run in found["runs"]] == [True] * 3


class TestPerplexity:
    def test_labels_that_do_not_count_do_not_count(self):
        outputs = np.random.default_rng(5).normal(size=(BATCH, STEPS, HIDDEN))
        scoring = Scoring(1.0, LABELS, 0, "pred_weight", "pred_bias")
        assert (LABELS == 0).any()
        assert scoring.score(outputs, model()) == pytest.approx(judged_perplexity(outputs))
        counting = dataclasses.replace(scoring, ignore_label=None)
        assert counting.score(outputs, model()) != pytest.approx(judged_perplexity(outputs), rel=1e-3)

    def test_an_impossible_word_costs_what_mxnet_lets_it_cost(self):
        outputs = np.zeros((1, 2, HIDDEN))
        arrays = {"w": np.zeros((2, HIDDEN)), "b": np.array([0.0, 500.0])}
        scoring = Scoring(1.0, np.array([[0, 1]]), None, "w", "b")
        assert scoring.score(outputs, arrays) == pytest.approx(math.exp(-math.log(1e-10) / 2))

    @pytest.mark.parametrize(
        ("computed", "agrees"), [(41.9624, True), (41.9616, True), (41.963, False), (41.961, False), (math.nan, False)]
    )
    def test_five_significant_digits(self, computed, agrees):
        assert Perplexity(41.962, computed).agrees is agrees

    @pytest.mark.parametrize(("recorded", "computed"), [(1.0, 1.00004), (99999.0, 99999.4), (123456.0, 123460.0)])
    def test_digits_are_counted_from_the_first(self, recorded, computed):
        assert Perplexity(recorded, computed).agrees
        assert not Perplexity(recorded, recorded + 3 * (computed - recorded)).agrees


TENSORS = {
    "inputs": np.zeros((2, 3, 4), np.float32),
    "outputs": np.zeros((2, 3, 5), np.float32),
    "begin_state_0": np.zeros((2, 5), np.float32),
    "begin_state_1": np.ones((2, 5), np.float32),
    "state_0": np.zeros((2, 5), np.float32),
    "state_1": np.zeros((2, 5), np.float32),
    "tokens": np.ones((2, 3), np.int32),
    "labels": np.ones((2, 3), np.int32),
}

METADATA = {
    "format": "rnnx-reference",
    "format_version": "1",
    "layout": "NTC",
    "produced_by": "mxnet 1.9.1",
    "perplexity": "41.5",
    "ignore_label": "0",
    "embedding": "embed_weight",
    "decoder_weight": "pred_weight",
    "decoder_bias": "pred_bias",
}


class TestReferenceFile:
    def written(self, path, tensors=(), metadata=()):
        """A file like the one above with some parts changed, or left out where they are None."""
        arrays = {name: array for name, array in {**TENSORS, **dict(tensors)}.items() if array is not None}
        texts = {key: text for key, text in {**METADATA, **dict(metadata)}.items() if text is not None}
        save_file(arrays, path / "x.reference.safetensors", texts)
        return path / "x.reference.safetensors"

    def test_it_is_read_whole(self, tmp_path):
        found = read_reference(self.written(tmp_path))
        assert (found.source, found.part) == ("mxnet 1.9.1", None)
        assert [state.shape for state in found.states] == [(2, 5), (2, 5)]
        np.testing.assert_array_equal(found.begin_states[1], TENSORS["begin_state_1"])
        assert found.embedding.array == "embed_weight"
        assert (found.scoring.perplexity, found.scoring.ignore_label) == (41.5, 0)
        assert (found.scoring.weight, found.scoring.bias) == ("pred_weight", "pred_bias")

    def test_it_stands_beside_the_checkpoint(self, tmp_path):
        assert reference_path(tmp_path / "a-0010.params") == tmp_path / "a-0010.reference.safetensors"

    def test_what_is_optional_may_be_left_out(self, tmp_path):
        path = self.written(
            tmp_path, {"tokens": None, "labels": None}, {"perplexity": None, "ignore_label": None, "part": "lstm_"}
        )
        found = read_reference(path)
        assert (found.embedding, found.scoring, found.part) == (None, None, "lstm_")

    def test_labels_may_all_count(self, tmp_path):
        assert read_reference(self.written(tmp_path, (), {"ignore_label": None})).scoring.ignore_label is None

    @pytest.mark.parametrize(
        ("tensors", "message"),
        [
            ({"inputs": None}, "tensor 'inputs' is missing"),
            ({"inputs": np.zeros((2, 3), np.float32)}, r"'inputs' holds float32 \(2, 3\), expected floats with 3 axes"),
            ({"inputs": np.zeros((2, 3, 4), np.int32)}, "'inputs' holds int32"),
            ({"inputs": np.zeros((0, 3, 4), np.float32)}, r"'inputs' holds float32 \(0, 3, 4\)"),
            ({"outputs": np.zeros((2, 4, 5), np.float32)}, r"'outputs' has N, T = \(2, 4\), and the inputs"),
            ({"begin_state_0": None}, "tensor 'begin_state_0' is missing"),
            ({"state_1": None}, "initial and final states differ"),
            ({"state_1": np.zeros((2, 6), np.float32)}, "initial and final states differ"),
            ({"labels": None}, "tensor 'labels' is missing"),
            ({"labels": np.ones((2, 4), np.int32)}, r"'labels' has N, T = \(2, 4\)"),
            ({"labels": np.ones((2, 3), np.float32)}, "'labels' holds float32"),
            ({"labels": np.zeros((2, 3), np.int32)}, "every label is 0"),
            ({"tokens": np.ones((3, 2), np.int32)}, r"'tokens' has N, T = \(3, 2\)"),
        ],
    )
    def test_a_wrong_tensor_is_named(self, tmp_path, tensors, message):
        path = self.written(tmp_path, tensors)
        with pytest.raises(rnnx.WeightFormatError, match=message) as caught:
            read_reference(path)
        assert str(path) in str(caught.value)

    @pytest.mark.parametrize(
        ("metadata", "message"),
        [
            ({"format": "rnnx"}, "'format' is 'rnnx', expected 'rnnx-reference'"),
            ({"format": None}, "'format' is missing"),
            ({"format_version": "2"}, "'format_version' is '2', expected '1'"),
            ({"layout": "TNC"}, "'layout' is 'TNC', expected 'NTC'"),
            ({"produced_by": None}, "'produced_by' is missing"),
            ({"perplexity": "many"}, "no number: .*'many'"),
            ({"perplexity": "nan"}, "the perplexity recorded is nan"),
            ({"perplexity": "0"}, "the perplexity recorded is 0"),
            ({"ignore_label": "none"}, "no number: .*'none'"),
            ({"decoder_bias": None}, "'decoder_bias' is missing"),
        ],
    )
    def test_wrong_metadata_are_named(self, tmp_path, metadata, message):
        with pytest.raises(rnnx.WeightFormatError, match=message):
            read_reference(self.written(tmp_path, (), metadata))

    def test_a_damaged_file_is_refused(self, tmp_path):
        path = self.written(tmp_path)
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(rnnx.WeightFormatError, match="is damaged"):
            read_reference(path)

    def test_a_dtype_that_numpy_does_not_have_is_refused(self, tmp_path):
        header = json.dumps({"inputs": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
        (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0")
        with pytest.raises(rnnx.WeightFormatError, match=r"reference file .*(is damaged|is missing)"):
            read_reference(tmp_path / "x")


def test_the_larger_of_two_differences_is_nan_if_one_is():
    assert math.isnan(Difference(1.0, math.nan, agrees=False).largest)

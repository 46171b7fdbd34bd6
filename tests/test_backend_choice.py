"""Which backend a call uses, and what happens where two meet."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import rnnx
import tier1
from rnnx import registry

# -- choosing --------------------------------------------------------------------------------------------------------


def test_use_backend_nests(other_backend):
    assert registry.default_backend().name == "numpy"
    with rnnx.use_backend("tier1") as chosen:
        assert chosen is other_backend
        assert registry.default_backend() is other_backend
        with rnnx.use_backend("numpy"):
            assert registry.default_backend().name == "numpy"
        assert registry.default_backend() is other_backend
    assert registry.default_backend().name == "numpy"


def test_use_backend_is_undone_by_an_error(other_backend):
    with pytest.raises(ZeroDivisionError), rnnx.use_backend("tier1"):
        raise ZeroDivisionError
    assert registry.default_backend().name == "numpy"


def test_use_backend_refuses_an_unknown_name_at_once():
    with pytest.raises(rnnx.BackendNotFoundError, match="'nope'"), rnnx.use_backend("nope"):
        raise AssertionError("the block must not run")


def test_use_backend_is_of_its_own_thread(other_backend):
    inside, done, found = threading.Event(), threading.Event(), []

    def elsewhere():
        inside.wait()
        found.append(registry.default_backend().name)
        done.set()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    with rnnx.use_backend("tier1"):
        inside.set()
        done.wait()
    thread.join()
    assert found == ["numpy"]


def test_use_backend_makes_weights_and_states_there(other_backend):
    cell = rnnx.LSTMCell(2)
    with rnnx.use_backend("tier1"):
        cell.initialize(3)
        assert other_backend.owns(rnnx.GRUCell(2).begin_state(batch_size=1)[0])
    assert all(other_backend.owns(cell.params[name]) for name in cell.params)
    assert other_backend.owns(cell.begin_state(batch_size=1)[0])


@pytest.mark.parametrize("ready", [True, False], ids=["with weights", "without"])
def test_the_inputs_outrank_use_backend(other_backend, ready):
    cell = rnnx.LSTMCell(2)
    if ready:
        cell.initialize(3, backend="numpy", dtype="float64")
    with rnnx.use_backend("tier1"):
        outputs, _ = cell.unroll(None, np.ones((1, 2, 3)), merge_outputs=True)
        assert isinstance(outputs, np.ndarray)


def test_backend_outranks_use_backend(other_backend):
    cell = rnnx.LSTMCell(2)
    with rnnx.use_backend("tier1"):
        cell.initialize(3, backend="numpy")
        assert isinstance(cell.params["lstm_i2h_bias"], np.ndarray)
        assert isinstance(cell.begin_state(batch_size=1)[0], np.ndarray)


def test_the_environment_chooses_below_use_backend(other_backend, monkeypatch):
    monkeypatch.setenv("RNNX_BACKEND", "tier1")
    rnnx.refresh()
    rnnx.register_backend(tier1.INFO)
    assert registry.default_backend().name == "tier1"
    with rnnx.use_backend("numpy"):
        assert registry.default_backend().name == "numpy"


def test_the_environment_is_read_at_first_use(fresh_registry, monkeypatch):
    rnnx.list_backends()
    monkeypatch.setenv("RNNX_BACKEND", "nope")
    assert registry.default_backend().name == "numpy"
    rnnx.refresh()
    with pytest.raises(rnnx.BackendNotFoundError, match="'nope'"):
        registry.default_backend()
    monkeypatch.setenv("RNNX_BACKEND", "")
    rnnx.refresh()
    assert registry.default_backend().name == "numpy"
    monkeypatch.delenv("RNNX_BACKEND")


def test_a_wrong_environment_does_not_break_the_import():
    code = "import rnnx; print([s.name for s in rnnx.list_backends()]); rnnx.LSTMCell(2).begin_state(batch_size=1)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "RNNX_BACKEND": "nope"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "'numpy'" in run.stdout
    assert "BackendNotFoundError: no backend is called 'nope'" in run.stderr


# -- conflicts -------------------------------------------------------------------------------------------------------


def wrapped(shape, dtype="float64"):
    return tier1.Wrapped(np.ones(shape, dtype))


def test_inputs_and_weights_of_two_backends(other_backend):
    cell = rnnx.LSTMCell(2)
    cell.initialize(3, dtype="float64")
    with pytest.raises(rnnx.BackendMismatchError, match=r"(?=.*numpy)(?=.*tier1).*cell\.to\(") as caught:
        cell.unroll(None, wrapped((1, 2, 3)))
    assert isinstance(caught.value, TypeError)
    outputs, _ = cell.to("tier1").unroll(None, wrapped((1, 2, 3)), merge_outputs=True)
    assert other_backend.owns(outputs)


def test_steps_of_two_backends(other_backend):
    with pytest.raises(rnnx.BackendMismatchError, match=r"tier1\.Wrapped belongs to backend 'tier1', where 'numpy' is"):
        rnnx.LSTMCell(2).unroll(None, [np.ones((1, 3)), wrapped((1, 3))])


def test_inputs_and_states_of_two_backends(other_backend):
    cell = rnnx.GRUCell(2)
    cell.initialize(3, dtype="float64")
    with pytest.raises(rnnx.BackendMismatchError, match="'tier1', where 'numpy' is in use"):
        cell.unroll(None, np.ones((1, 2, 3)), [wrapped((1, 2))])
    with pytest.raises(rnnx.BackendMismatchError, match="'tier1', where 'numpy' is in use"):
        cell(np.ones((1, 3)), [wrapped((1, 2))])


def test_weights_of_two_backends(other_backend):
    cell = rnnx.LSTMCell(2)
    cell.initialize(3)
    mixed = {name: array if "bias" in name else tier1.Wrapped(array) for name, array in cell.get_params().items()}
    with pytest.raises(rnnx.BackendMismatchError, match="'tier1'"):
        rnnx.LSTMCell(2).load_params(mixed)


@pytest.mark.parametrize("inputs", [[[1.0, 2.0]], "text", 3.0, object(), {"a": 1}])
def test_an_array_of_no_backend(inputs):
    with pytest.raises(rnnx.BackendMismatchError, match=r"no backend takes an object of type builtins\.\w+; there are"):
        rnnx.LSTMCell(2).unroll(None, inputs)


@pytest.mark.parametrize("state", [None, 1.0, "h"])
def test_a_state_of_no_backend(state):
    cell = rnnx.GRUCell(2)
    cell.initialize(3, dtype="float64")
    with pytest.raises(rnnx.BackendMismatchError, match="no backend takes an object of type"):
        cell.unroll(None, np.ones((1, 2, 3)), [state])


# -- devices ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def placing(other_backend, monkeypatch):
    """The second backend, with its arrays on the device that they were made for, ``"one"`` by default."""
    make = tier1.Tier1Backend.from_numpy

    def from_numpy(self, array, device=None):
        made = make(self, array)
        made.place = device or "one"
        return made

    monkeypatch.setattr(tier1.Tier1Backend, "from_numpy", from_numpy)
    monkeypatch.setattr(tier1.Tier1Backend, "device", lambda self, array: getattr(array, "place", "one"))
    return other_backend


def test_states_are_made_where_the_weights_are(placing):
    cell = rnnx.LSTMCell(2)
    cell.initialize(3, backend="tier1", device="two")
    assert {cell.params[name].place for name in cell.params} == {"two"}
    assert [state.place for state in cell.begin_state(batch_size=1)] == ["two", "two"]
    assert [state.place for state in cell.begin_state(batch_size=1, device="three")] == ["three", "three"]


def test_weights_stay_on_their_device_or_are_moved(placing):
    cell = rnnx.LSTMCell(2)
    cell.initialize(3, backend="tier1", device="two")
    cell.load_params(cell.get_params())
    assert {cell.params[name].place for name in cell.params} == {"two"}
    cell.to("tier1", device="three")
    assert {cell.params[name].place for name in cell.params} == {"three"}


def test_weights_are_made_where_the_inputs_are(placing):
    cell = rnnx.LSTMCell(2)
    cell(placing.from_numpy(np.ones((1, 3)), "two"), None)
    assert {cell.params[name].place for name in cell.params} == {"two"}


def test_inputs_and_weights_and_states_of_two_devices(placing):
    cell = rnnx.GRUCell(2)
    cell.initialize(3, backend="tier1", dtype="float64")
    with pytest.raises(rnnx.BackendMismatchError, match=r"device one and the inputs have two: .*device='two'\)"):
        cell(placing.from_numpy(np.ones((1, 3)), "two"), None)
    with pytest.raises(rnnx.BackendMismatchError, match=r"states\[0\] has device two, and the inputs have one"):
        cell(placing.from_numpy(np.ones((1, 3))), [placing.from_numpy(np.ones((1, 2)), "two")])

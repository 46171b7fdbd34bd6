"""Finding backends, choosing one, and what happens when a plugin is broken."""

from __future__ import annotations

import dataclasses
import types
from importlib.metadata import entry_points

import numpy as np
import pytest

import rnnx
import tier1
from rnnx import discovery
from rnnx.backend import API_VERSION, BackendInfo
from rnnx.hookspecs import hookimpl

INFO = BackendInfo(
    name="toy",
    api_version=API_VERSION,
    framework="numpy",
    array_types=("toy.Array",),
    target="tier1:Tier1Backend",
    install_hint="pip install toy",
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """What the registry uses of an entry point."""

    name: str
    load: object
    value: str = "elsewhere"


def plugin(name: str = "toy_plugin", **members: object) -> types.ModuleType:
    """A plugin module with these members."""
    module = types.ModuleType(name)
    vars(module).update(members)
    return module


def bringing(*infos: BackendInfo) -> types.ModuleType:
    """A plugin that brings backends."""

    @hookimpl
    def rnnx_backends():
        return list(infos)

    return plugin(rnnx_backends=rnnx_backends)


def raising(error: BaseException):
    """A function that raises."""

    def fail(*args: object) -> None:
        raise error

    return fail


def numpy_entry() -> Entry:
    import rnnx_numpy.plugin

    return Entry("numpy", lambda: rnnx_numpy.plugin, "rnnx_numpy.plugin")


@pytest.fixture
def installed(monkeypatch):
    """Install plugins: objects, or functions that import them, by entry-point name; NumPy's is always there."""

    def install(**plugins):
        entries = [
            Entry(name, p if isinstance(p, types.FunctionType) else lambda p=p: p) for name, p in plugins.items()
        ]
        monkeypatch.setattr(discovery, "entry_points", lambda group: [*entries, numpy_entry()])
        rnnx.refresh()

    yield install
    monkeypatch.undo()
    rnnx.refresh()


def status_of(name: str) -> rnnx.BackendStatus:
    (found,) = [status for status in rnnx.list_backends() if status.name == name]
    return found


def assert_numpy_works() -> None:
    assert status_of("numpy").available
    cell = rnnx.LSTMCell(2)
    outputs, _ = cell.unroll(None, np.ones((1, 2, 3)), merge_outputs=True)
    assert outputs.shape == (1, 2, 2)


# -- discovery -------------------------------------------------------------------------------------------------------


def test_numpy_is_an_entry_point_like_any_other():
    assert "rnnx_numpy.plugin" in {entry.value for entry in entry_points(group="rnnx")}
    assert status_of("numpy") == rnnx.BackendStatus("numpy", True, "", status_of("numpy").info)
    assert rnnx.get_backend("numpy") is rnnx.get_backend("numpy")


def test_entry_points_are_asked_for_by_group_and_once(monkeypatch, installed):
    installed()
    groups = []
    monkeypatch.setattr(discovery, "entry_points", lambda group: groups.append(group) or [numpy_entry()])
    assert groups == []
    rnnx.list_backends()
    rnnx.get_backend("numpy")
    assert groups == ["rnnx"]
    rnnx.refresh()
    assert groups == ["rnnx"]
    rnnx.list_backends()
    assert groups == ["rnnx", "rnnx"]


def test_a_plugin_brings_backends(installed):
    installed(toy=bringing(INFO, dataclasses.replace(INFO, name="other")))
    assert [status.name for status in rnnx.list_backends()] == ["numpy", "other", "toy"]
    assert status_of("toy") == rnnx.BackendStatus("toy", True, "", INFO)
    assert isinstance(rnnx.get_backend("toy"), tier1.Tier1Backend)
    assert_numpy_works()


@pytest.mark.parametrize("brought", [[], None])
def test_a_plugin_may_bring_none(installed, brought):
    @hookimpl
    def rnnx_backends():
        return brought

    installed(toy=plugin(rnnx_backends=rnnx_backends))
    assert [status.name for status in rnnx.list_backends()] == ["numpy"]


def test_a_plugin_may_have_other_functions(installed):
    helpers = plugin(helper=lambda: None, rnnx_version="1.0")
    installed(toy=helpers)
    assert [status.name for status in rnnx.list_backends()] == ["numpy"]


BROKEN = {
    "import": (raising(ModuleNotFoundError("No module named 'toyframework'")), "ModuleNotFoundError: No module named"),
    "crash": (raising(RuntimeError("driver mismatch")), "RuntimeError: driver mismatch"),
    "exit": (raising(SystemExit(3)), "SystemExit: 3"),
    "hook": (plugin(rnnx_backends=hookimpl(raising(ValueError("no device")))), "ValueError: no device"),
    "misspelt": (
        plugin(rnnx_backend=hookimpl(lambda: [INFO])),
        r"there is no hook 'rnnx_backend' \(nearest: 'rnnx_backends'\)",
    ),
    "unmarked": (plugin(rnnx_backends=lambda: [INFO]), "rnnx_backends is not marked with @rnnx.hookspecs.hookimpl"),
    "arguments": (plugin(rnnx_backends=hookimpl(lambda framework: [INFO])), "framework"),
    "version": (
        bringing(dataclasses.replace(INFO, api_version=99)),
        "'toy' is written for version 99 .* has version 1",
    ),
    "duplicate": (
        bringing(dataclasses.replace(INFO, name="numpy")),
        "two backends are called 'numpy': .*rnnx_numpy.backend:NumpyBackend.*",
    ),
    "strings": (bringing("toy"), "BackendInfo"),
    "no list": (plugin(rnnx_backends=hookimpl(lambda: INFO)), "BackendInfo"),
}


@pytest.mark.parametrize(("broken", "cause"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_plugin_harms_nobody(installed, broken, cause):
    installed(zz_bad=broken, good=bringing(dataclasses.replace(INFO, name="good")))
    status = status_of("zz_bad")
    assert not status.available
    with pytest.raises(rnnx.BackendNotFoundError, match=f"(?s)plugin 'zz_bad' is broken: .*{cause}") as caught:
        rnnx.get_backend("zz_bad")
    assert isinstance(caught.value, ImportError)
    assert caught.value.__cause__ is not None
    assert status.reason in str(caught.value)
    assert {status.name for status in rnnx.list_backends() if status.available} == {"numpy", "good"}
    assert_numpy_works()


def test_a_broken_plugin_leaves_nothing_half_done(installed):
    installed(zz_bad=bringing(dataclasses.replace(INFO, name="half"), dataclasses.replace(INFO, api_version=99)))
    assert [status.name for status in rnnx.list_backends() if status.available] == ["numpy"]


def test_the_first_of_two_plugins_with_one_name_stays(installed):
    other = dataclasses.replace(INFO, target="elsewhere:Backend")
    installed(a_first=bringing(INFO), b_second=bringing(other))
    assert status_of("toy").info == INFO
    assert "two backends are called 'toy': tier1:Tier1Backend and elsewhere:Backend" in status_of("b_second").reason


# -- loading ---------------------------------------------------------------------------------------------------------


def test_an_unknown_backend_is_named_with_its_neighbours(installed):
    installed(toy=bringing(INFO))
    with pytest.raises(rnnx.BackendNotFoundError, match=r"called 'nunpy' \(nearest: 'numpy'\); there are numpy, toy"):
        rnnx.get_backend("nunpy")


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("no_such_framework_xyz.backend:Backend", "ModuleNotFoundError: No module named 'no_such_framework_xyz'"),
        ("tier1:NoSuchClass", "AttributeError: .*NoSuchClass"),
    ],
)
def test_a_backend_that_does_not_import_says_what_to_install(installed, target, cause):
    installed(toy=bringing(dataclasses.replace(INFO, target=target)))
    with pytest.raises(rnnx.BackendNotFoundError, match=f"'toy' does not import .*{cause}.*: pip install toy"):
        rnnx.get_backend("toy")
    assert_numpy_works()


def test_a_backend_that_cannot_start_says_why(installed, monkeypatch):
    monkeypatch.setattr(tier1.Tier1Backend, "__init__", raising(OSError("libtoy.so: cannot open shared object file")))
    installed(toy=bringing(INFO))
    with pytest.raises(rnnx.BackendNotFoundError, match=r"'toy' .*libtoy\.so: cannot open.*pip install toy"):
        rnnx.get_backend("toy")


def test_a_target_must_be_a_backend(installed):
    installed(toy=bringing(dataclasses.replace(INFO, target="builtins:dict")))
    with pytest.raises(rnnx.BackendNotFoundError, match=r"builtins:dict is not a subclass of rnnx\.backend\.Backend"):
        rnnx.get_backend("toy")


def test_a_missing_framework_is_told_without_importing(installed):
    installed(toy=bringing(dataclasses.replace(INFO, framework="no_such_framework_xyz.core")))
    status = status_of("toy")
    assert not status.available
    assert status.reason == "no_such_framework_xyz.core is not installed: pip install toy"


# -- registration without an entry point -----------------------------------------------------------------------------


def test_register_and_refresh(fresh_registry):
    rnnx.register_backend(tier1.INFO)
    assert status_of("tier1").available
    assert isinstance(rnnx.get_backend("tier1"), tier1.Tier1Backend)
    rnnx.register_backend(tier1.INFO)
    rnnx.refresh()
    assert [status.name for status in rnnx.list_backends() if status.name == "tier1"] == []
    with pytest.raises(rnnx.BackendNotFoundError, match="'tier1'"):
        rnnx.get_backend("tier1")


def test_a_name_is_registered_once(fresh_registry):
    with pytest.raises(rnnx.RNNXError, match="two backends are called 'numpy'"):
        rnnx.register_backend(dataclasses.replace(INFO, name="numpy"))
    with pytest.raises(rnnx.RNNXError, match="version 2 of the backend contract, and this rnnx has version 1"):
        rnnx.register_backend(dataclasses.replace(INFO, api_version=2))
    assert_numpy_works()


def test_a_cell_outlives_a_refresh():
    cell = rnnx.LSTMCell(2)
    cell.initialize(3, dtype="float64")
    rnnx.refresh()
    assert cell.unroll(None, np.ones((1, 2, 3)), merge_outputs=True)[0].shape == (1, 2, 2)


def test_two_backends_cannot_claim_one_type_of_array(installed):
    installed(toy=bringing(INFO), zz_twin=bringing(dataclasses.replace(INFO, name="twin")))
    assert f"'toy' and 'twin' both say that {INFO.array_types[0]} is theirs" in status_of("zz_twin").reason


def test_a_plugin_cannot_take_the_name_of_rnnxs_own(installed):
    installed(a_thief=bringing(dataclasses.replace(INFO, name="numpy")))
    assert "two backends are called 'numpy'" in status_of("a_thief").reason
    assert_numpy_works()


def test_a_capability_that_there_is_not_is_reported(installed):
    installed(toy=bringing(dataclasses.replace(INFO, capabilities=("float32", "gradient"))))
    with pytest.raises(rnnx.BackendNotFoundError, match=r"declares 'gradient', which is no capability.*'gradients'"):
        rnnx.get_backend("toy")


class Unnamed(tier1.Wrapped):
    """An array whose class no backend names."""


@pytest.mark.parametrize(("framework", "found"), [("numpy", True), ("toyframework", False)])
def test_an_array_of_an_unnamed_class_is_asked_about_where_the_framework_is_there(installed, framework, found):
    installed(toy=bringing(dataclasses.replace(INFO, framework=framework)))
    if found:
        assert rnnx.registry.backend_of([Unnamed(np.zeros(1))]).name == "tier1"
    else:
        with pytest.raises(rnnx.BackendMismatchError, match="Unnamed"):
            rnnx.registry.backend_of([Unnamed(np.zeros(1))])


def test_a_broken_backend_is_not_asked_whose_an_array_is(installed):
    installed(toy=bringing(dataclasses.replace(INFO, target="tier1:NoSuchBackend")))
    with pytest.raises(rnnx.BackendMismatchError, match=r"builtins\.list"):
        rnnx.LSTMCell(2).unroll(None, [[0.5]])

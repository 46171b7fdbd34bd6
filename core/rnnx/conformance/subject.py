"""`Subject`: the backend under test, on one device, and what it has to live up to."""

from __future__ import annotations

import copy
import dataclasses
import math
import types
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from rnnx.backend import Array, Backend, BackendInfo
from rnnx.cells import BaseRNNCell
from rnnx.errors import RNNXError, nearest
from rnnx.hookspecs import PROJECT, Conformance
from rnnx.registry import conformance_of, get_backend, list_backends, register_plugin

__all__ = ["DTYPES", "TOLERANCES", "Subject", "register_hooks", "subjects_of"]

#: Largest differences that pass, relative to the largest number expected and at least 1: by dtype, and for gradients.
TOLERANCES: Mapping[str, float] = MappingProxyType(
    {
        "float64": 1e-12,
        "float64.gradients": 1e-11,
        "float32": 1e-5,
        "float32.gradients": 1e-4,
        "float16": 2e-2,
        "float16.gradients": 5e-2,
        "bfloat16": 1e-1,
        "bfloat16.gradients": 2e-1,
    }
)

#: The dtypes that a backend can declare.
DTYPES = tuple(key for key in TOLERANCES if "." not in key)

Cell = TypeVar("Cell", bound=BaseRNNCell)


@dataclasses.dataclass(frozen=True)
class Subject:
    """The backend under test, on one of its devices.

    Parameters
    ----------
    info : BackendInfo
        What it says of itself before it is imported.
    backend : Backend
        The backend.
    device : str
        Where every array of the test is.
    conformance : Conformance
        Its own tolerances and expected failures.
    """

    info: BackendInfo
    backend: Backend
    device: str
    conformance: Conformance = dataclasses.field(default_factory=Conformance)

    @property
    def name(self) -> str:
        """The name that users type."""
        return self.info.name

    @property
    def capabilities(self) -> frozenset[str]:
        """What it declares that it does, of `rnnx.backend.CAPABILITIES`."""
        return frozenset(self.info.capabilities)

    @property
    def tolerances(self) -> dict[str, float]:
        """Every tolerance, its own where it has one."""
        return {**TOLERANCES, **self.conformance.tolerances}

    def tolerance(self, dtype: str, gradients: bool = False) -> float:
        """Return the largest difference that passes, relative to the largest number expected and at least 1.

        Parameters
        ----------
        dtype : str
            What the backend computed in.
        gradients : bool
            Whether these are gradients.
        """
        return self.tolerances[f"{dtype}.gradients" if gradients else dtype]

    def array(self, values: npt.ArrayLike) -> Array:
        """Return the values as an array of the framework, on the device, in the dtype they have in NumPy."""
        return self.backend.from_numpy(np.asarray(values), self.device)

    def numpy(self, array: Array) -> npt.NDArray[np.float64]:
        """Return an array of the framework in float64, to be judged; `backend.to_numpy` keeps its dtype."""
        return np.array(self.backend.to_numpy(array)).astype(np.float64)

    def placed(self, cell: Cell, dtype: str) -> Cell:
        """Return a copy of a cell whose weights are in the backend, on the device, in `dtype`."""
        moved = copy.deepcopy(cell)
        moved.to(self.name, self.device, dtype)
        return moved


def register_hooks(plugin: object, name: str) -> None:
    """Register a module as a plugin of rnnx, as its entry point would, if it has hooks of rnnx.

    Raises
    ------
    RNNXError
        If one of its hooks is not as it should be, or brings what is there already.
    """
    if isinstance(plugin, types.ModuleType) and any(
        isinstance(value, types.FunctionType) and hasattr(value, f"{PROJECT}_impl") for value in vars(plugin).values()
    ):
        register_plugin(plugin, name)


def subjects_of(name: str, device: str | None = None) -> list[Subject]:
    """Return the backend under test, once for every device that it is to be tested on.

    Parameters
    ----------
    name : str
        The backend's name.
    device : str, optional
        One device; otherwise those of its `Conformance`, and its first where that names none.

    Raises
    ------
    BackendNotFoundError
        If there is none, or its framework is not installed; the message says what to install.
    RNNXError
        If it has no such device, declares no dtype, or its `Conformance` has a tolerance that there is not.
    """
    backend, info = get_backend(name), _info_of(name)
    conformance = conformance_of(backend)
    _check_tolerances(name, conformance.tolerances)
    if not set(info.capabilities) & set(DTYPES):
        raise RNNXError(
            f"backend {name!r} declares no dtype, so there is nothing to judge: put one or more of "
            f"{', '.join(DTYPES)} into the capabilities of its BackendInfo"
        )
    chosen = (device,) if device else conformance.devices or backend.devices()[:1]
    for each in chosen:
        if each not in backend.devices():
            raise RNNXError(f"backend {name!r} has no device {each!r}; there are {', '.join(backend.devices())}")
    return [Subject(info, backend, each, conformance) for each in chosen]


def _info_of(name: str) -> BackendInfo:
    return next(status.info for status in list_backends() if status.name == name and status.info is not None)


def _check_tolerances(name: str, tolerances: Mapping[str, Any]) -> None:
    for key, value in tolerances.items():
        if key not in TOLERANCES:
            raise RNNXError(
                f"backend {name!r} has a tolerance for {key!r}, which there is not{nearest(key, TOLERANCES)}"
            )
        if not (isinstance(value, float | int) and 0 < value < math.inf):
            raise RNNXError(f"backend {name!r} has a tolerance of {value!r} for {key!r}, expected a number above 0")

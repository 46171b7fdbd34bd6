"""All planted faults by name, and their backends as this module's attributes, where a `BackendInfo` finds them."""

from __future__ import annotations

from teeth import arrays, equations, gradients, memory, passage, plans, precision, randomness
from teeth.right import RightBackend

__all__ = ["FAULTS", "right"]

CHAPTERS = (equations, passage, randomness, gradients, arrays, precision, memory, plans)

FAULTS = {fault.name: fault for chapter in CHAPTERS for fault in chapter.FAULTS}
assert len(FAULTS) == sum(len(chapter.FAULTS) for chapter in CHAPTERS), "two faults have one name"

#: The backend that nothing is wrong with.
right = RightBackend


def __getattr__(name):
    if name in FAULTS:
        return FAULTS[name].backend
    raise AttributeError(f"no fault is called {name!r}")

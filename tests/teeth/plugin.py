"""A plugin of pytest that makes known the backends which ``RNNX_FAULTS`` names: faults, or ``right``."""

from __future__ import annotations

import os

from rnnx.hookspecs import hookimpl
from teeth.fault import Fault, info_of
from teeth.planted import FAULTS
from teeth.right import RightBackend

RIGHT = Fault("right", "nothing is wrong", "", RightBackend)


@hookimpl
def rnnx_backends():
    return [info_of(FAULTS.get(name, RIGHT)) for name in os.environ["RNNX_FAULTS"].split()]

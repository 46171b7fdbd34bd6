"""Which dtype a check runs in where it needs only one."""

from __future__ import annotations

from rnnx.conformance.subject import Subject

__all__ = ["most_exact", "usual"]


def most_exact(subject: Subject) -> str:
    """Return the declared dtype with the most digits: mistakes show best in it."""
    return _first(subject, ("float64", "float32", "float16", "bfloat16"))


def usual(subject: Subject) -> str:
    """Return float32 where it is declared: what kernels are made for."""
    return _first(subject, ("float32", "float64", "float16", "bfloat16"))


def _first(subject: Subject, preferred: tuple[str, ...]) -> str:
    return next(dtype for dtype in preferred if dtype in subject.capabilities)

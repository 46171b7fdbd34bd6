"""Backends that are each wrong in one way, and how many of them the conformance suite catches."""

"""``rnnx backends``: what is installed, and what is not and why."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import click
from rich import box
from rich.table import Table
from rich.text import Text

from rnnx.cli.options import json_option
from rnnx.cli.screen import console, plain, print_json, progress_bar
from rnnx.discovery import BackendStatus
from rnnx.errors import BackendNotFoundError
from rnnx.registry import get_backend, list_backends

__all__ = ["backends"]


@click.command()
@json_option
def backends(as_json: bool) -> None:
    """List the backends, and why one cannot be used."""
    found = []
    statuses = list_backends()
    with progress_bar("importing", as_json) as advance:
        for done, status in enumerate(statuses):
            advance(done, len(statuses), status.name)
            found.append(_described(status))
    if as_json:
        print_json({"backends": found})
    else:
        console().print(_table(found))


def _described(status: BackendStatus) -> dict[str, Any]:
    """Return what is known of a backend once its framework has been imported."""
    framework = status.info.framework if status.info else None
    described = {
        "name": status.name,
        "available": status.available,
        "reason": status.reason,
        "framework": framework,
        "version": _version(framework) if framework and status.available else None,
        "devices": [],
    }
    if status.available:
        try:
            described["devices"] = list(get_backend(status.name).devices())
        except BackendNotFoundError as error:
            described |= {"available": False, "reason": str(error)}
    return described


def _version(framework: str) -> str | None:
    try:
        return metadata.version(framework.partition(".")[0])
    except metadata.PackageNotFoundError:
        return None


def _table(found: list[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("backend", style="bold", no_wrap=True)
    table.add_column("")
    table.add_column("framework")
    table.add_column("devices", overflow="fold")
    for each in found:
        framework = " ".join(filter(None, (each["framework"], each["version"])))
        if each["available"]:
            table.add_row(plain(each["name"]), Text("ready", "green"), framework, ", ".join(each["devices"]))
        else:
            table.add_row(plain(each["name"]), Text("missing", "yellow"), framework, plain(each["reason"]))
    return table

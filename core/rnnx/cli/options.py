"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["activation_option", "file_argument", "json_option"]

file_argument = click.argument("file", type=click.Path(path_type=Path))

activation_option = click.option(
    "--activation", metavar="NAME", help="Activation of plain recurrent cells, where the file does not tell it."
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")

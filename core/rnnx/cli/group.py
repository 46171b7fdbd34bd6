"""The group of commands, which tells a user's errors in one line."""

from __future__ import annotations

from typing import Any

import click

from rnnx.cli.screen import plain
from rnnx.errors import RNNXError

__all__ = ["BAD_INPUT", "DIFFERS", "ReportingGroup"]

#: Exit codes: numbers differ; the input or the command is wrong (that of click itself).
DIFFERS, BAD_INPUT = 1, 2


class ReportingGroup(click.Group):
    """Commands whose errors are one line on stderr, unless ``--debug`` asks for the traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader has seen enough: click ends quietly
            raise
        except (RNNXError, OSError) as error:
            if ctx.params["debug"]:
                raise
            click.echo(f"error: {plain(_told(error))}", err=True)
            return ctx.exit(BAD_INPUT)


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)

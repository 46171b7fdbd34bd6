"""The command line, ``rnnx``: one module a command."""

from __future__ import annotations

import click

from rnnx.cli.backends import backends
from rnnx.cli.conformance import conformance
from rnnx.cli.convert import convert
from rnnx.cli.group import ReportingGroup
from rnnx.cli.inspect import inspect
from rnnx.cli.new_backend import new_backend
from rnnx.cli.verify import verify

__all__ = ["main"]


@click.group(cls=ReportingGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show where an error was raised.")
@click.version_option(package_name="rnnx", message="%(prog)s %(version)s")
def main(debug: bool) -> None:
    """Read, convert and verify recurrent networks.

    FILE is an MXNet checkpoint's PREFIX-0001.params, with PREFIX-symbol.json beside it or not, or a file of rnnx.

    Exit codes: 0 all is well, 1 numbers differ, 2 the input or the command is wrong.
    """


for command in (backends, inspect, convert, verify, conformance, new_backend):
    main.add_command(command)

"""Arguments and options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from rnnx.cells import BaseRNNCell
from rnnx.cli.expression import cell_of
from rnnx.errors import RNNXError
from rnnx.found import Assumptions

__all__ = ["CellType", "assuming", "file_argument", "json_option"]

file_argument = click.argument("file", type=click.Path(path_type=Path))

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")


class CellType(click.ParamType[BaseRNNCell]):
    """A cell tree, typed as in Python."""

    name = "cell"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> BaseRNNCell:
        """Return the tree that the text describes."""
        if isinstance(value, BaseRNNCell):
            return value
        try:
            return cell_of(value)
        except RNNXError as error:
            self.fail(str(error), param, ctx)


def assuming(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options for what a file may not tell: arguments `cell` and `assume`."""

    def run(*arguments: Any, activation: str | None, forget_bias: float | None, **options: Any) -> Any:
        return command(*arguments, assume=Assumptions(activation, forget_bias), **options)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    for option in (
        click.option(
            "--forget-bias", type=float, metavar="NUMBER", help="What TensorFlow 1's LSTM cells add to the forget gate."
        ),
        click.option(
            "--activation", metavar="NAME", help="Activation of plain recurrent cells, where the file does not tell it."
        ),
        click.option(
            "--cell",
            type=CellType(),
            metavar="TREE",
            help="The cell tree, as in Python: \"FusedRNNCell(60, num_layers=2, mode='gru')\".",
        ),
    ):
        run = option(run)
    return run

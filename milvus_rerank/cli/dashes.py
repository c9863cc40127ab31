"""Texts on the command line that begin with a dash, and so look like options."""

from typing import Any

import typer
from typer.core import TyperCommand

# The class of usage errors, which typer does not export: it is click's, or that of typer's copy of click.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class TextCommand(TyperCommand):
    """A command with texts as arguments: the error for an unknown option says how to pass a text with a dash."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments."""
        try:
            return super().parse_args(ctx, args)
        except _UsageError as error:
            unknown: Any = error
            if getattr(error, "option_name", None) and not getattr(error, "possibilities", True):
                unknown.message += (
                    f". If it begins a text, write -- before the texts, and options before that: "
                    f"{ctx.command_path} [OPTIONS] -- {' '.join(self._metavars())}"
                )
            raise

    def _metavars(self) -> list[str]:
        names = [str(parameter.name).upper() for parameter in self.params if parameter.param_type_name == "argument"]
        return [f"{name}..." if name.endswith("S") else name for name in names]

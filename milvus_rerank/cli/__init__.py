"""The command ``milvus-rerank``: each subcommand parses its arguments, calls one function and prints the result."""

import shutil
import sys
from typing import Annotated

import typer

from milvus_rerank import __version__
from milvus_rerank.cli import (
    batch,
    calibrate,
    demo,
    eval,
    export,
    index,
    mcp,
    models,
    rerank,
    search,
    serve,
    size,
    train,
    tune,
)
from milvus_rerank.cli.dashes import TextCommand
from milvus_rerank.cli.output import NARROW, calm, drop_stdout, open_streams, print_error
from milvus_rerank.errors import RerankError

columns = shutil.get_terminal_size().columns
narrow = columns < NARROW  # rich's boxes would cut the names of options
app = typer.Typer(
    name="milvus-rerank",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None if narrow else "rich",
    context_settings={"help_option_names": ["-h", "--help"], "terminal_width": columns if narrow else None},
)
for module in (demo, rerank, index, search, eval, serve, mcp, batch, size, calibrate, train, tune, export, models):
    takes_texts = module in (rerank, search)
    app.command(cls=TextCommand if takes_texts else None)(getattr(module, module.__name__.rpartition(".")[2]))


def _version(wanted: bool) -> None:
    if wanted:
        print(f"milvus-rerank {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Rerank Milvus search hits with cross-encoder and BGE models.

    To complete commands, options and their words with the Tab key in bash, zsh, fish and PowerShell, type once
    milvus-rerank --install-completion, and open a new shell.
    """


def main() -> None:
    """Run the command and exit with its code: 0 for success, 1 for an error, 2 for wrong usage, 130 for Ctrl-C."""
    open_streams()
    calm()
    try:
        try:
            app(prog_name="milvus-rerank")
        finally:
            sys.stdout.flush()
    except RerankError as error:
        print_error(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        drop_stdout()  # the reader has closed the pipe, as `| head` does
        sys.exit(1)
    except OSError as error:  # such as a full disk
        drop_stdout()
        print_error(str(error))
        sys.exit(1)

"""The option ``--config``: values of the config file become the defaults of a command's options."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

if TYPE_CHECKING:
    from milvus_rerank.config import Config

VARIABLE = "MILVUS_RERANK_CONFIG"
_MILVUS = ("uri", "token", "db_name", "timeout", "collection", "embedder")
_SEARCH = ("candidates", "top_k", "threshold", "output_fields", "expression", "instruction")
READ = {
    "batch": (*_MILVUS, "candidates", "expression", "instruction", "mode", "vector_field"),
    "eval": (*_MILVUS, "candidates", "expression", "first_stage", "instruction", "text_field", "vector_field"),
    "index": _MILVUS,
    "rerank": (),
    "search": (*_MILVUS, *_SEARCH, "mode", "text_field", "vector_field"),
    "serve": ("milvus_uri", "token", "db_name", "collection", "embedder", "text_field", "vector_field"),
}
"""Parameters of each command whose defaults the config file sets. The table of the reranker is used as a whole."""


class ConfigFile(NamedTuple):
    """A config file that was read."""

    path: Path
    config: "Config"


def _use(context: typer.Context, path: Path | None) -> ConfigFile | None:
    """Read the config file, and make its values the defaults of the command's options."""
    if path is None or context.resilient_parsing:  # while the shell completes, a wrong file is no error
        return None
    from milvus_rerank.config import read_config

    config, command = read_config(path), str(context.command.name)
    values = {name: value for name, value in _values(config).items() if name in READ[command] and value is not None}
    if command == "serve" and config.collection.name:
        values["collection"] = [config.collection.name]
    context.default_map = values
    return ConfigFile(path, config)


def _values(config: "Config") -> dict[str, Any | Callable[[], Any]]:
    """Return the values of parameters; a function is called only if the command line does not have the option."""
    milvus, collection, search = config.milvus, config.collection, config.search
    field = collection.text_field
    return {
        "uri": milvus.uri,
        "milvus_uri": milvus.uri,
        "token": milvus.token,
        "db_name": milvus.db_name,
        "timeout": milvus.timeout,
        "collection": collection.name,
        "text_field": ",".join(field) if isinstance(field, list) else field,
        "vector_field": collection.vector_field,
        "mode": collection.mode,
        "first_stage": collection.mode and [collection.mode],
        "embedder": config.embedder.name,
        "candidates": search.candidates,
        "top_k": search.top_k,
        "threshold": search.threshold,
        "output_fields": search.output_fields,
        "expression": search.filter,
        "instruction": search.instruction,
    }


# The value is a ConfigFile or None: the callback returns it in place of the path.
ConfigOption = Annotated[
    Any,
    typer.Option(
        "--config",
        metavar="FILE",
        parser=Path,
        callback=_use,
        is_eager=True,
        envvar=VARIABLE,
        help="A TOML file with values of these options. The command line and the environment win over it.",
    ),
]

"""Options that several commands share, and the objects that they create."""

import inspect
import json
import math
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milvus_rerank.choices import MAX_CANDIDATES, Dtype, EngineName, Mode
from milvus_rerank.cli import output
from milvus_rerank.errors import OptionError, RegistryError
from milvus_rerank.text_field import TextField

if TYPE_CHECKING:
    from milvus_rerank.cli.config import ConfigFile
    from milvus_rerank.reranker.base import BaseRerankFunction

DEFAULT_EMBEDDER = "builtin/embed"
DEFAULT_MODEL = "builtin/rerank"
FLAGS = {
    "model_name": "--model",
    "device": "--device",
    "dtype": "--dtype",
    "engine": "--engine",
    "threads": "--threads",
    "score_cache": "--score-cache",
}
"""The options of rerankers that have a flag of their own; all others are given by ``--option``."""


def check_text(text: str) -> str:
    """Return a text from the command line; raise a usage error if its bytes were not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise typer.BadParameter("this is not UTF-8 text") from error
    return text


def check_number(number: float | None) -> float | None:
    """Return a number from the command line; raise a usage error for nan, which older click lets pass every limit."""
    if number is not None and math.isnan(number):
        raise typer.BadParameter(f"{number} is not a number")
    return number


def check_candidates(number: int) -> int:
    """Return a number of hits; raise a usage error for more than Milvus returns."""
    if number > MAX_CANDIDATES:
        raise typer.BadParameter(f"Milvus returns at most {MAX_CANDIDATES} hits of a search, got {number}")
    return number


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout, and nothing else there.")]
Jsonl = Annotated[bool, typer.Option("--jsonl", help="Print one JSON object per result and line to stdout.")]
Query = Annotated[str, typer.Argument(help="What to look for.", callback=check_text, show_default=False)]
Uri = Annotated[str, typer.Option(help="A Milvus Lite file (*.db), or a server: http://host:19530.")]
Token = Annotated[
    str, typer.Option(help="The server's token: user:password or an API key.", envvar="MILVUS_TOKEN", show_envvar=True)
]
Timeout = Annotated[
    float,
    typer.Option(help="Seconds that one call to Milvus may take.", min=0.001, max=86400, callback=check_number),
]


def _reranker_names(incomplete: str) -> list[str]:
    """Return the names of rerankers, for the completion of the shell."""
    from milvus_rerank.registry import available

    return [entry.name for entry in available() if entry.name.startswith(incomplete)]


Reranker = Annotated[
    str | None,
    typer.Option(
        autocompletion=_reranker_names,
        help="A registered reranker; see: milvus-rerank models. (default: the right one for the model)",
        show_default=False,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(help="A built-in model, a folder, or a name on the model hub. (default: builtin/rerank)"),
]
_EMBEDDERS = (
    "builtin/embed; a folder or hub name of sentence-transformers or model2vec; fastembed:NAME; openai:MODEL; or "
    "module:function."
)
EmbedderName = Annotated[str, typer.Option("--embedder", help=_EMBEDDERS)]
IndexEmbedder = Annotated[
    str | None,
    typer.Option("--embedder", help=f"{_EMBEDDERS} (default: the collection's, or builtin/embed)", show_default=False),
]
SearchEmbedder = Annotated[
    str | None,
    typer.Option(
        "--embedder", help=f"{_EMBEDDERS} (default: the one that the collection remembers)", show_default=False
    ),
]
DbName = Annotated[
    str, typer.Option("--db-name", help="The server's database. (default: its default)", show_default=False)
]
SearchTextField = Annotated[
    str | None,
    typer.Option(
        "--text-field",
        help="The field to rerank by, several, separated by commas, or a template such as '{title}: {text}'. "
        "(default: text, or the only one with texts)",
        show_default=False,
    ),
]
Filter = Annotated[str, typer.Option("--filter", help="Milvus' filter, such as 'year > 1950'.")]
SearchMode = Annotated[
    Mode | None,
    typer.Option(
        "--mode",
        help="Search by vectors, by BM25, or by both. (default: vectors, or BM25 where there are none)",
        show_default=False,
    ),
]
Collection = Annotated[
    str | None, typer.Option(help="The collection. (default: the only collection)", show_default=False)
]
Instruction = Annotated[
    str | None,
    typer.Option(help="Says what is relevant, for a reranker that takes instructions.", show_default=False),
]
VectorField = Annotated[
    str | None,
    typer.Option(
        "--vector-field", help="The field to search. (default: vector, or the only one of its kind)", show_default=False
    ),
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1 or mps. (default: a GPU if there is one)", show_default=False)
]
Precision = Annotated[
    Dtype | None,
    typer.Option(
        "--dtype",
        help="The precision of the model; auto is the fastest that keeps the order of documents. (default: float32)",
        show_default=False,
    ),
]
Engine = Annotated[
    EngineName | None,
    typer.Option(help="The engine of the model; auto is the fastest that can run it. (default: auto)"),
]
Threads = Annotated[
    int | None,
    typer.Option(help="The most CPU threads of the model. (default: the CPUs that it may use)", min=1),
]
RerankerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option", help="An option of the reranker, such as engine=onnx or base_url=http://host; repeatable."
    ),
]
Judged = Annotated[
    Path,
    typer.Option(
        help='The judged queries: JSON lines of "query" and "relevant", a list of ids; a BEIR folder; or judgments of '
        "TREC with --queries.",
        show_default=False,
    ),
]
JudgedQueryTexts = Annotated[
    Path | None, typer.Option(help="The queries of TREC judgments: JSONL, or id and text with a tab.")
]
TopK = Annotated[int, typer.Option("--top-k", "-k", help="How many results; 0 for all.", min=0)]
Candidates = Annotated[
    int, typer.Option(help="How many hits of the first stage to rerank.", min=1, callback=check_candidates)
]
Threshold = Annotated[
    float | None,
    typer.Option(help="Keep only results with a rerank score of at least this.", callback=check_number),
]


def check_output(as_json: bool, as_jsonl: bool) -> None:
    """Raise a usage error if two forms of output are chosen."""
    if as_json and as_jsonl:
        raise typer.BadParameter("choose one of --json and --jsonl", param_hint="--jsonl")


def read_options(pairs: list[str] | None) -> dict[str, Any]:
    """Return the options of ``--option KEY=VALUE``; a value that is JSON is read as that, any other is a string."""
    values: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise typer.BadParameter(f"expected KEY=VALUE, got {pair!r}", param_hint="--option")
        if key in values:
            raise typer.BadParameter(f"{key!r} is given twice", param_hint="--option")
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    return values


def read_text_field(value: str | None) -> TextField | None:
    """Return the ``text_field`` that an option means: a template, or names separated by commas; None for None."""
    if value is None or "{" in value:
        return value and value.replace("\\n", "\n")
    names = split_commas([value])
    return names if names and len(names) > 1 else value


@dataclass(frozen=True, slots=True)
class ChosenReranker:
    """A reranker that the command line or the config file chooses.

    :param name: its registered name; None for the right one for its model.
    :param options: its options; the model is ``model_name``.
    :param config: the config file that chooses it; None for the command line.
    """

    name: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    config: Path | None = None

    @property
    def label(self) -> str:
        """Its name for people."""
        default = DEFAULT_MODEL if self.name in (None, "cross-encoder") else str(self.name)
        return str(self.options.get("model_name", default))

    def load(self, **extra: Any) -> "BaseRerankFunction":
        """Load it, with more options."""
        from milvus_rerank.registry import find_loader

        options = {**self.options, **extra}
        try:
            return find_loader(self.name, options.pop("model_name", None))(**options)
        except (OptionError, RegistryError) as error:
            if self.config is None:
                raise
            raise type(error)(f"{self.config}: [reranker]: {error}") from error


def choose_reranker(
    file: "ConfigFile | None", name: str | None, pairs: list[str] | None, **flags: Any
) -> ChosenReranker:
    r"""Return the reranker that the command line chooses, or else that of the config file.

    Options of the command line are added to those of the config file. If the command line names a reranker or a model,
    those of the config file are not used: they are of another one.

    :param file: the config file; None without one.
    :param name: the value of ``--reranker``.
    :param pairs: the values of ``--option``.
    :param \**flags: the values of the flags of :data:`FLAGS`; None for one that was not given.
    :returns: the reranker.
    """
    options = {key: value for key, value in flags.items() if value is not None}
    extra = read_options(pairs)
    for key in extra.keys() & options.keys():
        raise typer.BadParameter(f"{key!r} is given by {FLAGS[key]}, too", param_hint="--option")
    options |= extra
    if file is None or name is not None or "model_name" in options:
        return ChosenReranker(name, options)
    table = file.config.reranker
    return ChosenReranker(table.name, table.to_options() | options, file.path)


def make_reranker(chosen: ChosenReranker) -> "BaseRerankFunction":
    """Load a reranker, and show that it loads."""
    from milvus_rerank.registry import available

    name, model = chosen.name, chosen.options.get("model_name")
    factory = next((entry.load() for entry in available() if entry.name == (name or "cross-encoder")), None)
    parameters = inspect.signature(factory).parameters if factory else {}
    if factory and all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
        unknown = [key for key in chosen.options if key in FLAGS and key not in parameters]
        if unknown and chosen.config is None:
            raise typer.BadParameter(f"the reranker {name!r} does not take this option", param_hint=FLAGS[unknown[0]])
    local = name in (None, "cross-encoder") if model is None else model.startswith("builtin/") or Path(model).is_dir()
    if "show_progress" in parameters and sys.stderr.isatty() and not local:
        return chosen.load(show_progress=True)  # a download shows its own progress bar
    with output.spinner("Loading the reranker"):
        return chosen.load()


def collection_name(source: Path) -> str:
    """Return a valid Milvus collection name made from the name of a file or folder."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", source.resolve().stem if source.is_file() else source.resolve().name)
    return name if re.match(r"[A-Za-z_]", name) else f"_{name}"


def split_commas(values: list[str] | None) -> list[str] | None:
    """Return the items of a list option, which may be repeated or hold several items separated by commas."""
    return None if not values else [item.strip() for value in values for item in value.split(",") if item.strip()]

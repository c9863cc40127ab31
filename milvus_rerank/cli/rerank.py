"""``milvus-rerank rerank``: read texts and print them ordered by score."""

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, TypeAlias

import typer

from milvus_rerank.cli import options, output
from milvus_rerank.cli.config import ConfigOption
from milvus_rerank.errors import InputError
from milvus_rerank.jsonl import open_input
from milvus_rerank.records import Form, read_records, text_of
from milvus_rerank.text_field import TextTemplate, read_text_field

if TYPE_CHECKING:
    from milvus_rerank.results import RerankResult

_Records: TypeAlias = tuple[list[dict[str, Any]], list[str]]
"""Objects of the input, and the text of each."""
RESULT_KEYS = ("rank", "index", "score")
LONG = 200
"""The number of texts from which on a progress bar shows the time left; fewer take a second or two."""


def rerank(
    query: options.Query,
    texts: Annotated[list[str] | None, typer.Argument(help="The texts to rerank.", show_default=False)] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Read the texts from this file; - is stdin.")
    ] = None,
    input_format: Annotated[
        Form,
        typer.Option("--input", help="A text a line, an object a line, an array, a table, or Parquet; auto looks."),
    ] = "auto",
    text_field: Annotated[
        str,
        typer.Option(
            help="The key or column of the text, several, separated by commas, or a template: '{title}: {text}'."
        ),
    ] = "text",
    instruction: options.Instruction = None,
    top_k: options.TopK = 0,
    threshold: options.Threshold = None,
    reranker: options.Reranker = None,
    model: options.Model = None,
    device: options.Device = None,
    dtype: options.Precision = None,
    engine: options.Engine = None,
    threads: options.Threads = None,
    option: options.RerankerOption = None,
    config: ConfigOption = None,
    as_json: options.Json = False,
    as_jsonl: options.Jsonl = False,
) -> None:
    """Rerank texts from the arguments, a file or stdin.

    Write -- before texts that begin with a dash: rerank --top-k 3 -- QUERY "-5 degrees". In files and stdin they need
    nothing.

    Results in JSON have rank, index and score. JSON objects keep their keys; a key named rank, index or score comes
    back as input_rank, input_index, input_score, or as input_input_rank where that name is taken too.
    """
    options.check_output(as_json, as_jsonl)
    chosen = options.choose_reranker(
        config, reranker, option, model_name=model, device=device, dtype=dtype, engine=engine, threads=threads
    )
    if not query.strip():
        raise typer.BadParameter("the query is empty", param_hint="QUERY")
    from milvus_rerank.reranker.local import EngineRerankFunction

    template = read_text_field(options.read_text_field(text_field))
    records, bodies = _records(texts, file, input_format, template)
    function = options.make_reranker(chosen)
    if len(records) >= LONG and sys.stderr.isatty() and isinstance(function, EngineRerankFunction):
        function.scorer.show_progress = True
    results = function(query, bodies, top_k=top_k, threshold=threshold, instruction=instruction)
    answers = [_answer(records[result.index], result, rank) for rank, result in enumerate(results, 1)]
    if as_jsonl:
        for answer in answers:
            output.print_json(answer, indent=None)
    elif as_json:
        output.print_json({"query": query, "reranker": chosen.label, "documents": len(records), "results": answers})
    else:
        _print_table(results)


def _records(texts: list[str] | None, file: Path | None, form: Form, template: TextTemplate) -> _Records:
    if texts == ["-"] and file is None:
        texts, file = None, Path("-")
    if texts and file:
        raise typer.BadParameter("give texts as arguments or in a file, not both", param_hint="--file")
    if texts:
        checked = [options.check_text(text) for text in texts]
        return [{template.names[0]: text} for text in checked], checked
    if file is not None and str(file) != "-":
        with open_input(file) as lines:
            return _read(lines, str(file), form, template)
    if sys.stdin is None or (file is None and sys.stdin.isatty()):  # stdin is None if the shell has closed it with <&-
        raise typer.BadParameter("give texts as arguments, with --file, or on stdin", param_hint="TEXTS")
    return _read(io.BytesIO(sys.stdin.buffer.read()), "stdin", form, template)


def _read(file: BinaryIO, name: str, form: Form, template: TextTemplate) -> _Records:
    records, texts = [], []
    for where, record in read_records(file, name, form, template.names[0]):
        parts = [text_of(record, where, field) for field in template.names]
        texts.append(template.join(parts) if template.around else parts[0])
        records.append(record)
    if not records:
        raise InputError(f"{name} holds no texts; expected one a line, JSON objects, a JSON array, or a CSV table")
    return records, texts


def _answer(record: dict[str, Any], result: "RerankResult", rank: int) -> dict[str, Any]:
    answer = {"rank": rank, "index": result.index, "score": result.score}
    for key, value in record.items():
        free = key
        while free in RESULT_KEYS or (free != key and free in record):
            free = f"input_{free}"
        answer[free] = value
    return answer


def _print_table(results: "list[RerankResult]") -> None:
    output.print_table(
        ("#", "score", "was", "text"),
        (
            (str(rank), f"{result.score:.4f}", str(result.index + 1), " ".join(result.text.split()))
            for rank, result in enumerate(results, 1)
        ),
    )

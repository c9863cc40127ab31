"""``milvus-rerank demo``: index, search and rerank the shipped collection with the shipped models."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from milvus_rerank.cli import options, output
from milvus_rerank.errors import write_errors
from milvus_rerank.requirements import require


def demo(
    queries: Annotated[int, typer.Option(help="How many queries the table shows; --json has all.", min=0)] = 4,
    candidates: options.Candidates = 30,
    model: options.Model = None,
    embedder: options.EmbedderName = options.DEFAULT_EMBEDDER,
    device: options.Device = "cpu",
    dtype: options.Precision = None,
    engine: options.Engine = None,
    threads: options.Threads = None,
    keep: Annotated[
        Path | None, typer.Option(help="Keep the collection in this Milvus Lite file (*.db).", show_default=False)
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Index a small history of computing, search it, and show what reranking changes. Needs no network."""
    require("the demo", "pymilvus", "milvus_lite", "ir_measures")
    from milvus_rerank.evaluation import demo_folder, load_judged, run_demo
    from milvus_rerank.indexing import load_embedder

    output.calm_milvus()
    judged = load_judged(demo_folder())
    encoder = load_embedder(embedder)
    chosen = options.choose_reranker(
        None, None, None, model_name=model, device=device, dtype=dtype, engine=engine, threads=threads
    )
    reranker = options.make_reranker(chosen)
    with _database(keep) as database, output.progress_bars() as bars:
        tasks = {
            "index": bars.add_task("Embedding and indexing", total=len(judged.passages)),
            "search": bars.add_task("Searching and reranking", total=len(judged.queries)),
        }
        report = run_demo(
            judged,
            database,
            encoder,
            reranker,
            reranker_name=chosen.label,
            candidates=candidates,
            progress=lambda stage, done: bars.advance(tasks[stage], done),
        )
    if as_json:
        output.print_json(report.to_dict())
    else:
        from milvus_rerank.cli.demo_report import show_demo

        show_demo(output.console(), report, queries)
        if keep:
            output.note(f"Kept. Try: milvus-rerank search 'first computer bug' --uri {keep}")


@contextmanager
def _database(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        yield keep
        return
    with write_errors("a temporary folder", "set TMPDIR to a folder that can, or pass --keep FILE.db"):
        temporary = TemporaryDirectory(prefix="milvus-rerank-")
    with temporary as folder:
        yield Path(folder) / "demo.db"

"""Put the scored pieces of each query together again, ranked, and write the rows that failed apart."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from milvus_rerank.cluster.scores import order
from milvus_rerank.cluster.stage import read_pieces

OutputFormat = Literal["parquet", "jsonl"]


def merge_group(staged: Path, scored: Path, group: Sequence[str], target: Path, output_format: OutputFormat) -> int:
    """Write the results of a group of parts, and beside them those rows that failed.

    :param staged: the folder of the parts.
    :param scored: the folder of their scores.
    :param group: consecutive parts; no query reaches beyond them.
    :param target: the file of the results without its suffix; files of the same names are replaced.
    :param output_format: the format of the results.
    :returns: the number of pairs.
    """
    import pyarrow
    import pyarrow.parquet

    pairs = 0
    results: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    ids: list[str] = []
    scores: list[float | None] = []
    seconds, error = 0.0, ""
    for part in group:
        pieces = read_pieces(staged / part, texts=False)
        for (piece, last), row in zip(pieces, pyarrow.parquet.read_table(scored / part).to_pylist(), strict=True):
            pairs += len(piece.ids)
            ids += piece.ids
            scores += row["scores"] if not row["error"] else [None] * len(piece.ids)
            seconds, error = seconds + row["seconds"], error or row["error"]
            if not last:
                continue
            if error:
                failed.append({"query_id": piece.query_id, "where": piece.where, "error": error})
            else:
                best = order(scores)
                results.append(
                    {
                        "query_id": piece.query_id,
                        "ids": [ids[index] for index in best],
                        "scores": [scores[index] for index in best],
                        "ranks": list(range(1, len(best) + 1)),
                        "first_stage_ranks": [index + 1 for index in best],
                        "rerank_seconds": seconds,
                    }
                )
            ids, scores, seconds, error = [], [], 0.0, ""
    schema = pyarrow.schema(
        [
            ("query_id", pyarrow.string()),
            ("ids", pyarrow.list_(pyarrow.string())),
            ("scores", pyarrow.list_(pyarrow.float64())),
            ("ranks", pyarrow.list_(pyarrow.int64())),
            ("first_stage_ranks", pyarrow.list_(pyarrow.int64())),
            ("rerank_seconds", pyarrow.float64()),
        ]
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    if output_format == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(results, schema), target.with_suffix(".parquet"))
    else:
        write_lines(target.with_suffix(".jsonl"), results)
    write_lines(target.with_suffix(".failed"), failed)
    return pairs


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write objects as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")

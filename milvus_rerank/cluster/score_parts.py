"""The worker that scores the parts of a bulk job."""

import os
from dataclasses import asdict
from pathlib import Path

from milvus_rerank.cluster.reranker import RerankerSpec
from milvus_rerank.cluster.scores import score_rows
from milvus_rerank.cluster.stage import read_pieces
from milvus_rerank.errors import InputError


class PartWorker:
    """Score parts with a reranker that is loaded once.

    :param spec: the reranker.
    :param staged: the folder of the parts with their documents.
    :param scored: the folder for their scores.
    :param split: whether the documents of a query may be in several parts.
    :raises InputError: if the reranker needs all documents of a query together, and ``split`` does not keep them so.
    """

    def __init__(self, spec: RerankerSpec, staged: str, scored: str, *, split: bool) -> None:
        self.reranker = spec.load()
        if split and not self.reranker.pointwise:
            raise InputError(
                f"{self.reranker!r} scores the documents of a query together, which workers with GPUs do not keep "
                "together; run it without gpus"
            )
        self.staged, self.scored = Path(staged), Path(scored)

    def __call__(self, part: str) -> int:
        """Score a part, and return the number of its pairs."""
        import pyarrow
        import pyarrow.parquet

        rows = [row for row, _ in read_pieces(self.staged / part)]
        scored = score_rows(self.reranker, rows)
        schema = pyarrow.schema(
            [
                ("scores", pyarrow.list_(pyarrow.float64())),
                ("seconds", pyarrow.float64()),
                ("error", pyarrow.string()),
            ]
        )
        target = self.scored / part
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_name(f"{target.name}.{os.getpid()}.new")
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([asdict(row) for row in scored], schema), new)
        new.replace(target)
        return sum(len(row.texts) for row in rows)

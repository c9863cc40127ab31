"""rerank_dataset: add scores to a Ray data set, as a step of a pipeline of one's own."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from milvus_rerank.cluster.queries import QueryFields, read_row
from milvus_rerank.cluster.reranker import RerankerSpec
from milvus_rerank.cluster.scores import order, score_rows
from milvus_rerank.errors import InputError
from milvus_rerank.requirements import require
from milvus_rerank.validation import check_count

if TYPE_CHECKING:
    from ray.data import Dataset


def rerank_dataset(
    dataset: "Dataset",
    reranker: RerankerSpec | None = None,
    *,
    fields: QueryFields | None = None,
    workers: int = 1,
    cpus: int = 1,
    gpus: float = 0,
    batch_size: int = 16,
) -> "Dataset":
    """Rerank each row's documents: a query with a list of texts, or of objects with ``id`` and ``text``.

    The columns ``ids``, ``scores`` (both best first), ``rerank_seconds`` and ``error`` are added. A row that cannot be
    reranked keeps its other columns, has empty lists, and its ``error`` says why; no row is dropped.

    :param dataset: the rows.
    :param reranker: the reranker, which each worker loads once; None for ``builtin/rerank``.
    :param fields: the names of the columns.
    :param workers: the number of workers. They are started at once, for a pool that grows from one leaves the others
        idle at first.
    :param cpus: the CPUs of a worker, and the threads of its model.
    :param gpus: the GPUs of a worker.
    :param batch_size: the rows of one call of a worker.
    :returns: the data set with the scores; like every step of Ray Data it runs when it is consumed.
    :raises InputError: if a column is missing.
    :raises MissingDependencyError: if Ray is not installed.
    """
    require("rerank_dataset", "ray", "pyarrow")
    import ray.data

    names = fields or QueryFields()
    present = dataset.columns() or []
    absent = [name for name in names.needed if name not in present]
    if absent:
        raise InputError(f"the data set has no column {', '.join(map(repr, absent))}; it has {present}")
    return dataset.map_batches(
        DatasetWorker,
        fn_constructor_kwargs={"spec": with_threads(reranker or RerankerSpec(), cpus), "fields": names},
        batch_format="pyarrow",
        batch_size=check_count(batch_size, "batch_size"),
        compute=ray.data.ActorPoolStrategy(size=check_count(workers, "workers")),
        num_cpus=check_count(cpus, "cpus"),
        num_gpus=gpus or None,
    )


def with_threads(spec: RerankerSpec, cpus: int) -> RerankerSpec:
    """Return a reranker that computes with the CPUs of its worker, if it runs a model and does not say otherwise."""
    if spec.name not in (None, "cross-encoder", "bge") or "threads" in spec.options:
        return spec
    return replace(spec, options={**spec.options, "threads": cpus})


class DatasetWorker:
    """Rerank the rows of Arrow tables with a reranker that is loaded once."""

    def __init__(self, spec: RerankerSpec, fields: QueryFields) -> None:
        self.reranker = spec.load()
        self.fields = fields

    def __call__(self, table: Any) -> Any:
        """Return a table with the columns of the scores."""
        import pyarrow

        rows = [read_row(record, "", self.fields) for record in table.select(self.fields.needed).to_pylist()]
        scored = score_rows(self.reranker, rows)
        orders = [order(row.scores) for row in scored]
        columns = {
            "ids": pyarrow.array(
                [[row.ids[index] for index in best] for row, best in zip(rows, orders, strict=True)],
                pyarrow.list_(pyarrow.string()),
            ),
            "scores": pyarrow.array(
                [[row.scores[index] for index in best] for row, best in zip(scored, orders, strict=True)],
                pyarrow.list_(pyarrow.float64()),
            ),
            "rerank_seconds": pyarrow.array([row.seconds for row in scored], pyarrow.float64()),
            "error": pyarrow.array([row.error or None for row in scored], pyarrow.string()),
        }
        for name, column in columns.items():
            table = table.append_column(name, column)
        return table

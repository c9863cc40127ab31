"""RerankResults, the list that rerank functions return: a table in notebooks, a data frame, Milvus hits."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, SupportsIndex, overload

from typing_extensions import TypeVar

from milvus_rerank.errors import InputError
from milvus_rerank.requirements import require
from milvus_rerank.results import RerankResult
from milvus_rerank.validation import check_choice

if TYPE_CHECKING:
    from pandas import DataFrame
    from pymilvus import Hits

Score = TypeVar("Score", bound="float | None", default=float)
Distance = Literal["score", "first_stage"]
"""The number that a converted hit has as its ``distance``."""


class RerankResults(list[RerankResult[Score]], Generic[Score]):
    """List of results, best first. Notebooks show it as a table. Slices are of the same class."""

    @overload
    def __getitem__(self, index: SupportsIndex) -> RerankResult[Score]: ...

    @overload
    def __getitem__(self, index: slice) -> "RerankResults[Score]": ...

    def __getitem__(self, index: SupportsIndex | slice) -> "RerankResult[Score] | RerankResults[Score]":
        items = super().__getitem__(index)
        return RerankResults(items) if isinstance(items, list) else items

    def to_pandas(self) -> "DataFrame":
        """Return the results as a data frame, one row per result, best first.

        :returns: the columns ``rank`` (from 1), ``index`` (the position in the input, from 0), ``score``, those of
            ``id``, ``distance``, ``stage`` and ``span`` that any result has, ``text``, and one for each field of the
            hits. A field with the name of another column is ``entity.<name>``, unless both hold the same values.
        :raises MissingDependencyError: if pandas is not installed.
        """
        require("to_pandas()", "pandas")
        from pandas import DataFrame, Series

        columns: dict[str, Any] = {
            "rank": range(1, len(self) + 1),
            "index": [result.index for result in self],
            "score": Series([result.score for result in self], dtype="float64"),
        }
        for name in ("id", "distance", "stage", "span"):
            values = [getattr(result, name) for result in self]
            if any(value is not None for value in values):
                columns[name] = values
        columns["text"] = [result.text for result in self]
        entities: list[Mapping[str, Any]] = [result.entity or {} for result in self]
        for name in dict.fromkeys(name for entity in entities for name in entity):
            values = [entity.get(name) for entity in entities]
            if name in ("id", "text") and values == columns.get(name):
                continue
            columns[f"entity.{name}" if name in columns else name] = values
        return DataFrame(columns)

    def to_hits(self, distance: Distance = "score") -> "Hits":
        """Return the results as the hits that ``client.search`` returns for one query, in the new order.

        Each hit has the primary key under its name, ``distance``, ``entity``, and keys such as ``highlight`` that it
        came with. Code that was written for a search of Milvus goes on with it.

        :param distance: the ``distance`` of each hit: its rerank ``score``, larger is better for every metric, as after
            a ranker inside Milvus; None for a hit without a score. ``first_stage`` for the distance that it came with.
        :returns: pymilvus' list of its hits, with ``ids`` and ``distances``.
        :raises InputError: for results of plain texts, which have no hit.
        """
        return make_hits(self, distance)

    def _repr_html_(self) -> str:
        from milvus_rerank.notebook import results_html

        return results_html(self)


def make_hits(results: Sequence[RerankResult[Any]], distance: str) -> "Hits":
    """Convert results as :meth:`RerankResults.to_hits` does."""
    check_choice(distance, "distance", ("score", "first_stage"))
    from pymilvus import Hit, Hits

    distances = [result.score if distance == "score" else result.distance for result in results]
    hits: Any = Hits(0, [result.id for result in results], distances, {}, [], "")
    for index, (result, value) in enumerate(zip(results, distances, strict=True)):
        if result.entity is None:
            raise InputError(
                f"results[{index}] is of a plain text and has no hit; rerank hits with rerank_hits(query, hits)"
            )
        values = {result.id_field: result.id, "distance": value, **(result.extra or {}), "entity": dict(result.entity)}
        hits.append(Hit(values, pk_name=result.id_field))
    return hits

"""First stages of an evaluation: their hits, query by query, and whether they hold the judged documents."""

import copy
import json
from collections.abc import Collection, Iterable
from typing import Any

from milvus_rerank.errors import InputError
from milvus_rerank.indexing.client import explain_errors
from milvus_rerank.indexing.search import FirstStageOrder
from milvus_rerank.search import SearchAnswer, TwoStageSearch

_PAGE = 1000
"""Ids of one query to Milvus."""


class Retriever:
    """The first stage of a search.

    :param name: its name in the report.
    :param search: the search.
    :param candidates: the number of hits of a query.
    :param filter: Milvus' filter; None for that of a search from a config file, or none.
    :param timeout: the most seconds of a search.
    """

    def __init__(
        self, name: str, search: TwoStageSearch[Any], candidates: int, filter: str | None, timeout: float | None
    ) -> None:
        self.name = name
        self._search = copy.copy(search)
        self._search.reranker = FirstStageOrder()
        self._options: dict[str, Any] = {"top_k": None, "candidates": candidates, "timeout": timeout}
        self._options |= {"threshold": None, "instruction": None}  # those of a config file are for its reranker
        self._options |= {} if filter is None else {"filter": filter}

    def __call__(self, text: str) -> SearchAnswer[Any]:
        """Return the hits of a query, with the durations of this search."""
        answer: SearchAnswer[Any] = self._search(text, **self._options)
        if len({str(hit.id) for hit in answer}) != len(answer):
            raise InputError(f"the first stage {self.name!r} returned a document twice for the query {text!r}")
        return answer

    def has(self, ids: Iterable[str], timeout: float | None) -> set[str] | None:
        """Return those of some ids that the collection holds; it must be loaded.

        :param ids: the ids.
        :param timeout: the most seconds of a call to Milvus.
        :returns: the ids that are there; None if the client cannot say.
        """
        source = self._search.source
        client = source.client
        if source.collection is None or not hasattr(client, "query"):
            return None
        fields = source.describe(timeout)().get("fields", ())
        primary = next((field for field in fields if field.get("is_primary")), None)
        if primary is None:
            return None
        is_number = primary["type"].name == "INT64"
        wanted: list[str | int] = [int(name) if is_number else name for name in ids if not is_number or _is_int(name)]
        found: set[str] = set()
        for start in range(0, len(wanted), _PAGE):
            among = json.dumps(wanted[start : start + _PAGE], ensure_ascii=False)
            with explain_errors(f"look for judged documents in {source.name!r}"):
                rows = client.query(
                    source.collection,
                    filter=f"{primary['name']} in {among}",
                    output_fields=[primary["name"]],
                    timeout=timeout,
                )
            found.update(str(row[primary["name"]]) for row in rows)
        return found


def unknown_documents(retrievers: Iterable[Retriever], ids: Collection[str], timeout: float | None = 30.0) -> list[str]:
    """Return the judged documents that no first stage can return, because its collection does not hold them.

    :param retrievers: the first stages.
    :param ids: the ids of the judged documents.
    :param timeout: the most seconds of a call to Milvus.
    :returns: the ids, in their order.
    :raises InputError: if the collection holds none of them.
    """
    known: set[str] = set()
    for retriever in retrievers:
        found = retriever.has([name for name in ids if name not in known], timeout)
        if found is None:
            return []
        known |= found
    if ids and not known:
        shown = ", ".join(map(repr, list(ids)[:3]))
        raise InputError(
            f"the collection holds none of the {len(ids)} judged documents ({shown}, ...); choose the collection that "
            f"the judgments are of, and judge by the ids of its rows"
        )
    return [name for name in ids if name not in known]


def _is_int(name: str) -> bool:
    return name.removeprefix("-").isdecimal() and name.isascii() and str(int(name)) == name

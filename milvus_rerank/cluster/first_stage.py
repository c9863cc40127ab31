"""Milvus as the first stage of a bulk job: each worker searches with a client that it opens itself."""

import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from milvus_rerank.choices import DEFAULT_CANDIDATES, Mode
from milvus_rerank.cluster.queries import QueryRow
from milvus_rerank.cluster.stage import read_pieces, write_pieces
from milvus_rerank.errors import HitError, InputError, RerankError, SearchError
from milvus_rerank.indexing import (
    absent_keys,
    count_rows,
    describe,
    embedder_of,
    load,
    only_collection,
    open_client,
    open_search,
)
from milvus_rerank.indexing.client import connect
from milvus_rerank.search import SearchAnswer, TwoStageSearch
from milvus_rerank.search.filters import missing_field, names_in
from milvus_rerank.search.milvus import is_transient
from milvus_rerank.text_field import TextField, read_text_field

HITS_AT_ONCE = 1000
"""The most hits that one call asks for, beyond its first query's: answers with long texts stay below gRPC's limits."""
WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each new attempt after an error that may pass, such as a server that restarts or limits its rate."""


@dataclass(frozen=True, slots=True)
class MilvusFirstStage:
    """The search that finds the documents of each query.

    :param uri: a server such as ``http://host:19530``.
    :param collection: the collection; None for the only one.
    :param candidates: the most documents of a query.
    :param filter: Milvus' boolean expression.
    :param mode: ``dense``, ``bm25`` or ``hybrid``; None for vectors, or BM25 where there are none.
    :param embedder: the embedder of queries, as ``--embedder`` takes it; None for the collection's.
    :param text_field: the field to rerank by, several, or a template; None for ``text``, or the only one with texts.
    :param vector_field: the field to search; None for ``vector``, or the only one of its kind.
    :param db_name: the server's database.
    :param token: ``user:password`` or an API key.
    :param timeout: seconds that one call may take.
    :param clients: the number of workers that search, each with a client and one call at a time.
    :param rate: the most queries in a second of all workers together; None for no limit.
    """

    uri: str
    collection: str | None = None
    candidates: int = DEFAULT_CANDIDATES
    filter: str = ""
    mode: Mode | None = None
    embedder: str | None = None
    text_field: TextField | None = None
    vector_field: str | None = None
    db_name: str = ""
    token: str = field(default="", repr=False)
    timeout: float = 30.0
    clients: int = 2
    rate: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what decides the documents, as JSON can hold it, without secrets."""
        address = urlsplit(self.uri)
        host = address.netloc.rpartition("@")[2]
        text_field = self.text_field
        return {
            "uri": urlunsplit(address._replace(netloc=host)),
            "db_name": self.db_name,
            "collection": self.collection,
            "candidates": self.candidates,
            "filter": self.filter,
            "mode": self.mode,
            "embedder": self.embedder,
            "text_field": text_field if isinstance(text_field, str) or text_field is None else list(text_field),
            "vector_field": self.vector_field,
        }

    def check_address(self) -> None:
        """Raise if no server listens at the address.

        :raises InputError: for a file of Milvus Lite.
        :raises SearchError: if nothing can be reached there.
        """
        if "://" not in self.uri and not self.uri.startswith("unix:"):
            raise InputError(
                f"one process at a time can open a Milvus Lite file, and a job has several, got {self.uri!r}; start a "
                "server, milvus-lite server --data-dir FOLDER --port 19530, and pass --uri http://localhost:19530"
            )
        address = urlsplit(self.uri)
        if address.hostname is None:  # a socket's path
            return
        port = address.port or (443 if address.scheme == "https" else 19530)
        try:
            socket.create_connection((address.hostname, port), timeout=self.timeout).close()
        except OSError as error:
            raise SearchError(f"Milvus at {self.uri} cannot be reached: {error}. Is the server running?") from error

    def check(self, query: str) -> None:
        """Search once on this machine, so that a search that cannot work is an error before any worker starts.

        :param query: a query of the job.
        :raises InputError: for a collection, field, filter or embedder that cannot be used, or an empty collection.
        :raises SearchError: if Milvus refuses.
        """
        with open_client(self.uri, token=self.token, db_name=self.db_name, timeout=self.timeout) as client:
            search, name = self._open(client)
            info = describe(client, name, self.timeout)
            texts = read_text_field(self.text_field).names if self.text_field is not None else ()
            for what, names in (
                (f"the filter {self.filter!r}", names_in(self.filter)),
                (f"the text field {self.text_field!r}", texts),
            ):
                for absent in absent_keys(client, info, names, self.timeout):
                    raise InputError(missing_field(what, absent, info.names))
            if not count_rows(client, name, self.timeout):
                raise InputError(f"the collection {name!r} at {self.uri} is empty; fill it with milvus-rerank index")
            with suppress(HitError):  # one document without a text fails its queries only
                search(query, top_k=None, candidates=1, filter=self.filter, timeout=self.timeout)

    def open(self) -> "CandidateFinder":
        """Open a client, and return the function that finds documents with it."""
        client = _patiently(partial(connect, self.uri, token=self.token, db_name=self.db_name, timeout=self.timeout))
        search, _ = _patiently(partial(self._open, client))
        return CandidateFinder(search, self)

    def _open(self, client: Any) -> tuple[TwoStageSearch[float], str]:
        name = self.collection or only_collection(client, self.timeout)
        info = describe(client, name, self.timeout)
        load(client, info, self.timeout)
        search = open_search(
            client,
            info,
            mode=self.mode,
            embedder=partial(embedder_of, info, self.embedder),
            text_field=self.text_field,
            vector_field=self.vector_field,
        )
        return search, name


class CandidateFinder:
    """Find the documents of queries.

    :param search: the search; its reranker keeps Milvus' order.
    :param stage: the arguments of its calls, and the rate.
    :param sleep: waits some seconds.
    :param clock: returns seconds.
    """

    def __init__(
        self,
        search: TwoStageSearch[float],
        stage: MilvusFirstStage,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.search, self.stage = search, stage
        self._sleep, self._clock = sleep, clock
        self._next = clock()

    def __call__(self, rows: Sequence[QueryRow]) -> list[QueryRow]:
        """Return the rows with their documents, in Milvus' order; one whose search is refused has an ``error``.

        :param rows: queries without documents.
        :returns: one row for each.
        :raises SearchError: if Milvus is not there after some attempts: all other rows would fail, too.
        """
        step = max(1, HITS_AT_ONCE // self.stage.candidates)
        found: list[QueryRow] = []
        for start in range(0, len(rows), step):
            group = rows[start : start + step]
            try:
                found += self._find(group)
            except (InputError, SearchError) as error:
                if _may_pass(error):
                    raise
                # One query may be at fault: each is searched alone.
                found += [_failed(group[0], error)] if len(group) == 1 else map(self._find_alone, group)
        return found

    def _find_alone(self, row: QueryRow) -> QueryRow:
        try:
            return self._find([row])[0]
        except (InputError, SearchError) as error:
            if _may_pass(error):
                raise
            return _failed(row, error)

    def _find(self, rows: Sequence[QueryRow]) -> list[QueryRow]:
        answers = _patiently(partial(self._call, [row.query for row in rows]), self._sleep)
        return [
            QueryRow(row.where, row.query_id, row.query, tuple(str(hit.id) for hit in answer),
                     tuple(hit.text for hit in answer))
            for row, answer in zip(rows, answers, strict=True)
        ]  # fmt: skip

    def _call(self, queries: list[str]) -> list[SearchAnswer[float]]:
        if self.stage.rate is not None:
            now = self._clock()
            if self._next > now:
                self._sleep(self._next - now)
            self._next = max(now, self._next) + len(queries) * self.stage.clients / self.stage.rate
        stage = self.stage
        return self.search(queries, top_k=None, candidates=stage.candidates, filter=stage.filter, timeout=stage.timeout)


def _patiently(call: Callable[[], Any], sleep: Callable[[float], object] = time.sleep) -> Any:
    """Return a call's value; after an error that may pass, wait and call again."""
    for wait in (*WAITS, None):
        try:
            return call()
        except SearchError as error:
            if wait is None or not _may_pass(error):
                raise
            sleep(wait)
    raise AssertionError("unreachable")


def _may_pass(error: RerankError) -> bool:
    return isinstance(error.__cause__, Exception) and is_transient(error.__cause__)


def _failed(row: QueryRow, error: RerankError) -> QueryRow:
    problem = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
    return QueryRow(row.where, row.query_id, row.query, error=problem)


class RetrieveWorker:
    """Add the documents to the queries of parts, with a search that is opened once.

    :param first_stage: the search.
    :param staged: the folder of the parts.
    :param retrieved: the folder for the parts with documents.
    """

    def __init__(self, first_stage: MilvusFirstStage, staged: str, retrieved: str) -> None:
        self.finder = first_stage.open()
        self.staged, self.retrieved = Path(staged), Path(retrieved)

    def __call__(self, part: str) -> int:
        """Write a part with its documents, unless it is there, and return the number of the queries searched."""
        target = self.retrieved / part
        if target.exists():
            return 0
        rows = self.finder([row for row, _ in read_pieces(self.staged / part)])
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_name(f"{target.name}.{os.getpid()}.new")
        write_pieces(new, [(row, True) for row in rows])
        new.replace(target)
        return len(rows)

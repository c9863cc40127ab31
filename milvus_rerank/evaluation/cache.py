"""A file with the scores of rerankers, by content: an evaluation goes on where another one ended."""

import hashlib
import json
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from milvus_rerank.cascade import CascadeRerankFunction
from milvus_rerank.errors import WriteError
from milvus_rerank.loading.inspect import inspect_model
from milvus_rerank.models.files import identity_key
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.reranker.lexical import LexicalRerankFunction
from milvus_rerank.reranker.local import EngineRerankFunction
from milvus_rerank.reranker.remote.function import RemoteRerankFunction

_VERSION = 1


@dataclass(frozen=True, slots=True)
class CachedCall:
    """The outcome of one call of a reranker.

    :param scores: a score for each document, in the order of the documents.
    :param seconds: the duration of the call.
    :param tokens: the tokens that the model read; None if unknown.
    """

    scores: tuple[float, ...]
    seconds: float
    tokens: int | None


class EvaluationCache:
    """Scores and durations of calls, in a SQLite file. It holds no texts, only hashes of them.

    :param path: the file, which only its user may read; None to keep the calls in memory.
    :raises WriteError: if the file cannot be opened, or is another file.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
            self._database = sqlite3.connect(":memory:" if path is None else path, timeout=60)
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS calls (key TEXT PRIMARY KEY, scores TEXT, seconds REAL, tokens INTEGER)"
            )
            self._database.commit()
        except (OSError, sqlite3.Error) as error:
            raise WriteError(
                f"{path} cannot be used as the cache of evaluations: {error}; choose another file"
            ) from error

    def get(self, key: str) -> CachedCall | None:
        """Return the call of a key, None if it is not known."""
        query = "SELECT scores, seconds, tokens FROM calls WHERE key = ?"
        row = self._database.execute(query, (key,)).fetchone()
        return None if row is None else CachedCall(tuple(json.loads(row[0])), row[1], row[2])

    def put(self, key: str, call: CachedCall) -> None:
        """Store a call; it is on the disk when this returns."""
        values = (key, json.dumps(call.scores), call.seconds, call.tokens)
        try:
            with self._database:
                self._database.execute("INSERT OR REPLACE INTO calls VALUES (?, ?, ?, ?)", values)
        except sqlite3.Error as error:  # such as a full disk
            raise WriteError(f"{self.path} cannot be written: {error}; free space, or choose another file") from error

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def __enter__(self) -> "EvaluationCache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def call_key(reranker: str, query: str, texts: Sequence[str], k: int) -> str:
    """Return the key of a call, given the key of its reranker."""
    return hashlib.sha256(json.dumps([_VERSION, reranker, query, list(texts), k]).encode()).hexdigest()


def reranker_key(reranker: BaseRerankFunction) -> str | None:
    """Return a key of a reranker by its model's files and its options; None for one whose code is not this package's.

    :param reranker: the reranker.
    :returns: the key. That of a service holds its address, model and parameters: nothing shows a change behind them.
    """
    if isinstance(reranker, EngineRerankFunction) and reranker._options is not None:
        info = inspect_model(reranker._options.source)
        files = [info.folder / name for name in info.files if (info.folder / name).is_file()]
        return identity_key(files, reranker._options, repr(reranker))
    if isinstance(reranker, CascadeRerankFunction):
        keys = [reranker_key(stage) for stage in reranker.rerankers]
        return None if None in keys else repr(list(zip(keys, reranker.keeps, strict=True)))
    if isinstance(reranker, RemoteRerankFunction):
        return repr((reranker, sorted(reranker.parameters.items())))
    return repr(reranker) if type(reranker) is LexicalRerankFunction else None

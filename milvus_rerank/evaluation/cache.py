"""A file with the scores of rerankers, by content: an evaluation goes on where another one ended."""

import hashlib
import json
import os
import platform
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from milvus_rerank.cascade import CascadeRerankFunction
from milvus_rerank.errors import WriteError
from milvus_rerank.inventory import installed_version
from milvus_rerank.loading.inspect import inspect_model
from milvus_rerank.models.files import identity_key
from milvus_rerank.onnx_graphs.cache import VARIABLE
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.reranker.lexical import LexicalRerankFunction
from milvus_rerank.reranker.local import EngineRerankFunction
from milvus_rerank.reranker.remote.function import RemoteRerankFunction

_VERSION = 2
"""Version of the calls in a cache; those of other versions are not read."""
_CREATE = (
    "CREATE TABLE IF NOT EXISTS calls_2 (key TEXT PRIMARY KEY, scores TEXT, seconds REAL, tokens INTEGER, most INTEGER)"
)
_SELECT = "SELECT scores, seconds, tokens, most FROM calls_2 WHERE key = ?"
_INSERT = "INSERT OR REPLACE INTO calls_2 VALUES (?, ?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class CachedCall:
    """The outcome of one call of a reranker.

    :param scores: a score for each document, in the order of the documents.
    :param seconds: the duration of the call.
    :param tokens: the tokens that the model read; None if unknown.
    :param limit: the most results of the call, such as a cascade's; None for all.
    """

    scores: tuple[float, ...]
    seconds: float
    tokens: int | None
    limit: int | None = None


def default_cache() -> Path:
    """Return the file of evaluations in the user's cache folder, which the environment's MILVUS_RERANK_CACHE moves."""
    import platformdirs

    folder = os.environ.get(VARIABLE) or platformdirs.user_cache_path("milvus-rerank", appauthor=False)
    return Path(folder) / "evaluation.sqlite"


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
            self._database.execute(_CREATE)
            self._database.commit()
        except (OSError, sqlite3.Error) as error:
            raise WriteError(
                f"{path} cannot be used as the cache of evaluations: {error}; choose another file"
            ) from error

    def get(self, key: str) -> CachedCall | None:
        """Return the call of a key, None if it is not known."""
        row = self._database.execute(_SELECT, (key,)).fetchone()
        return None if row is None else CachedCall(tuple(json.loads(row[0])), *row[1:])

    def put(self, key: str, call: CachedCall) -> None:
        """Store a call; it is on the disk when this returns."""
        values = (key, json.dumps(call.scores), call.seconds, call.tokens, call.limit)
        try:
            with self._database:
                self._database.execute(_INSERT, values)
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
    """Return a key of a reranker; None for one whose code is not this package's.

    That of a model holds its files, its options, the versions of engines, and for the durations the kind of machine.

    :param reranker: the reranker.
    :returns: the key. That of a service holds its address, model and parameters: nothing shows a change behind them.
    """
    if isinstance(reranker, EngineRerankFunction) and reranker._options is not None:
        info = inspect_model(reranker._options.source)
        files = [info.folder / name for name in info.files if (info.folder / name).is_file()]
        machine = platform.machine(), os.cpu_count()  # not its name, which changes with each start of a container
        versions = [installed_version(name) for name in ("milvus-rerank", "onnxruntime", "openvino", "torch")]
        return identity_key(files, reranker._options, repr(reranker), machine, versions)
    if isinstance(reranker, CascadeRerankFunction):
        keys = [reranker_key(stage) for stage in reranker.rerankers]
        return None if None in keys else repr(list(zip(keys, reranker.keeps, strict=True)))
    if isinstance(reranker, RemoteRerankFunction):
        return repr((reranker, sorted(reranker.parameters.items())))
    return repr(reranker) if type(reranker) is LexicalRerankFunction else None

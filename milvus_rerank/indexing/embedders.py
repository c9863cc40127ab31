"""Embedders by name: of this package, model2vec, sentence-transformers, fastembed, OpenAI's API, or a function."""

import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from milvus_rerank.embedding import StaticEmbedder
from milvus_rerank.errors import InputError, ModelError, RerankError, SearchError
from milvus_rerank.models import BUILTIN, model_folder
from milvus_rerank.models.files import read_config
from milvus_rerank.requirements import missing, require
from milvus_rerank.search.first_stage import check_vectors

DEFAULT = "builtin/embed"
"""The embedder of collections for which none was named."""
FORMS = (
    "'builtin/embed', a folder or a hub name of a sentence-transformers or model2vec model, 'fastembed:NAME', "
    "'openai:MODEL', or 'module:function'"
)
"""The names that :func:`load_embedder` takes, for messages."""

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_BATCH = 32  # texts of one request to an endpoint: text-embeddings-inference takes no more unless told


class Embedder(Protocol):
    """Embeds documents and queries."""

    model_name: str

    @property
    def dim(self) -> int:
        """The number of dimensions of a vector."""

    def encode_documents(self, documents: list[str]) -> NDArray[np.float32]:
        """Return one vector per document, shape ``(documents, dim)``."""

    def encode_queries(self, queries: list[str]) -> NDArray[np.float32]:
        """Return one vector per query, shape ``(queries, dim)``."""


class FunctionEmbedder:
    """Embed with two functions from a list of texts to vectors; they may be the same.

    :param model_name: the embedder's name, which the collections made with it remember.
    :param documents: embeds documents.
    :param queries: embeds queries.
    """

    def __init__(
        self, model_name: str, documents: Callable[[list[str]], Any], queries: Callable[[list[str]], Any]
    ) -> None:
        self.model_name = model_name
        self._documents = documents
        self._queries = queries
        self._dim: int | None = None

    @property
    def dim(self) -> int:
        """The number of dimensions of a vector: that of a first text."""
        if self._dim is None:
            self._dim = self.encode_queries(["text"]).shape[1]
        return self._dim

    def encode_documents(self, documents: list[str]) -> NDArray[np.float32]:
        """Return one vector per document, shape ``(documents, dim)``."""
        return self._encode(self._documents, documents)

    def encode_queries(self, queries: list[str]) -> NDArray[np.float32]:
        """Return one vector per query, shape ``(queries, dim)``."""
        return self._encode(self._queries, queries)

    def _encode(self, function: Callable[[list[str]], Any], texts: list[str]) -> NDArray[np.float32]:
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        vectors = function(texts)
        rows = check_vectors(list(vectors) if hasattr(vectors, "__next__") else vectors, len(texts), "the vectors")
        if not all(isinstance(row, list) for row in rows) or len({len(row) for row in rows}) != 1:
            raise InputError(f"the embedder {self.model_name!r} must return dense vectors of one length")
        return np.array(rows, np.float32)


def load_embedder(name: str, *, trusted: bool = True) -> Embedder:
    """Load an embedder by its name.

    :param name: one of :data:`FORMS`.
    :param trusted: whether the user typed the name. A name that a collection carries runs no function of a module.
    :returns: the embedder.
    :raises InputError: for a name of another form.
    :raises ModelError: if the model does not exist or cannot be read.
    :raises MissingDependencyError: if a package for it is not installed.
    """
    kind, separator, rest = name.partition(":")
    if separator and kind in _PREFIXES:
        return _PREFIXES[kind](name, rest)
    if _FUNCTION.fullmatch(name) and not Path(name).exists():
        if not trusted:
            raise InputError(f"the collection's embedder is the function {name!r}; to run it, pass --embedder {name}")
        return _function(name)
    folder = model_folder(name) if name.strip() else None
    if folder is None and "/" not in name:
        raise InputError(f"embedder {name!r} is not known; expected {FORMS}")
    if folder is not None and (name.startswith(BUILTIN) or _is_static(folder)):
        return StaticEmbedder(name)
    heads = read_config(folder).get("architectures") or [] if folder is not None else []
    if any("ForSequenceClassification" in head for head in heads):
        raise ModelError(f"embedder {name!r} is a reranker ({heads[0]}), which makes no vectors; expected {FORMS}")
    return _sentence_transformers(name, folder)


def _is_static(folder: Path) -> bool:
    """Tell whether a folder holds a model of model2vec, which its config alone shows."""
    config = read_config(folder)
    return "embedding_dtype" in config or config.get("architectures") == ["StaticModel"]


def _sentence_transformers(name: str, folder: Path | None) -> Embedder:
    require(f"the embedder {name!r}", "sentence_transformers", "torch")
    from sentence_transformers import SentenceTransformer

    from milvus_rerank.models.hub import reports

    try:
        with reports(show_progress=False, quiet=True):
            model = SentenceTransformer(str(folder or name), device="cpu", local_files_only=folder is not None)
    except Exception as error:  # noqa: BLE001  of transformers, the hub's client or the file system
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(f"embedder {name!r} cannot be loaded: {first}") from None

    def embed(encode: Callable[..., Any]) -> Callable[[list[str]], Any]:
        return lambda texts: encode(texts, show_progress_bar=False, normalize_embeddings=True)

    return FunctionEmbedder(name, embed(model.encode_document), embed(model.encode_query))


def _fastembed(name: str, model: str) -> Embedder:
    if missing("fastembed"):  # in no extra: it would hold the hub's client below 2 for everybody
        raise InputError(f"embedder {name!r} needs the package 'fastembed'. Type: pip install fastembed")
    fastembed: Any = importlib.import_module("fastembed")
    try:
        embedder = fastembed.TextEmbedding(model)
    except Exception as error:  # noqa: BLE001  of ONNX Runtime, the hub's client or the file system
        raise ModelError(f"embedder {name!r} cannot be loaded: {error}") from None
    return FunctionEmbedder(name, embedder.passage_embed, embedder.query_embed)


def _openai(name: str, model: str) -> Embedder:
    """Return an embedder of an endpoint in OpenAI's shape, by OPENAI_BASE_URL and OPENAI_API_KEY."""
    require(f"the embedder {name!r}", "httpx")
    import httpx

    base = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1").rstrip("/")
    key = os.environ.get("OPENAI_API_KEY", "")
    if not model:
        raise InputError("embedder 'openai:' lacks a model's name; for example 'openai:text-embedding-3-small'")
    if not key and base.startswith("https://api.openai.com"):
        raise InputError(f"embedder {name!r} needs OPENAI_API_KEY, or OPENAI_BASE_URL of another server")
    if key and not base.startswith("https://") and httpx.URL(base).host not in ("127.0.0.1", "localhost", "::1"):
        raise InputError(f"OPENAI_BASE_URL={base} would send OPENAI_API_KEY unencrypted; use https, or unset the key")
    headers = {"Authorization": f"Bearer {key}"} if key else {}

    def request(texts: Sequence[str]) -> list[list[float]]:
        try:
            answer = httpx.post(
                f"{base}/embeddings", json={"model": model, "input": list(texts)}, headers=headers, timeout=60.0
            )
            answer.raise_for_status()
            rows = sorted(answer.json()["data"], key=lambda row: row["index"])
            return [row["embedding"] for row in rows]
        except httpx.HTTPStatusError as error:
            raise SearchError(f"embedder {name!r}: {base} answered {error.response.status_code}") from None
        except httpx.HTTPError as error:
            raise SearchError(f"embedder {name!r}: {base} does not answer ({type(error).__name__})") from None
        except (ValueError, KeyError, TypeError) as error:
            raise SearchError(f"embedder {name!r}: {base} gave no embeddings ({type(error).__name__})") from None

    def embed(texts: list[str]) -> list[list[float]]:
        return [row for start in range(0, len(texts), _BATCH) for row in request(texts[start : start + _BATCH])]

    return FunctionEmbedder(name, embed, embed)


def _function(name: str) -> Embedder:
    """Return an embedder of a function from texts to vectors, or of an object such as those of pymilvus.model."""
    module, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # where the user types the name, as with python -m
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        if isinstance(found, type):
            found = found()
    except RerankError:
        raise
    except Exception as error:  # the user's module may raise any exception
        raise InputError(f"embedder {name!r} does not load: {type(error).__name__}: {error}") from error
    if hasattr(found, "encode_queries") and hasattr(found, "encode_documents"):
        return FunctionEmbedder(name, found.encode_documents, found.encode_queries)
    if not callable(found):
        raise InputError(
            f"embedder {name!r} must be a function from a list of texts to vectors, or an object with "
            f"encode_documents and encode_queries; got {type(found).__name__}"
        )
    return FunctionEmbedder(name, found, found)


_PREFIXES: dict[str, Callable[[str, str], Embedder]] = {"fastembed": _fastembed, "openai": _openai}

"""Embedders by name: of this package, model2vec, sentence-transformers, fastembed, OpenAI's API, or a function."""

import importlib
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from milvus_rerank.embedding import StaticEmbedder
from milvus_rerank.errors import InputError, ModelError, RerankError
from milvus_rerank.models import BUILTIN, ModelSource, model_folder
from milvus_rerank.models.files import fetch_folder, read_config
from milvus_rerank.models.source import not_loaded
from milvus_rerank.requirements import missing, require
from milvus_rerank.search.first_stage import check_vectors

DEFAULT = "builtin/embed"
"""The embedder of collections for which none was named."""
FORMS = (
    "'builtin/embed', a folder or a hub name of a sentence-transformers or model2vec model, 'fastembed:NAME', "
    "'openai:MODEL', or 'module:function'"
)
"""The names that :func:`load_embedder` takes, for messages."""

_STATIC_FILES = ("config.json", "model.safetensors", "tokenizer.json")
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


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
    :param tokenizer: the model's ``tokenizers.Tokenizer``, to count tokens; None if it is not known.
    :param max_tokens: the most tokens of a text that the model reads; None if it is not known.
    """

    def __init__(
        self,
        model_name: str,
        documents: Callable[[list[str]], Any],
        queries: Callable[[list[str]], Any],
        tokenizer: Any = None,
        max_tokens: int | None = None,
    ) -> None:
        self.model_name = model_name
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
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
    source = ModelSource(name)
    folder = local_folder(name)
    if folder is None and "/" not in name:
        raise InputError(f"embedder {name!r} is not known; expected {FORMS}")
    config = read_config(folder or fetch_folder(source, ("config.json",)), optional=True)
    if name.startswith(BUILTIN) or _is_static(config):
        return StaticEmbedder(name) if folder else StaticEmbedder(str(fetch_folder(source, _STATIC_FILES)), name)
    heads = [head for head in config.get("architectures") or [] if "ForSequenceClassification" in head]
    if heads:
        raise ModelError(f"embedder {name!r} is a reranker ({heads[0]}), which makes no vectors; expected {FORMS}")
    return _sentence_transformers(source, folder)


def local_folder(name: str) -> Path | None:
    """Return the folder of an embedder, None for a name on the hub; sentence-transformers needs no ``config.json``."""
    folder = Path(name).expanduser()
    return folder if (folder / "modules.json").is_file() else model_folder(name)


def _is_static(config: Mapping[str, Any]) -> bool:
    """Tell whether a model is one of model2vec, which its config alone shows."""
    return "embedding_dtype" in config or config.get("architectures") == ["StaticModel"]


def _sentence_transformers(source: ModelSource, folder: Path | None) -> Embedder:
    require(f"the embedder {source.name!r}", "sentence_transformers", "torch")
    from sentence_transformers import SentenceTransformer

    from milvus_rerank.models.hub import reports

    try:
        with reports(show_progress=False, quiet=True):
            model: Any = SentenceTransformer(str(folder or source.name), local_files_only=folder is not None)
    except Exception as error:  # noqa: BLE001  of transformers, the hub's client or the file system
        raise not_loaded(source, error) from None

    def embed(encode: Callable[..., Any]) -> Callable[[list[str]], Any]:
        # Vectors are normalized only if the model does so: L2 compares them with those of another program.
        return lambda texts: encode(texts, show_progress_bar=False)

    tokenizer = getattr(model.tokenizer, "backend_tokenizer", model.tokenizer)
    counts = hasattr(tokenizer, "no_truncation")  # a tokenizer of the tokenizers package
    return FunctionEmbedder(
        source.name,
        embed(model.encode_document),
        embed(model.encode_query),
        tokenizer if counts else None,
        model.max_seq_length,
    )


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
    require(f"the embedder {name!r}", "httpx")
    from milvus_rerank.indexing.openai_client import OpenAIClient

    embed = OpenAIClient(model)
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

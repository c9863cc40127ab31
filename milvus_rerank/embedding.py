"""StaticEmbedder: a small first-stage embedder, for demos, tests and collections without an embedder."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milvus_rerank.errors import ModelError
from milvus_rerank.models import model_folder
from milvus_rerank.models.files import read_config
from milvus_rerank.requirements import require
from milvus_rerank.validation import check_documents


class StaticEmbedder:
    """Embed texts as the mean of their token vectors: a model2vec model, no torch, thousands of texts per second.

    :param model_name: ``builtin/embed`` (shipped) or a local folder in model2vec's layout.
    :param name: the name to go by; None for ``model_name``.
    :raises ModelError: if the model does not exist, has another format or is damaged.
    :raises MissingDependencyError: if model2vec is not installed.
    """

    def __init__(self, model_name: str = "builtin/embed", name: str | None = None) -> None:
        folder = model_folder(model_name)
        if folder is None:
            raise ModelError(f"embedder {model_name!r} must be 'builtin/embed' or a local folder")
        require("embedding texts", "model2vec")
        from model2vec import StaticModel

        self.model_name = str(name or model_name)
        try:
            read_config(folder)  # model2vec's message for a config that is not an object names an attribute
            self._model: Any = StaticModel.from_pretrained(folder)
        except Exception as error:  # tokenizers raises plain Exception for a damaged tokenizer.json
            raise ModelError(
                f"embedder {model_name!r} cannot be read ({error}); expected a folder in model2vec's layout with whole "
                f"files: config.json, model.safetensors and tokenizer.json"
            ) from error

    @property
    def dim(self) -> int:
        """The number of dimensions of a vector."""
        return int(self._model.dim)

    @property
    def tokenizer(self) -> Any:
        """The model's ``tokenizers.Tokenizer``."""
        return self._model.tokenizer

    @property
    def max_tokens(self) -> int | None:
        """The most tokens of a text that the vector is of; None for no limit."""
        limit = getattr(self._model, "max_length", 512)  # model2vec's default, before models had the attribute
        return None if limit is None else int(limit)

    def encode_documents(self, documents: Sequence[str]) -> NDArray[np.float32]:
        """Embed documents.

        :param documents: the texts; an empty text gets a zero vector.
        :returns: unit vectors in float32, shape ``(documents, dim)``.
        """
        texts = check_documents(documents)
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        vectors = np.asarray(self._model.encode(texts), dtype=np.float32)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: NDArray[np.float32] = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
        return unit

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Embed queries; the same as :meth:`encode_documents`, with the method name of pymilvus.model."""
        return self.encode_documents(queries)

    def __repr__(self) -> str:
        return f"StaticEmbedder({self.model_name!r})"

"""StaticEmbedder: the first stage's small embedder, for demos, tests and collections without one."""

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
    """Embed texts by the mean of their tokens' vectors: a model2vec model, no torch, thousands of texts a second.

    :param model_name: ``builtin/embed`` (shipped) or a local folder in model2vec's layout.
    :raises ModelError: if there is no such model, or it is of another kind or damaged.
    :raises MissingDependencyError: if model2vec is not installed.
    """

    def __init__(self, model_name: str = "builtin/embed") -> None:
        folder = model_folder(model_name)
        if folder is None:
            raise ModelError(f"embedder {model_name!r} must be 'builtin/embed' or a local folder")
        require("embedding texts", "model2vec")
        from model2vec import StaticModel

        self.model_name = str(model_name)
        try:
            read_config(folder)  # model2vec's own message for one that is no object names an attribute
            self._model: Any = StaticModel.from_pretrained(folder)
        except (
            Exception
        ) as error:  # tokenizers raises Exception itself for a damaged tokenizer.json, no class of its own
            raise ModelError(
                f"embedder {model_name!r} cannot be read ({error}); expected a folder in model2vec's layout with whole "
                f"files: config.json, model.safetensors and tokenizer.json"
            ) from error

    @property
    def dim(self) -> int:
        """The number of dimensions of a vector."""
        return int(self._model.dim)

    def encode_documents(self, documents: Sequence[str]) -> NDArray[np.float32]:
        """Embed documents.

        :param documents: the texts; empty ones get a zero vector.
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
        """Embed queries; the same as :meth:`encode_documents`, under the name that pymilvus.model uses."""
        return self.encode_documents(queries)

    def __repr__(self) -> str:
        return f"StaticEmbedder({self.model_name!r})"

"""Rerank Milvus search hits with cross-encoder and BGE models."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from milvus_rerank.embedding import StaticEmbedder
    from milvus_rerank.pipeline import (
        RRF,
        Dense,
        FullText,
        Hybrid,
        SearchAnswer,
        TwoStageSearch,
        Weighted,
    )
    from milvus_rerank.registry import available, create, register
    from milvus_rerank.reranker import (
        BaseRerankFunction,
        BGERerankFunction,
        CohereRerankFunction,
        CrossEncoderRerankFunction,
        HTTPRerankFunction,
        JinaRerankFunction,
        LexicalRerankFunction,
        TEIRerankFunction,
        VoyageRerankFunction,
    )
    from milvus_rerank.results import RerankResult

__version__ = "0.1.0"

# Every name and the module it lives in. They are imported at first use, so that importing the package stays quick
# and needs none of the optional packages.
_HOME = {
    "BGERerankFunction": "reranker",
    "BaseRerankFunction": "reranker",
    "CohereRerankFunction": "reranker",
    "CrossEncoderRerankFunction": "reranker",
    "Dense": "pipeline",
    "FullText": "pipeline",
    "HTTPRerankFunction": "reranker",
    "Hybrid": "pipeline",
    "JinaRerankFunction": "reranker",
    "LexicalRerankFunction": "reranker",
    "RRF": "pipeline",
    "RerankResult": "results",
    "SearchAnswer": "pipeline",
    "StaticEmbedder": "embedding",
    "TEIRerankFunction": "reranker",
    "TwoStageSearch": "pipeline",
    "VoyageRerankFunction": "reranker",
    "Weighted": "pipeline",
    "available": "registry",
    "create": "registry",
    "register": "registry",
}

__all__ = [
    "BGERerankFunction",
    "BaseRerankFunction",
    "CohereRerankFunction",
    "CrossEncoderRerankFunction",
    "Dense",
    "FullText",
    "HTTPRerankFunction",
    "Hybrid",
    "JinaRerankFunction",
    "LexicalRerankFunction",
    "RRF",
    "RerankResult",
    "SearchAnswer",
    "StaticEmbedder",
    "TEIRerankFunction",
    "TwoStageSearch",
    "VoyageRerankFunction",
    "Weighted",
    "available",
    "create",
    "register",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

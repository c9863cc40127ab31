"""Rerank Milvus search hits with cross-encoder and BGE models."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if sys.version_info < (3, 10):  # noqa: UP036  before newer syntax fails: pip does not check a source tree
    raise ImportError("milvus-rerank needs Python 3.10 or newer; this is Python {}.{}".format(*sys.version_info))

if TYPE_CHECKING:
    from milvus_rerank.cascade import CascadeRerankFunction, Stage
    from milvus_rerank.embedding import StaticEmbedder
    from milvus_rerank.fallback import FallbackRerankFunction
    from milvus_rerank.loading.options import BatchOptions, FlagOptions, HubOptions
    from milvus_rerank.postprocess import RRF, Weighted, above, diversify, fuse, normalize
    from milvus_rerank.registry import available, create, load, register
    from milvus_rerank.reranker import (
        BaseRerankFunction,
        BGERerankFunction,
        CohereRerankFunction,
        CrossEncoderRerankFunction,
        HTTPRerankFunction,
        JinaRerankFunction,
        LexicalRerankFunction,
        RetryPolicy,
        TEIRerankFunction,
        VoyageRerankFunction,
    )
    from milvus_rerank.result_list import RerankResults
    from milvus_rerank.results import RerankResult
    from milvus_rerank.scoring.caches import ScoreCache
    from milvus_rerank.scoring.encoder import Chunks
    from milvus_rerank.search import Dense, FullText, Hybrid, SearchAnswer, TwoStageSearch
    from milvus_rerank.search.model_ranker import as_ranker
    from milvus_rerank.steps import Pipeline

__version__ = "0.1.0"

# The module of each public name that is not in `reranker`. Names are imported at first use: importing the package is
# quick and needs no optional package.
_MODULES = {
    "cascade": ("CascadeRerankFunction", "Stage"),
    "embedding": ("StaticEmbedder",),
    "fallback": ("FallbackRerankFunction",),
    "loading.options": ("BatchOptions", "FlagOptions", "HubOptions"),
    "postprocess": ("RRF", "Weighted", "above", "diversify", "fuse", "normalize"),
    "registry": ("available", "create", "load", "register"),
    "result_list": ("RerankResults",),
    "results": ("RerankResult",),
    "scoring.caches": ("ScoreCache",),
    "scoring.encoder": ("Chunks",),
    "search": ("Dense", "FullText", "Hybrid", "SearchAnswer", "TwoStageSearch"),
    "search.model_ranker": ("as_ranker",),
    "steps": ("Pipeline",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "BGERerankFunction",
    "BaseRerankFunction",
    "BatchOptions",
    "CascadeRerankFunction",
    "Chunks",
    "CohereRerankFunction",
    "CrossEncoderRerankFunction",
    "Dense",
    "FallbackRerankFunction",
    "FlagOptions",
    "FullText",
    "HTTPRerankFunction",
    "HubOptions",
    "Hybrid",
    "JinaRerankFunction",
    "LexicalRerankFunction",
    "Pipeline",
    "RRF",
    "RerankResult",
    "RerankResults",
    "RetryPolicy",
    "ScoreCache",
    "SearchAnswer",
    "Stage",
    "StaticEmbedder",
    "TEIRerankFunction",
    "TwoStageSearch",
    "VoyageRerankFunction",
    "Weighted",
    "above",
    "as_ranker",
    "available",
    "create",
    "diversify",
    "fuse",
    "load",
    "normalize",
    "register",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME.get(name, 'reranker')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

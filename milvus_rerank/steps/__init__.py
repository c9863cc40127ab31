"""Steps after the reranker, by name: each is a frozen value, and a function from results to results.

A :class:`~milvus_rerank.steps.pipeline.Pipeline` runs them in their order. The functions are those of
:mod:`milvus_rerank.postprocess`; a step adds a name, checked options and a form for config files.
"""

from milvus_rerank.steps.arrange import Diversify, GroupBy, LostInTheMiddle
from milvus_rerank.steps.factors import Boost, Decay, FieldBoost
from milvus_rerank.steps.pipeline import STEPS, Pipeline
from milvus_rerank.steps.rescale import Fuse, Normalize, Threshold
from milvus_rerank.steps.step import Step

__all__ = [
    "STEPS",
    "Boost",
    "Decay",
    "Diversify",
    "FieldBoost",
    "Fuse",
    "GroupBy",
    "LostInTheMiddle",
    "Normalize",
    "Pipeline",
    "Step",
    "Threshold",
]

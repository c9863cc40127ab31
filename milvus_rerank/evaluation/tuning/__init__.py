"""Tune the settings of a search: the quality, latency and memory of a grid, on judged queries."""

from milvus_rerank.evaluation.tuning.options import TuneOptions
from milvus_rerank.evaluation.tuning.report import FrontierRow, TuneReport
from milvus_rerank.evaluation.tuning.settings import Setting, Variant, make_variants
from milvus_rerank.evaluation.tuning.target import Target, read_target
from milvus_rerank.evaluation.tuning.tune import tune

__all__ = [
    "FrontierRow",
    "Setting",
    "Target",
    "TuneOptions",
    "TuneReport",
    "Variant",
    "make_variants",
    "read_target",
    "tune",
]

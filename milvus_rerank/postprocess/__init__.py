"""Functions on results: normalise scores, fuse them with the first stage's, apply a threshold, diversify.

Every function takes results in any sequence and returns a new list. A result without a score (``missing="last"``) stays
without one and comes last. If results come from several stages of a cascade, the functions use the scores that
``score()`` returns: those of later stages are above those of earlier stages.
"""

from milvus_rerank.postprocess.diversify import diversify
from milvus_rerank.postprocess.fuse import RRF, Weighted, fuse
from milvus_rerank.postprocess.normalize import above, normalize

__all__ = ["RRF", "Weighted", "above", "diversify", "fuse", "normalize"]

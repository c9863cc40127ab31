"""What to do with results: bring scores to another scale, fuse them with the first stage's, cut them, mix topics.

Every function takes results in any sequence and returns a new list. A result without a score (``missing="last"``) keeps
none and stays behind. Where results are of several stages of a cascade, scores count as ``score()`` gives them: later
stages above earlier ones.
"""

from milvus_rerank.postprocess.diversify import diversify
from milvus_rerank.postprocess.fuse import RRF, Weighted, fuse
from milvus_rerank.postprocess.normalize import above, normalize

__all__ = ["RRF", "Weighted", "above", "diversify", "fuse", "normalize"]

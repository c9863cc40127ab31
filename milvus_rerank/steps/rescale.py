"""Steps on scores alone: a threshold, another scale, fusion with the first stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from milvus_rerank.errors import InputError
from milvus_rerank.postprocess.fuse import METRICS, RRF, Weighted, fuse
from milvus_rerank.postprocess.normalize import METHODS, Method, above, normalize
from milvus_rerank.result_list import RerankResults
from milvus_rerank.results import RerankResult
from milvus_rerank.steps.step import Order, Step, check_finite
from milvus_rerank.validation import check_choice


@dataclass(frozen=True, slots=True)
class Threshold(Step):
    """Keep the results with a score of at least ``least``, on the scale that scores have at this place.

    :param least: the least score.
    :raises InputError: if it is not a number.
    """

    name: ClassVar[str] = "threshold"
    least: float

    def __post_init__(self) -> None:
        check_finite(self.least, "least")

    def __call__(self, results: Sequence[RerankResult[Any]]) -> RerankResults[Any]:
        """Return the kept results, as :func:`~milvus_rerank.above` does."""
        return above(results, self.least)


@dataclass(frozen=True, slots=True)
class Normalize(Step):
    """Scale the scores to 0 to 1; the order stays.

    :param method: ``sigmoid``, ``softmax``, ``minmax`` or ``rank``.
    :raises InputError: for an unknown method.
    """

    name: ClassVar[str] = "normalize"
    method: Method

    def __post_init__(self) -> None:
        check_choice(self.method, "method", METHODS)

    def __call__(self, results: Sequence[RerankResult[Any]]) -> RerankResults[Any]:
        """Return the results with scaled scores, as :func:`~milvus_rerank.normalize` does."""
        return normalize(results, self.method)


@dataclass(frozen=True, slots=True)
class Fuse(Step):
    """Combine the scores with the distances of the first stage.

    :param metric: the first stage's metric, such as ``COSINE``; ``IP`` for a hybrid search.
    :param weights: the weights of score and distance, such as ``(0.7, 0.3)``; None for reciprocal rank fusion.
    :param normalize: with weights, scale scores and distances to 0 to 1 first.
    :param k: the constant of reciprocal rank fusion; None for 60.
    :raises InputError: for an invalid option, or ``k`` with weights.
    """

    name: ClassVar[str] = "fuse"
    order: ClassVar[Order] = "by score"
    metric: str
    weights: tuple[float, float] | None = None
    normalize: bool = True
    k: int | None = None

    def __post_init__(self) -> None:
        check_choice(self.metric.upper() if isinstance(self.metric, str) else self.metric, "metric", METRICS)
        if not isinstance(self.normalize, bool):
            raise InputError(f"normalize must be true or false, got {self.normalize!r}")
        if self.weights is None:
            RRF(60 if self.k is None else self.k)
            return
        if self.k is not None:
            raise InputError("k is for reciprocal rank fusion; leave out k or weights")
        weights = Weighted(self.weights).weights
        if len(weights) != 2:
            raise InputError(f"weights must be two numbers, of score and distance, got {len(weights)}")
        object.__setattr__(self, "weights", weights)  # a list of a config file would make the value unhashable

    def __call__(self, results: Sequence[RerankResult[Any]]) -> RerankResults[Any]:
        """Return the results in the fused order, as :func:`~milvus_rerank.fuse` does."""
        if self.weights is None:
            return fuse(results, RRF(60 if self.k is None else self.k), metric=self.metric)
        return fuse(results, Weighted(self.weights, self.normalize), metric=self.metric)

"""Options of a training."""

from dataclasses import dataclass
from typing import get_args

from milvus_rerank.choices import Loss
from milvus_rerank.errors import InputError
from milvus_rerank.validation import check_choice, check_count

FEW_QUERIES = 10
"""The fewest judged queries to train on: with fewer, no interval can tell a better model from chance."""
ONE_SPLIT = 500
"""The number of judged queries from which on one split into queries to learn and to test is enough."""


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """Options of a training.

    :param candidates: the hits of the first stage that are reranked, for negatives and for nDCG.
    :param negatives: the documents that are not relevant, for each relevant one: half of them from the best
        hits, a quarter from the others, and a quarter from the hits of other queries.
    :param positives: the most relevant documents of a query to learn from.
    :param folds: the parts of the queries, each of which is tested with a model that learnt from the others; 1 for a
        single test on a fifth of the queries; None for 5, or 1 from :data:`ONE_SPLIT` queries on.
    :param loss: ``binary`` learns the probability of relevance of each pair, so that scores keep their meaning;
        ``lambda`` learns the order of each query's documents (LambdaLoss), and scores of other queries are no longer
        comparable.
    :param epochs: the most times that each example is learnt from.
    :param learning_rate: the highest step size, after a tenth of the steps; it then falls to zero.
    :param batch_size: the pairs of a step.
    :param max_length: the most tokens of a pair; None for the model's limit, at most 512.
    :param margin: leave out an unjudged document whose probability of relevance is more than ``1 - margin`` times the
        mean one of the query's relevant documents, by the teacher or the base model; None for 0.05 with a teacher, and
        no such filter without one.
    :param patience: the checks without a gain in nDCG@10 after which a training ends early; a check comes every half
        epoch.
    :param seed: the seed of all random choices.
    :param device: ``cpu``, ``cuda:n`` or None for a GPU if torch can use one.
    """

    candidates: int = 50
    negatives: int = 4
    positives: int = 16
    folds: int | None = None
    loss: Loss = "binary"
    epochs: float = 3.0
    learning_rate: float = 2e-5
    batch_size: int = 16
    max_length: int | None = None
    margin: float | None = None
    patience: int = 3
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        for name in ("candidates", "negatives", "positives", "batch_size", "patience"):
            check_count(getattr(self, name), name)
        for name in ("folds", "max_length"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), name)
        for name in ("epochs", "learning_rate"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1000:
                raise InputError(f"{name} must be a positive number, got {value!r}")
        check_choice(self.loss, "loss", get_args(Loss))
        if self.margin is not None and not 0 <= self.margin < 1:
            raise InputError(f"margin must be from 0 to below 1, got {self.margin!r}")

    def fold_count(self, queries: int) -> int:
        """Return the number of folds for so many judged queries."""
        return self.folds or (5 if queries < ONE_SPLIT else 1)

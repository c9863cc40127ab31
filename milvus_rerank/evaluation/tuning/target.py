"""Target: the limits that tuned settings keep, and the quality that they may give up for speed."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from milvus_rerank.errors import InputError

_NUMBER = r"(\d+(?:\.\d+)?)"
_UNDER = r"(?:under|below|<=?)"
_P95 = re.compile(rf"p95 ?{_UNDER} ?{_NUMBER} ?(ms|s)")
_WITHIN = re.compile(rf"within {_NUMBER} ?%(?: of the best(?: ndcg(?:@\d+)?)?)?")
_MEMORY = re.compile(rf"(?:memory )?{_UNDER} ?{_NUMBER} ?(mb|gb)")
_SECONDS = {"ms": 1e-3, "s": 1.0}
_BYTES = {"mb": 1e6, "gb": 1e9}


@dataclass(frozen=True, slots=True)
class Target:
    """The limits of a setting.

    :param p95: the most seconds of 95% of the queries, first stage included; None for no limit.
    :param within: the share of the best nDCG that a faster setting may lose, such as 0.01; None to lose nothing.
    :param memory: the most bytes of the process that holds the reranker; None for no limit.
    :raises InputError: for a number that cannot be obeyed.
    """

    p95: float | None = None
    within: float | None = None
    memory: float | None = None

    def __post_init__(self) -> None:
        for name in ("p95", "memory"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} must be a positive number, got {value!r}")
        if self.within is not None and not 0 <= self.within < 1:
            raise InputError(f"within must be a share from 0 to below 1, such as 0.01, got {self.within!r}")

    def __str__(self) -> str:
        parts = [
            "" if self.p95 is None else f"p95 under {self.p95 * 1000:g} ms",
            "" if self.memory is None else f"under {self.memory / 1e9:g} GB",
            "the best nDCG" if self.within is None else f"within {self.within * 100:g}% of the best nDCG",
        ]
        return ", ".join(filter(None, parts))


DEFAULT_TARGET = Target(within=0.01)


def read_target(texts: Sequence[str]) -> Target:
    """Return the target that phrases mean.

    :param texts: any of ``p95 under 200 ms``, ``within 1% of the best nDCG`` and ``under 2 GB``, each at most once;
        none means ``within 1%``.
    :returns: the target.
    :raises InputError: for another phrase, or two of a kind.
    """
    values: dict[str, float] = {}
    for text in texts:
        words = " ".join(text.lower().split())
        if match := _P95.fullmatch(words):
            name, value = "p95", float(match[1]) * _SECONDS[match[2]]
        elif match := _WITHIN.fullmatch(words):
            name, value = "within", float(match[1]) / 100
        elif match := _MEMORY.fullmatch(words):
            name, value = "memory", float(match[1]) * _BYTES[match[2]]
        else:
            raise InputError(
                f"cannot read the target {text!r}; type 'p95 under 200 ms', 'within 1% of the best nDCG' or "
                "'under 2 GB'"
            )
        if name in values:
            raise InputError(f"two targets limit the same, the second is {text!r}; leave one out")
        values[name] = value
    return Target(**values) if values else DEFAULT_TARGET

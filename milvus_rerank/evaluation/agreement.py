"""Agreement of rankings without judgments."""

from collections.abc import Sequence


def overlap(first: Sequence[str], second: Sequence[str], k: int) -> float:
    """Return the share of the first ``k`` documents that two rankings have in common; 1 for two empty rankings."""
    size = max(len(first[:k]), len(second[:k]))
    return len({*first[:k]} & {*second[:k]}) / size if size else 1.0


def rank_biased_overlap(first: Sequence[str], second: Sequence[str], p: float = 0.9) -> float:
    """Return the extrapolated rank-biased overlap of two rankings (Webber, Moffat and Zobel, 2010, equation 32).

    :param first: a ranking: document ids, best first.
    :param second: another ranking.
    :param p: the persistence: 0.9 gives the first ten ranks 86% of the weight.
    :returns: 1 for equal rankings, 0 for rankings without a common document.
    """
    short, long = sorted((first, second), key=len)
    if not long:
        return 1.0
    if not short:
        return 0.0
    seen_short: set[str] = set()
    seen_long: set[str] = set()
    common = 0
    common_at_short = 0
    total = 0.0
    for depth, name in enumerate(long, 1):
        other = short[depth - 1] if depth <= len(short) else None
        common += (name in seen_short) + (other in seen_long) + (name == other)
        seen_long.add(name)
        if other is not None:
            seen_short.add(other)
            common_at_short = common
        total += common / depth * p**depth
        if other is None:
            total += common_at_short * (depth - len(short)) / (depth * len(short)) * p**depth
    rest = (common - common_at_short) / len(long) + common_at_short / len(short)
    return (1 - p) / p * total + rest * p ** len(long)

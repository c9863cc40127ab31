"""The decisions of a tuning: how many queries, which rerankers to keep, which setting to choose."""

import math
import random
from collections.abc import Callable, Mapping, Sequence

from milvus_rerank.errors import InputError
from milvus_rerank.evaluation.tuning.scored import frontier
from milvus_rerank.evaluation.tuning.settings import Setting, Variant
from milvus_rerank.evaluation.tuning.target import Target

_FIRST_ROUND = 10
"""The least queries that a reranker is dropped by."""
_CHANCE = 0.05
"""The share of the best nDCG that a few queries may take from a reranker by chance."""


def divide(names: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """Return the queries that choose, and the queries that test the choice.

    :param names: the judged queries.
    :param seed: the seed of the division.
    :returns: two halves, in random order; the second is the larger one.
    """
    shuffled = list(names)
    random.Random(seed).shuffle(shuffled)  # noqa: S311
    return shuffled[: len(shuffled) // 2], shuffled[len(shuffled) // 2 :]


def round_sizes(queries: int, variants: int) -> list[int]:
    """Return the queries that the rerankers of each round have scored at its end: each twice those of the one before.

    :param queries: the queries of the last round.
    :param variants: the rerankers of the first round.
    :returns: the sizes. The first is at least ten queries, and the last round has two rerankers if the queries suffice.
    """
    halvings = max(0, math.ceil(math.log2(variants)) - 1)
    rounds = min(halvings, int(math.log2(max(1, queries / _FIRST_ROUND))))
    return [math.ceil(queries / 2**number) for number in range(rounds, -1, -1)]


def better_half(
    variants: Sequence[Variant], points: Mapping[Setting, tuple[float, float]], target: Target
) -> list[Variant]:
    """Return the better half of some rerankers, at least two: by nDCG within the limit of p95, then by speed.

    :param variants: the rerankers.
    :param points: nDCG and estimated p95 of settings without a cascade, at least one for each reranker.
    :param target: the target. If it lets nDCG go for speed, rerankers that no other beats in both come first, unless
        their nDCG is far too low.
    :returns: the rerankers to keep, in their order.
    """
    best: dict[Setting, tuple[float, float]] = {}
    for variant in variants:
        alone = {setting: point for setting, point in points.items() if setting.variant == variant}
        fast = {key: point for key, point in alone.items() if target.p95 is None or point[1] <= target.p95}
        if fast:
            key = max(fast, key=lambda item: (fast[item][0], -fast[item][1]))
            best[key] = fast[key]
        else:  # too slow even with the fewest candidates: the last to keep
            key = min(alone, key=lambda item: alone[item][1])
            best[key] = (-1.0, alone[key][1])
    wanted = max(2, math.ceil(len(variants) / 2))
    order: list[Setting] = []
    if target.within is not None:
        least = max(value for value, _ in best.values()) * (1 - target.within - _CHANCE)
        edge = [setting for setting in frontier(best) if best[setting][0] >= least]
        order = sorted(edge, key=lambda item: -best[item][0])[:wanted]
    rest = sorted((item for item in best if item not in order), key=lambda item: (-best[item][0], best[item][1]))
    kept = {setting.variant for setting in [*order, *rest][:wanted]}
    return [variant for variant in variants if variant in kept]


def measure_best(
    edge: Sequence[Setting], seconds: Callable[[Setting], float], target: Target, most: int
) -> dict[Setting, float]:
    """Measure the settings with the best nDCG, and more until one is fast enough.

    :param edge: settings, the fastest and worst first.
    :param seconds: measures the p95 of a setting.
    :param target: the limit of p95.
    :param most: the number of settings to measure if one of them is fast enough.
    :returns: the measured p95 of the settings.
    """
    measured: dict[Setting, float] = {}
    for setting in reversed(edge):
        if len(measured) >= most and (target.p95 is None or min(measured.values()) <= target.p95):
            break
        measured[setting] = seconds(setting)
    return measured


def choose(measured: Mapping[Setting, float], qualities: Mapping[Setting, float], target: Target) -> Setting:
    """Return the setting with the best nDCG within the limit; or the fastest that is near enough to it.

    :param measured: the measured p95 of settings.
    :param qualities: their nDCG.
    :param target: the limit of p95, and the share of nDCG that may be lost.
    :returns: the setting.
    :raises InputError: if all are too slow; it names the fastest.
    """
    fast = [setting for setting, seconds in measured.items() if target.p95 is None or seconds <= target.p95]
    if not fast:
        least = min(measured, key=measured.__getitem__)
        raise InputError(
            f"no setting has a p95 under {1000 * (target.p95 or 0):g} ms: the fastest is {least} of {least.candidates} "
            f"candidates with {measured[least] * 1000:.0f} ms. Raise the limit, or try fewer candidates or a smaller "
            "model"
        )
    enough = max(qualities[setting] for setting in fast) * (1 - (target.within or 0.0))
    good = [setting for setting in fast if qualities[setting] >= enough]
    return min(good, key=lambda setting: (measured[setting], -qualities[setting]))

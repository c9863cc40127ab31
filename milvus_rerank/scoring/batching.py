"""Cutting of a sorted list of pairs into batches."""

from collections.abc import Sequence


def by_length(lengths: Sequence[int]) -> list[int]:
    """Return positions from the longest to the shortest, ties in input order.

    The longest pairs come first, so that a batch that does not fit the memory fails at once.

    :param lengths: true token lengths of the pairs.
    :returns: positions into ``lengths``.
    """
    return sorted(range(len(lengths)), key=lambda index: -lengths[index])


def cut(order: Sequence[int], lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Cut sorted pairs into batches of at most ``max_tokens`` tokens, padding included.

    :param order: positions sorted by length, longest first.
    :param lengths: true token lengths, indexed by those positions.
    :param max_tokens: the budget of a batch: its pairs times the length of its longest. A single pair may exceed it.
    :returns: the positions of each batch.
    """
    batches: list[list[int]] = []
    start = 0
    while start < len(order):
        rows = max(1, max_tokens // max(1, lengths[order[start]]))
        batches.append(list(order[start : start + rows]))
        start += rows
    return batches

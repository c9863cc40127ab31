"""Where a sorted list of pairs is cut into batches."""

from collections.abc import Sequence


def by_length(lengths: Sequence[int]) -> list[int]:
    """Return positions from the longest to the shortest, ties in input order.

    Longest first, so that a batch too large for the memory shows itself at once.

    :param lengths: true token lengths of the pairs.
    :returns: positions into ``lengths``.
    """
    return sorted(range(len(lengths)), key=lambda index: -lengths[index])


def cut(order: Sequence[int], lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Cut sorted pairs into batches of at most ``max_tokens`` tokens, padding included.

    :param order: positions sorted by length, longest first.
    :param lengths: true token lengths, indexed by those positions.
    :param max_tokens: the budget of one batch: its pairs times its longest pair; one pair alone may exceed it.
    :returns: the positions of each batch.
    """
    batches: list[list[int]] = []
    start = 0
    while start < len(order):
        rows = max(1, max_tokens // max(1, lengths[order[start]]))
        batches.append(list(order[start : start + rows]))
        start += rows
    return batches

"""Batches of pairs of about the same length."""

from collections.abc import Sequence


def cut(
    lengths: Sequence[int],
    max_tokens: int,
    widths: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
) -> list[list[int]]:
    """Sort pairs by length, and cut them into batches of at most ``max_tokens`` tokens, padding included.

    The longest pairs come first, so that a batch that does not fit the memory fails at once.

    :param lengths: true token lengths of the pairs.
    :param max_tokens: the budget of a batch: its pairs times the width of its longest. A single pair may exceed it.
    :param widths: the padded length of each pair; None if it is the true length.
    :param positions: the pairs to take; None for all.
    :returns: the positions of each batch, from the longest pair to the shortest, ties in input order.
    """
    order = sorted(range(len(lengths)) if positions is None else positions, key=lengths.__getitem__, reverse=True)
    widths = lengths if widths is None else widths
    batches: list[list[int]] = []
    start = 0
    while start < len(order):
        count = max(1, max_tokens // max(1, widths[order[start]]))
        batches.append(order[start : start + count])
        start += count
    return batches

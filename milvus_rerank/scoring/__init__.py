"""Pairs of query and document -> token ids -> batches sorted by length -> scores in the caller's order."""

from collections.abc import Sequence

Request = tuple[str, Sequence[str]]
"""One query and its documents."""

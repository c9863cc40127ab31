"""A plugin in full: it only scores; sorting, top_k, hits, async and checks come from milvus-rerank."""

from collections.abc import Sequence


class NgramReranker:
    """Score texts by the share of the query's character n-grams that they hold, from 0 to 1.

    :param n: characters per n-gram.
    """

    def __init__(self, n: int = 3) -> None:
        self.n = n

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return one score per text, in input order."""
        wanted = self._ngrams(query)
        return [len(wanted & self._ngrams(text)) / max(1, len(wanted)) for text in texts]

    def _ngrams(self, text: str) -> set[str]:
        padded = f" {text.casefold()} "
        return {padded[start : start + self.n] for start in range(len(padded) - self.n + 1)}

"""Split long texts into parts of a number of tokens, at the ends of sections, paragraphs and sentences."""

from collections.abc import Callable
from typing import Any

from milvus_rerank.embedding import StaticEmbedder
from milvus_rerank.errors import InputError
from milvus_rerank.indexing.embedders import DEFAULT, Embedder
from milvus_rerank.requirements import require
from milvus_rerank.validation import check_count


def make_splitter(tokenizer: Any, tokens: int, overlap: int = 0) -> Callable[[str, str], list[str]]:
    """Return a function that splits a document's text.

    :param tokenizer: a ``tokenizers.Tokenizer``, which counts; it is not changed.
    :param tokens: the most tokens of a part, with the document's title, which stands before each part. A title counts
        for half of them at most.
    :param overlap: the most tokens at the beginning of a part that the part before it holds, too.
    :returns: a function from the title and the text of a document to its parts.
    :raises InputError: if ``overlap`` is negative, or not less than half of ``tokens``.
    :raises MissingDependencyError: if semantic-text-splitter is not installed.
    """
    check_count(tokens, "split-tokens")
    if not 0 <= overlap < (tokens + 1) // 2:
        raise InputError(f"overlap must be less than half of split-tokens={tokens}, got {overlap}")
    require("splitting texts", "semantic_text_splitter")
    from semantic_text_splitter import TextSplitter

    counter = type(tokenizer).from_str(tokenizer.to_str())
    counter.no_truncation()
    counter.no_padding()

    def split(title: str, text: str) -> list[str]:
        used = len(counter.encode(title, add_special_tokens=False).ids) if title else 0
        capacity = max(tokens - used, (tokens + 1) // 2)
        return list(TextSplitter.from_huggingface_tokenizer(counter, capacity, overlap).chunks(text))

    return split


def tokenizer_of(embedder: Embedder) -> Any:
    """Return the tokenizer that counts for an embedder: its own, or the built-in embedder's if that is not known."""
    return getattr(embedder, "tokenizer", None) or StaticEmbedder(DEFAULT).tokenizer

"""Special tokens that a tokenizer puts around a pair: derived from its output, and checked."""

from dataclasses import dataclass
from typing import Any

from milvus_rerank.errors import ModelError


@dataclass(frozen=True, slots=True)
class PairTemplate:
    """Special tokens that a tokenizer adds to a query and a document.

    :param prefix: token ids before the query.
    :param middle: token ids between the query and the document.
    :param suffix: token ids after the document.
    :param types: the token types of prefix, query, middle, document and suffix: one number each.
    """

    prefix: tuple[int, ...]
    middle: tuple[int, ...]
    suffix: tuple[int, ...]
    types: tuple[int, int, int, int, int]


def find_template(tokenizer: Any) -> PairTemplate:
    """Derive the template of pairs from a tokenizer's output.

    :param tokenizer: a transformers tokenizer.
    :returns: its special tokens and token types.
    :raises ModelError: if its pairs are not query and document with special tokens around them.
    """
    # Two texts in each script that a vocabulary may cover; the first two with different tokens are used.
    for query, document in (("a", "b"), ("1", "2"), ("的", "是"), ("あ", "い")):
        left, right = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (query, document))
        whole = tokenizer([query], [document], return_token_type_ids=True)
        template = _split(whole["input_ids"][0], whole["token_type_ids"][0], left, right) if left != right else None
        if template is None:
            continue
        for query, document in (("who is it", "it is a test 12"), ("a query", "")):
            left, right = (list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (query, document))
            expected = [*template.prefix, *left, *template.middle, *right, *template.suffix]
            if list(tokenizer([query], [document])["input_ids"][0]) != expected:  # lists: "" alone would not count
                break
        else:
            return template
    raise ModelError(
        f"{type(tokenizer).__name__} does not put a pair together as special tokens around query and document, "
        "which is the only form supported"
    )


def _split(ids: list[int], types: list[int], query: list[int], document: list[int]) -> PairTemplate | None:
    """Return the special tokens and token types of a pair; None if the pair does not hold the tokens of both texts."""
    for start in range(len(ids) - len(query) - len(document) + 1):
        end = start + len(query)
        if ids[start:end] != query:
            continue
        for second in range(end, len(ids) - len(document) + 1):
            last = second + len(document)
            if ids[second:last] == document:
                bounds = ((0, start), (start, end), (end, second), (second, last), (last, len(ids)))
                parts = [set(types[low:high]) or {0} for low, high in bounds]
                if any(len(part) > 1 for part in parts):
                    return None
                before, in_query, between, in_document, after = (part.pop() for part in parts)
                return PairTemplate(
                    tuple(ids[:start]),
                    tuple(ids[end:second]),
                    tuple(ids[last:]),
                    (before, in_query, between, in_document, after),
                )
    return None

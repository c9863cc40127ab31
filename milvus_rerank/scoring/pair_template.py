"""Special tokens that a tokenizer puts around a pair: derived from its output, and checked."""

from dataclasses import dataclass
from itertools import pairwise
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
        if left == right:
            continue
        whole = tokenizer([query], [document], return_token_type_ids=True)
        ids, types = whole["input_ids"][0], whole["token_type_ids"][0]
        places = (
            (0, start, start + len(left), second, second + len(right), len(ids))
            for start in range(len(ids) - len(left) - len(right) + 1)
            for second in range(start + len(left), len(ids) - len(right) + 1)
            if ids[start : start + len(left)] == left and ids[second : second + len(right)] == right
        )
        ends = next(places, ())
        parts = [set(types[begin:end]) or {0} for begin, end in pairwise(ends)]
        if not parts or any(len(part) > 1 for part in parts):
            continue
        before, in_query, between, in_document, after = (part.pop() for part in parts)
        prefix, _, middle, _, suffix = (tuple(ids[begin:end]) for begin, end in pairwise(ends))
        for query, document in (("who is it", "it is a test 12"), ("a query", "")):
            left, right = (list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (query, document))
            expected = [*prefix, *left, *middle, *right, *suffix]
            if list(tokenizer([query], [document])["input_ids"][0]) != expected:  # lists: "" alone would not count
                break
        else:
            return PairTemplate(prefix, middle, suffix, (before, in_query, between, in_document, after))
    raise ModelError(
        f"{type(tokenizer).__name__} does not put a pair together as special tokens around query and document, "
        "which is the only form supported"
    )

"""Token ids of texts, from a transformers tokenizer."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from milvus_rerank.scoring.caches import Ids

TOKENIZE_AT_ONCE = 1024
"""Number of texts tokenised between two checks of ``stop``."""


class TokenizingEncoder:
    """Base of the encoders that tokenise texts.

    The tokenizer's settings are fixed once: padding and truncation happen outside it. A tokenizer whose settings change
    from call to call gives wrong lengths when threads share it.
    """

    _tokenizer: Any  # a transformers tokenizer
    _fast: Any  # a private copy of its Rust core; None for a tokenizer in Python

    def tokenize(self, texts: Sequence[str]) -> list[Ids]:
        """Return the token ids of each text as int64, without special tokens and without truncation."""
        if self._fast is not None:
            encodings = self._fast.encode_batch_fast(list(texts), add_special_tokens=False)
            return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
        ids = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
        return [np.array(row, dtype=np.int64) for row in ids]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Return the first character of each token of a text and the one after its last; only for fast tokenizers."""
        offsets: list[tuple[int, int]] = self._fast.encode(text, add_special_tokens=False).offsets
        return offsets


def private_copy(tokenizer: Any) -> Any:
    """Return a copy of a fast tokenizer's Rust core, without padding and truncation; None for a tokenizer in Python."""
    core = getattr(tokenizer, "backend_tokenizer", None) if getattr(tokenizer, "is_fast", False) else None
    if core is None:
        return None
    copy = type(core).from_str(core.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy

"""Token ids of texts, from a transformers tokenizer."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from milvus_rerank.scoring import check_stop
from milvus_rerank.scoring.caches import Ids

TOKENIZE_AT_ONCE = 1024
"""The most texts of one call of the tokenizer."""
TOKENIZE_CHARACTERS = 65_536
"""The most characters of one call of the tokenizer, between two looks at ``stop``: some 20 ms of work. A longer text is
tokenised in parts, up to the tokens that the model reads."""

_MARGIN = 256  # tokens before a cut inside a word, which may differ from those of the whole text
# Texts that are cut before each space and line break to see whether a tokenizer treats the parts as it does the whole.
_PROBES = ("Ab cd  ef\n gh\n\nij 12 3", "漢字 かな。 한국어 ไทย", "a\tb c , d .e", " x  y ")


class TokenizingEncoder:
    """Base of the encoders that tokenise texts.

    The tokenizer's settings are fixed once: padding and truncation happen outside it. A tokenizer whose settings change
    from call to call gives wrong lengths when threads share it.
    """

    _tokenizer: Any  # a transformers tokenizer
    _fast: Any  # a private copy of its Rust core; None for a tokenizer in Python
    _splits: bool | None = None  # whether parts of a text, cut before spaces, have the tokens of the whole

    def tokenize(self, texts: Sequence[str]) -> list[Ids]:
        """Return the token ids of each text as int64, without special tokens and without truncation."""
        if self._fast is not None:
            encodings = self._fast.encode_batch_fast(list(texts), add_special_tokens=False)
            return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
        ids = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
        return [np.array(row, dtype=np.int64) for row in ids]

    def tokenize_long(self, text: str, wanted: int | None, stop: threading.Event | None) -> Ids:
        """Return the token ids of a text of any length, with memory for those that are wanted.

        :param text: the text.
        :param wanted: the number of first tokens to return; None for all.
        :param stop: when set, the work ends early.
        :returns: the tokens that the whole text has; at most ``wanted``.
        :raises StoppedError: if ``stop`` was set.
        """
        parts, count, start = [], 0, 0
        while start < len(text) and (wanted is None or count < wanted):
            if stop is not None:
                check_stop(stop)
            end = self._part_end(text, start)
            if end is None:  # no space to cut before: the first tokens do not depend on text that is far behind them
                end = len(text) if wanted is None else min(len(text), start + TOKENIZE_CHARACTERS)
                ids = self.tokenize([text[start:end]])[0]
                while end < len(text) and wanted is not None and count + len(ids) < wanted + _MARGIN:
                    end = min(len(text), start + 4 * (end - start))
                    ids = self.tokenize([text[start:end]])[0]
                parts.append(ids)
                break
            parts.append(self.tokenize([text[start:end]])[0])
            count, start = count + len(parts[-1]), end
        return np.concatenate(parts)[:wanted] if parts else np.empty(0, np.int64)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Return the first character of each token of a text and the one after its last; only for fast tokenizers."""
        offsets: list[tuple[int, int]] = self._fast.encode(text, add_special_tokens=False).offsets
        return offsets

    def _part_end(self, text: str, start: int) -> int | None:
        """Return where the part of a text that begins at ``start`` ends: before a space; None if it holds no space."""
        end = start + TOKENIZE_CHARACTERS
        if end >= len(text):
            return len(text)
        if self._splits is None:
            self._splits = self._parts_are_as_the_whole()
        if not self._splits:
            return None
        for place in range(end, start + TOKENIZE_CHARACTERS // 2, -1):
            if text[place] in " \n" and not text[place - 1].isspace():
                return place
        return None

    def _parts_are_as_the_whole(self) -> bool:
        for text in _PROBES:
            whole = self.tokenize([text])[0].tolist()
            for place in range(1, len(text)):
                if text[place] in " \n" and not text[place - 1].isspace():
                    first, second = self.tokenize([text[:place], text[place:]])
                    if [*first.tolist(), *second.tolist()] != whole:
                        return False
        return True


def groups(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield texts in groups, one for each call of the tokenizer; a text that is too long for one is a group."""
    group: list[str] = []
    characters = 0
    for text in texts:
        if group and (len(group) == TOKENIZE_AT_ONCE or characters + len(text) > TOKENIZE_CHARACTERS):
            yield group
            group, characters = [], 0
        group.append(text)
        characters += len(text)
    if group:
        yield group


def private_copy(tokenizer: Any) -> Any:
    """Return a copy of a fast tokenizer's Rust core, without padding and truncation; None for a tokenizer in Python."""
    core = getattr(tokenizer, "backend_tokenizer", None) if getattr(tokenizer, "is_fast", False) else None
    if core is None:
        return None
    copy = type(core).from_str(core.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy

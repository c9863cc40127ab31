"""Models that only sentence-transformers can assemble: its forward pass with this package's batching.

Validation, order, batches by length, threads and recovery from a lack of memory work as for all other models.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milvus_rerank.engines.base import Batch, as_logits
from milvus_rerank.errors import InputError, OutOfMemoryError
from milvus_rerank.forks import ForkLock
from milvus_rerank.loading.inspect import ModelInfo
from milvus_rerank.loading.options import Loaded, LoadOptions
from milvus_rerank.requirements import ENGINES, require
from milvus_rerank.scoring.encoder import Chunks, Pair, Span

_OLDEST_MAJOR = 6  # of sentence-transformers: older releases import any class that a folder's modules.json names

CHARACTERS_PER_TOKEN = 4
"""Estimate for batching: sentence-transformers tokenises the texts itself, and sorts them by characters, too."""


@dataclass(frozen=True, slots=True)
class TextBatch(Batch):
    """Pairs of texts, for sentence-transformers, which tokenises them itself.

    :param pairs: queries and documents.
    """

    pairs: Sequence[Pair] = field(default=())


class LibraryEncoder:
    """Pass pairs of texts through unchanged.

    :param max_length: the most tokens of a pair; sentence-transformers truncates the texts itself.
    """

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length

    def rows(self, pairs: Sequence[Pair], stop: threading.Event | None = None, *, whole: bool = False) -> list[Pair]:
        """Return the pairs."""
        return list(pairs)

    def length(self, row: Pair) -> int:
        """Return an estimate of a pair's tokens."""
        return min(self.max_length, 3 + (len(row[0]) + len(row[1])) // CHARACTERS_PER_TOKEN)

    def padded_length(self, length: int) -> int:
        """Return the same length."""
        return length

    def batch(self, rows: Sequence[Pair]) -> TextBatch:
        """Return a batch with the texts, without token ids."""
        nothing = np.empty((len(rows), 0), dtype=np.int64)
        return TextBatch(nothing, nothing, None, None, tuple(rows))

    def shorten(self, row: Pair, *, document_tokens: int | None, pair_tokens: int | None, left: bool) -> Pair:
        """Return the pair unchanged: only sentence-transformers knows its tokens."""
        return row

    def windows(self, row: Pair, chunks: Chunks) -> list[Pair]:
        """Return the pair as the only window."""
        return [row]

    def span(self, pair: Pair, window: int, chunks: Chunks) -> Span | None:
        """Return None: positions in the text are unknown."""
        return None


class LibraryEngine:
    """Run ``sentence_transformers.CrossEncoder``.

    :param model: the loaded model.
    :param device: the device that the model is on.
    :param dtype: the precision of its weights.
    :param prompt: the instruction for the model; None for the model's default.
    """

    name = "sentence-transformers"
    pad_to_multiple_of = 1

    def __init__(self, model: Any, device: str, dtype: str, prompt: str | None) -> None:
        self._model = model
        self._prompt = prompt
        self._turn = ForkLock()  # its modules are not documented as thread-safe
        self.device = device
        self.dtype = dtype

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Run one forward pass and return raw logits, shape ``(pairs,)``."""
        from milvus_rerank.engines.torch_engine import identity, is_out_of_memory

        if not isinstance(batch, TextBatch):
            raise InputError(f"engine {self.name!r} takes texts, got {type(batch).__name__}")
        pairs = [list(pair) for pair in batch.pairs]
        options = {"batch_size": len(pairs), "show_progress_bar": False, "activation_fn": identity()}
        try:
            with self._turn:
                logits = self._model.predict(pairs, prompt=self._prompt, **options)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(f"a batch of {len(pairs)} pairs does not fit the memory of {self.device}") from None
        return as_logits(np.asarray(logits), len(pairs), type(self._model).__name__)


def load_library(options: LoadOptions, device: str, dtype: str, info: ModelInfo, folder: Path) -> Loaded:
    """Load a model, whose files are in a folder, with sentence-transformers, on a device and in a precision."""
    name = options.source.name
    if options.chunks is not None:
        raise InputError(
            f"model {name!r} is put together by sentence-transformers, which cuts texts off: use long='truncate'"
        )
    require(f"model {name!r}", *ENGINES["torch"], "sentence_transformers")
    installed = version("sentence-transformers")
    if int(installed.partition(".")[0]) < _OLDEST_MAJOR:
        raise InputError(
            f"model {name!r} needs sentence-transformers {_OLDEST_MAJOR} or newer, got {installed}, which would run "
            'code of a model\'s folder without asking. Type: pip install --upgrade "milvus-rerank[torch]"'
        )
    from sentence_transformers import CrossEncoder

    from milvus_rerank.models.hub import explained

    source = options.source
    with explained(source):
        model = CrossEncoder(
            str(folder),
            device=device,
            local_files_only=True,
            trust_remote_code=source.trust_remote_code,
            max_length=options.max_length,
            model_kwargs={"dtype": dtype},
        )
    max_length = options.max_length or int(model.max_seq_length or 512)
    engine = LibraryEngine(model, device, dtype, options.prompt)
    encode = lambda length, _: LibraryEncoder(length)  # noqa: E731  the engine has the instruction
    return Loaded(engine, None, info.config, max_length, None, info.settings, encode)

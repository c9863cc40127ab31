"""Forward passes of language models, for the torch engine."""

import copy
import inspect
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from milvus_rerank.engines.base import Batch
from milvus_rerank.models.model_type import cache_argument

if TYPE_CHECKING:
    from milvus_rerank.engines.torch_engine import ToDevice

MIN_SHARED = 32
"""Tokens that a shared beginning must save in a batch to be worth a separate forward pass."""


class NextToken:
    """Logit of a token after a prompt, or the difference between the logits of two tokens.

    Batches are padded on the right and hold the bounds of their documents. Rows of one query begin with the same
    tokens. These tokens run once. Their keys and values serve all rows, including the rows of later batches.

    :param model: a causal language model of transformers, or a model with the same arguments.
    :param yes: the token that means the document is relevant; 0 for a model with a single logit.
    :param no: the token that means it is not relevant; None for the logit of ``yes`` alone.
    :param share: whether to run the tokens that rows share only once.
    """

    def __init__(self, model: Any, yes: int, no: int | None = None, *, share: bool = True) -> None:
        self._yes, self._no = yes, no
        takes = inspect.signature(model.forward).parameters
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self._positions = "position_ids" in takes
        config = model.config.get_text_config()
        self._window: int | None = getattr(config, "sliding_window", None)
        # No sharing if a layer keeps anything but keys and values of earlier tokens, or attends to them in chunks.
        plain = set(getattr(config, "layer_types", None) or ()) <= {"full_attention", "sliding_attention"}
        whole = getattr(config, "attention_chunk_size", None) is None
        self._cache_name = cache_argument(model.forward) or ""
        self._share = share and plain and whole and self._positions and self._cache_name != ""
        self._lock = threading.Lock()
        self._last: bytes = b""  # the beginning of the last batch of a single row
        self._kept: tuple[bytes, Any] | None = None  # the last shared beginning, with its keys and values

    def __call__(self, model: Any, batch: Batch, to_device: "ToDevice") -> torch.Tensor:
        """Run the model and return one logit per pair, float32."""
        # A pair of two empty texts may have zero tokens; it is read as a single padding token.
        lengths = np.maximum(batch.attention_mask.sum(axis=1), 1)
        input_ids = batch.input_ids if batch.input_ids.shape[1] else np.zeros((len(lengths), 1), dtype=np.int64)
        shared = self._shared(batch, lengths)
        width = int(lengths.max()) - shared
        ids = np.zeros((len(lengths), width), dtype=np.int64)
        mask = np.ones((len(lengths), shared + width), dtype=np.int64)
        for row, length in enumerate((lengths - shared).tolist()):  # on the left: the last column holds all last tokens
            ids[row, width - length :] = input_ids[row, shared : shared + length]
            mask[row, shared : shared + width - length] = 0
        inputs: dict[str, Any] = {"input_ids": to_device(ids), "attention_mask": to_device(mask)}
        if self._positions:
            positions = np.arange(width) + lengths[:, None] - width
            inputs["position_ids"] = to_device(np.maximum(positions, shared))
        if shared:
            inputs[self._cache_name] = self._beginning(model, input_ids[:1, :shared], len(lengths), to_device)
        try:
            logits: torch.Tensor = model(**inputs, use_cache=bool(shared), **self._options).logits[:, -1]
        except RuntimeError:  # if memory ran out, the kept keys and values would make it worse
            self._kept = None
            raise
        yes = logits[:, self._yes].float()
        return yes if self._no is None else yes - logits[:, self._no].float()

    def _shared(self, batch: Batch, lengths: NDArray[np.int64]) -> int:
        """Return the number of first tokens to run once for all rows."""
        if not self._share or batch.bounds is None:
            return 0
        if self._window is not None and self._window < batch.input_ids.shape[1]:
            return 0  # the padding between the shared tokens and the rest of a row would count as distance
        # At most up to the document: beginnings that documents share by chance change from batch to batch.
        limit = min(int(batch.bounds[:, 0].min()), int(lengths.min()) - 1)
        if len(lengths) == 1:  # long documents come one by one: the second of them fills the cache for the rest
            key = batch.input_ids[:1, : max(0, limit)].tobytes()
            known = key in (self._last, b"" if self._kept is None else self._kept[0])
            self._last = key
            return limit if known and limit >= MIN_SHARED else 0
        same = (batch.input_ids[:, :limit] == batch.input_ids[0, :limit]).all(axis=0)
        shared = limit if same.all() else int(np.argmin(same))
        return shared if shared * (len(lengths) - 1) >= MIN_SHARED else 0

    def _beginning(self, model: Any, ids: NDArray[np.int64], rows: int, to_device: "ToDevice") -> Any:
        """Return the keys and values of the shared tokens, repeated for all rows. The model appends to them."""
        key = ids.tobytes()
        with self._lock:
            kept = self._kept
        if kept is None or kept[0] != key:
            output = model(input_ids=to_device(ids), use_cache=True, **self._options)
            kept = key, getattr(output, self._cache_name)
            with self._lock:
                self._kept = kept
        cache = copy.deepcopy(kept[1])
        cache.batch_repeat_interleave(rows)
        return cache


class Merging:
    """Forward pass of a model that merges document tokens, such as ``bge-reranker-v2.5-gemma2-lightweight``.

    The model takes token ids, the length of each row and the bounds of its document, and returns one logit per row.
    """

    def __call__(self, model: Any, batch: Batch, to_device: "ToDevice") -> torch.Tensor:
        """Run the model and return one logit per pair."""
        if batch.bounds is None:
            raise ValueError("a model that merges tokens needs the bounds of documents")
        logits: torch.Tensor = model(to_device(batch.input_ids), batch.attention_mask.sum(axis=1), batch.bounds)
        return logits

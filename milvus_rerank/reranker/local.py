"""EngineRerankFunction: rerank with a model that an engine runs in this process."""

import copy
import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from milvus_rerank.errors import ForkError, InputError
from milvus_rerank.forks import ForkLock
from milvus_rerank.loading.load import load_scorer
from milvus_rerank.loading.options import LoadOptions
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.results import DocumentScores
from milvus_rerank.scoring import Request
from milvus_rerank.scoring.activation import pick_activation
from milvus_rerank.scoring.scorer import PairScorer

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

_loading = ForkLock()


class EngineRerankFunction(BaseRerankFunction):
    """Rerank with a ready scorer; subclasses load one.

    Pickles hold the options, not the model: it is loaded at the first use after unpickling. Copies share the model. A
    forked process cannot use its parent's engine: it loads the model again at its first use.

    :param scorer: the encoder and engine of a model.
    :param model_name: the model's name in ``repr``.
    :param options: the options to load the model again with; None if it cannot be loaded again.
    """

    def __init__(self, scorer: PairScorer, *, model_name: str, options: LoadOptions | None = None) -> None:
        self._loaded: tuple[int, PairScorer] | None = os.getpid(), scorer  # the process that loaded it comes first
        self._options = options
        self.model_name = model_name

    @property
    def scorer(self) -> PairScorer:
        """Encoder and engine of the model.

        :raises ForkError: in a forked process, if its parent loaded the model on a GPU.
        """
        loaded = self._loaded
        if loaded is None or loaded[0] != os.getpid():
            with _loading:
                loaded = self._loaded
                if loaded is None or loaded[0] != os.getpid():
                    before = loaded and [part.engine.device for part in (loaded[1], *loaded[1].others)]
                    parents = before and next((device for device in before if device != "cpu"), "cpu")
                    loaded = self._loaded = os.getpid(), self._load_again(parents or None)
        return loaded[1]

    def _load_again(self, parents_device: str | None) -> PairScorer:
        if parents_device not in (None, "cpu"):
            raise ForkError(
                f"model {self.model_name!r} was loaded on {parents_device} before this process was forked, and works "
                "only in the parent; load it after the fork, or start processes with the method 'spawn'"
            )
        scorer = load_scorer(self._reload_options())
        if parents_device is not None and scorer.engine.name != "onnx":
            logger.warning(
                "model %r was loaded before this process was forked, so engine %r uses one CPU thread; to use more, "
                "load models only after the fork, start processes with the method 'spawn', or use engine='onnx'",
                self.model_name,
                scorer.engine.name,
            )
        return scorer

    def score_requests(self, requests: Sequence[Request], stop: threading.Event) -> list[list[float]]:
        """Score all documents of all queries in one pass over length-sorted batches."""
        return self.scorer.score(requests, stop)

    def score_documents(
        self, requests: Sequence[Request], top_k: int | None, stop: threading.Event
    ) -> list[DocumentScores]:
        """Score all documents; add the windows of long documents that have the scores."""
        scorer = self.scorer
        logits = scorer.logits(requests, stop)
        scores = [DocumentScores(numbers) for numbers in scorer.activate(logits)]
        if scorer.chunks is None:
            return scores
        # Spans need another tokenisation: only for documents that the caller gets.
        return [
            replace(query, spans=scorer.spans(request, query_logits, query.rank(top_k), stop))
            for query, request, query_logits in zip(scores, requests, logits, strict=True)
        ]

    @property
    def device(self) -> str:
        """Device of the model, such as ``cpu`` or ``cuda:0``; the first one if there are several."""
        return self.scorer.engine.device

    @property
    def devices(self) -> tuple[str, ...]:
        """All devices that the model runs on."""
        return tuple(scorer.engine.device for scorer in (self.scorer, *self.scorer.others))

    @property
    def takes_instruction(self) -> bool:
        """True if the model was trained with instructions."""
        return self.scorer.instruct is not None

    def _instructed(self, instruction: str) -> "Self":
        """Return a reranker on the same engine with another instruction."""
        other = copy.copy(self)
        other._loaded = os.getpid(), self.scorer.with_instruction(instruction)
        other._options = self._options and replace(self._options, prompt=instruction)
        return other

    def _with(self, activation: Callable[[Any], Any] | None, softmax: bool, show_progress: bool | None) -> "Self":
        """Return a reranker on the same engine with another activation and progress bar."""
        options = self._options
        if softmax and options is not None and options.label is not None and options.activation != "softmax":
            raise InputError(
                f"apply_softmax needs the scores of all labels, and this model gives that of label "
                f"{options.label!r}; load it with activation_fct='softmax'"
            )
        if activation is None and show_progress is None:
            return self
        scorer = self.scorer
        other = copy.copy(self)
        other._loaded = (
            os.getpid(),
            replace(
                scorer,
                activation=scorer.activation if activation is None else pick_activation(activation, {}),
                show_progress=scorer.show_progress if show_progress is None else show_progress,
            ),
        )
        return other

    def _reload_options(self) -> LoadOptions:
        if self._options is None:
            raise InputError(
                f"{type(self).__name__}({self.model_name!r}) was created from a ready scorer, which cannot be "
                "loaded again in another process; use CrossEncoderRerankFunction(...) or BGERerankFunction(...)"
            )
        return self._options

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_options": self._reload_options(), "_loaded": None}

    def __copy__(self) -> "Self":
        shared = object.__new__(type(self))
        shared.__dict__.update(self.__dict__)
        return shared

    def __deepcopy__(self, memo: object) -> "Self":
        return copy.copy(self)

    def __repr__(self) -> str:
        if self._loaded is None:
            return f"{type(self).__name__}({self.model_name!r}, not loaded)"
        scorer = self._loaded[1]
        engine, encoder = scorer.engine, scorer.encoder
        others = [other.engine.device for other in scorer.others]
        device: object = [engine.device, *others] if others else engine.device
        return (
            f"{type(self).__name__}({self.model_name!r}, device={device!r}, engine={engine.name!r}, "
            f"dtype={engine.dtype!r}, max_length={encoder.max_length})"
        )

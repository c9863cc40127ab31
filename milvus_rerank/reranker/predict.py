"""``rank`` and ``predict`` of sentence-transformers' CrossEncoder, for code that was written for it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from milvus_rerank.errors import InputError
from milvus_rerank.requirements import require
from milvus_rerank.results import rank
from milvus_rerank.validation import check_count, check_list, check_top_k, describe

if TYPE_CHECKING:
    from typing_extensions import Self

Activation = Callable[[Any], Any]


class CrossEncoderMethods(ABC):
    """``rank`` and ``predict``, with the arguments and return values of ``sentence_transformers.CrossEncoder``."""

    @abstractmethod
    def score(self, query: str, documents: Sequence[str]) -> list[float]:
        """Return one score per document."""

    @abstractmethod
    def score_pairs(self, pairs: Iterable[tuple[str, str]]) -> list[float]:
        """Return one score per ``(query, document)`` pair."""

    @abstractmethod
    def with_instruction(self, instruction: str) -> "Self":
        """Return a reranker on the same model whose calls have an instruction."""

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        device: Any = None,
        pool: Any = None,
        chunk_size: int | None = None,
        *,
        activation_fct: Activation | None = None,
        num_workers: int = 0,
        apply_softmax: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
    ) -> list[dict[str, Any]]:
        """Rank documents as ``CrossEncoder.rank`` of sentence-transformers does. New code rather calls the object.

        :param query: the query.
        :param documents: the texts to rank.
        :param top_k: the most results to return; 0 or None for all.
        :param return_documents: add the ``text`` to each result.
        :param prompt_name: as in :meth:`predict`, like the following parameters and errors.
        :param prompt: the instruction, for a model that takes one.
        :param batch_size: has no effect.
        :param show_progress_bar: show a progress bar on stderr.
        :param activation_fn: the function from logits to scores.
        :param device: the model's device, or None.
        :param pool: must be None.
        :param chunk_size: has no effect without a pool.
        :param activation_fct: the former name of ``activation_fn``.
        :param num_workers: has no effect; it is a former argument, like the following ones.
        :param apply_softmax: has no effect.
        :param convert_to_numpy: has no effect.
        :param convert_to_tensor: has no effect.
        :returns: a dict for each document, best first: ``corpus_id`` (its position), ``score`` and perhaps ``text``.
        """
        activation = _one_of(activation_fn, activation_fct, "activation_fn", "activation_fct")
        reranker = self._prepared(prompt_name, prompt, batch_size, show_progress_bar, activation, device, pool)
        texts = check_list(documents, "documents", "strings")
        scores = reranker.score(query, texts)  # type: ignore[arg-type]  # score checks that they are strings
        return [
            {"corpus_id": index, "score": scores[index], **({"text": texts[index]} if return_documents else {})}
            for index in rank(scores, check_top_k(top_k))
        ]

    def predict(
        self,
        inputs: Any = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        pool: Any = None,
        chunk_size: int | None = None,
        *,
        sentences: Any = None,
        activation_fct: Activation | None = None,
        num_workers: int = 0,
    ) -> Any:
        """Score pairs as ``CrossEncoder.predict`` of sentence-transformers does. New code rather calls ``score_pairs``.

        :param inputs: ``(query, document)`` pairs, or a single pair.
        :param prompt_name: must be None.
        :param prompt: the instruction, for a model that takes one.
        :param batch_size: has no effect: a budget of tokens sets the size of each batch.
        :param show_progress_bar: show a progress bar on stderr; None for the ``show_progress`` of the rerank function.
        :param activation_fn: the function from logits to scores, on torch tensors; None for the usual one.
        :param apply_softmax: has no effect, as with a model of one label.
        :param convert_to_numpy: return an array; False for a list of torch tensors of one number each.
        :param convert_to_tensor: return a torch tensor instead.
        :param device: the model's device, or None.
        :param pool: must be None.
        :param chunk_size: has no effect without a pool.
        :param sentences: the former name of ``inputs``.
        :param activation_fct: the former name of ``activation_fn``.
        :param num_workers: has no effect; it is a former argument.
        :returns: the scores of the pairs in float32, shape ``(pairs,)``, or one number for a single pair.
        :raises InputError: for an argument that cannot be used.
        :raises MissingDependencyError: for tensors without torch.
        """
        pairs = _one_of(inputs, sentences, "inputs", "sentences")
        activation = _one_of(activation_fn, activation_fct, "activation_fn", "activation_fct")
        reranker = self._prepared(
            prompt_name, prompt, batch_size, show_progress_bar, activation, device, pool, softmax=bool(apply_softmax)
        )
        pairs = pairs.tolist() if hasattr(pairs, "tolist") else pairs  # an array of strings
        single = isinstance(pairs, (list, tuple)) and len(pairs) == 2 and all(isinstance(text, str) for text in pairs)
        scores = reranker.score_pairs([pairs] if single else pairs)
        return _converted(scores[0] if single else scores, convert_to_numpy, convert_to_tensor, self._torch_device)

    @property
    def _torch_device(self) -> str:
        return str(getattr(self, "device", "cpu"))

    def _prepared(
        self,
        prompt_name: object,
        prompt: str | None,
        batch_size: object,
        show_progress: bool | None,
        activation: Activation | None,
        device: Any,
        pool: object,
        *,
        softmax: bool = False,
    ) -> "Self":
        """Check the arguments that both methods share; return the reranker that takes the others into account."""
        if prompt_name is not None:
            raise InputError(f"prompt_name must be None, got {describe(prompt_name)}; pass the text, prompt=...")
        if pool is not None or isinstance(device, (list, tuple)):
            raise InputError(
                "a rerank function runs in this process on the devices that it was loaded on; pass neither pool nor a "
                "list of devices, and pass device=[...] where the rerank function is made"
            )
        check_count(batch_size, "batch_size")
        if device is not None and not f"{self._torch_device}:".startswith(f"{device}:"):
            raise InputError(
                f"the model is on {self._torch_device}, got device={str(device)!r}; pass device=... where the rerank "
                "function is made"
            )
        reranker = self if prompt is None else self.with_instruction(prompt)
        return reranker._with(activation, softmax, show_progress)

    def _with(self, activation: Activation | None, softmax: bool, show_progress: bool | None) -> "Self":
        """Return a reranker with another activation and progress bar; one that has logits overrides this."""
        if activation is not None:
            raise InputError(
                f"{type(self).__name__} has no logits to apply activation_fn to; normalize(results, 'sigmoid') puts "
                "scores on a scale from 0 to 1"
            )
        return self


def _one_of(value: Any, former: Any, name: str, former_name: str) -> Any:
    if value is not None and former is not None:
        raise InputError(f"{former_name} is the former name of {name}; pass only {name}")
    return former if value is None else value


def _converted(scores: Any, to_numpy: bool, to_tensor: bool, device: str) -> Any:
    """Return scores, or a single one, as CrossEncoder does."""
    if to_numpy and not to_tensor:
        import numpy as np

        return np.array(scores, dtype=np.float32)[()]  # [()] makes a number of an array without dimensions
    require("predict() with tensors", "torch")
    from milvus_rerank.engines.torch_engine import to_tensor as make_tensor

    tensor = make_tensor(scores, device)
    return tensor if to_tensor or not tensor.dim() else list(tensor)

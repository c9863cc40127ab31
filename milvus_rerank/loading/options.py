"""Options for loading, their checks against a model, and the loaded model."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from milvus_rerank.engines import Engine
from milvus_rerank.engines.base import Label
from milvus_rerank.engines.select import DTYPES, ENGINES, Device, Dtype, EngineName
from milvus_rerank.errors import InputError, ModelError
from milvus_rerank.loading.inspect import ModelInfo
from milvus_rerank.models import ModelSource
from milvus_rerank.models.calibration import FILE as CALIBRATION
from milvus_rerank.models.model_type import SavedSettings
from milvus_rerank.scoring.activation import ActivationName
from milvus_rerank.scoring.caches import TOKEN_CACHE, ScoreCache
from milvus_rerank.scoring.encoder import Chunks, Encoder
from milvus_rerank.scoring.pair_encoder import Affixes, Truncation
from milvus_rerank.validation import as_int, check_choice, check_count, check_list

Long = Literal["truncate", "chunk"]
"""Ways to handle a document that is too long for the model: truncate it, or read it in windows."""


@dataclass(frozen=True, slots=True)
class HubOptions:
    """Rarely used options for downloads from the model hub.

    :param revision: a branch, tag or commit; None for the main branch.
    :param cache_dir: the folder for downloaded models; None for the hub client's default folder.
    """

    revision: str | None = None
    cache_dir: str | os.PathLike[str] | None = None


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """Rarely used options for batches.

    :param max_batch_tokens: the most tokens of a batch, padding included; None derives it from ``batch_size``.
    :param token_cache: the most bytes of the token cache, which keeps texts and their tokens; 0 turns the cache off.
    """

    max_batch_tokens: int | None = None
    token_cache: int = TOKEN_CACHE


@dataclass(frozen=True, slots=True)
class FlagOptions:
    """Options of FlagEmbedding's rerankers, under FlagEmbedding's names.

    :param query_instruction_for_rerank: the text before each query; None for the model's default: none, or
        ``"A: "`` for language models.
    :param query_instruction_format: the order of instruction and query, such as ``"{}{}"``.
    :param passage_instruction_for_rerank: the text before each document; None for the model's default: none,
        or ``"B: "`` for language models.
    :param passage_instruction_format: the order of instruction and document.
    :param cutoff_layers: the layer whose score head is read, for models with heads on layers; None for the last.
        Layers after it are not loaded.
    :param compress_layers: the layers before which the lightweight model merges document tokens.
    :param compress_ratio: the number of document tokens merged into one.
    :raises InputError: for an invalid layer or ratio.
    """

    query_instruction_for_rerank: str | None = None
    query_instruction_format: str = "{}{}"
    passage_instruction_for_rerank: str | None = None
    passage_instruction_format: str = "{}{}"
    cutoff_layers: int | Sequence[int] | None = None
    compress_layers: int | Sequence[int] = (8,)
    compress_ratio: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "compress_layers", self.merging_layers)  # a tuple, so that options are hashable
        object.__setattr__(self, "cutoff_layers", self.layer)
        object.__setattr__(self, "compress_ratio", check_count(self.compress_ratio, "compress_ratio"))

    @property
    def layer(self) -> int | None:
        """Layer whose score head is read. FlagEmbedding takes a list, and returns a list of scores for each."""
        if self.cutoff_layers is None:
            return None
        layers = _layers(self.cutoff_layers)
        if len(layers) != 1:
            raise InputError(
                f"cutoff_layers must be one layer, such as 28 or [28], got {layers}: one score orders documents"
            )
        return check_count(layers[0], "cutoff_layers")

    @property
    def merging_layers(self) -> tuple[int, ...]:
        """Layers before which document tokens are merged."""
        return tuple(check_count(layer, "compress_layers", least=0) for layer in _layers(self.compress_layers))

    def affixes(self, query: str = "", passage: str = "") -> Affixes:
        """Return the texts around queries and documents, given the model's default instructions for both."""
        query = query if self.query_instruction_for_rerank is None else self.query_instruction_for_rerank
        passage = passage if self.passage_instruction_for_rerank is None else self.passage_instruction_for_rerank
        return Affixes(
            *_around(self.query_instruction_format, query), *_around(self.passage_instruction_format, passage)
        )


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Options for loading a reranker.

    :param source: the model's name, and how to download it.
    :param device: ``cpu``, ``cuda``, ``cuda:n``, ``mps``; None, "" or ``auto`` take a GPU if torch can use one. A list
        of devices runs the model on each of them.
    :param engine: ``torch``, ``onnx``, ``openvino``; ``auto`` takes the fastest installed engine that runs the model.
    :param dtype: ``float32``, ``bfloat16``, ``float16``, ``int8`` or ``auto``.
    :param threads: the most CPU threads of a forward pass; None for the CPUs this process may use.
    :param max_length: the most tokens of a pair; None for the model's limit.
    :param query_max_length: the most tokens of a query, as in :class:`PairEncoder`.
    :param truncation: the text to shorten, as in :class:`PairEncoder`.
    :param activation: the function from logits to scores, as in :func:`pick_activation`.
    :param calibration: the file of a calibration, which is then the activation; None for none, or for the one beside
        the model if ``activation`` is ``calibrated``.
    :param label: the name or number of the label that is the score, for a model with several.
    :param prompt: the instruction for the model; None for the model's default.
    :param flag: the options that make pairs as FlagEmbedding does; None makes them as sentence-transformers does.
    :param long: ``truncate`` or ``chunk`` documents that are too long, or the windows to cut them into.
    :param batch_size: a hint: the number of pairs of full length that a batch may hold.
    :param batching: further options for batches.
    :param show_progress: show progress bars on stderr.
    :param score_cache: the most scores to keep, or a cache that rerankers share; 0 for no cache.
    :param hub: the revision and the cache folder of ``source``; None keeps those of ``source``.
    :raises InputError: for an option that cannot be used with any model.
    """

    source: ModelSource
    device: Device = None
    engine: EngineName = "auto"
    dtype: Dtype = "float32"
    threads: int | None = None
    max_length: int | None = None
    query_max_length: int | None = None
    truncation: Truncation = "longest_first"
    activation: ActivationName | Callable[[Any], Any] | None = None
    calibration: str | os.PathLike[str] | None = None
    label: int | str | None = None
    prompt: str | None = None
    flag: FlagOptions | None = None
    long: Long | Chunks = "truncate"
    batch_size: int = 32
    batching: BatchOptions = BatchOptions()
    show_progress: bool = False
    score_cache: int | ScoreCache = 0
    hub: HubOptions | None = None
    chunks: Chunks | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        for name, group in (("hub", HubOptions), ("batching", BatchOptions), ("flag", FlagOptions)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, group):
                raise InputError(f"{name} must be {group.__name__}(...) or None, got {value!r}")
        if self.hub is not None:
            source = replace(self.source, revision=self.hub.revision, cache_dir=self.hub.cache_dir)
            object.__setattr__(self, "source", source)
        path = self.calibration and Path(os.path.abspath(self.calibration))
        object.__setattr__(
            self, "calibration", path or (Path(CALIBRATION) if self.activation == "calibrated" else None)
        )
        check_choice(self.engine, "engine", ENGINES)
        check_choice(self.dtype, "dtype", DTYPES)
        check_count(self.batch_size, "batch_size")
        counts = {name: getattr(self, name) for name in ("max_length", "query_max_length", "threads")}
        for name, count in (*counts.items(), ("max_batch_tokens", self.batching.max_batch_tokens)):
            if count is not None:
                check_count(count, name)
        if self.prompt is not None and not isinstance(self.prompt, str):
            raise InputError(f"prompt must be a string, got {self.prompt!r}")
        check_count(self.batching.token_cache, "token_cache", least=0)
        if not isinstance(self.score_cache, ScoreCache):
            check_count(self.score_cache, "score_cache", least=0)
        if not isinstance(self.long, Chunks) and self.long not in get_args(Long):
            raise InputError(f"long must be 'truncate', 'chunk' or Chunks(...), got {self.long!r}")
        if self.long != "truncate":
            object.__setattr__(self, "chunks", Chunks() if self.long == "chunk" else self.long)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Model that is ready to run, with the facts that scoring needs.

    :param engine: the engine that runs it.
    :param tokenizer: its tokenizer.
    :param config: its ``config.json``.
    :param max_length: the most tokens of a pair by default.
    :param position_limit: the most tokens that the position table allows; None without such a table.
    :param settings: the settings that sentence-transformers saved with it.
    :param encode: makes its encoder, given the most tokens of a pair and the instruction; None for a plain
        :class:`PairEncoder`.
    :param takes_instruction: whether the model was trained with instructions, which a call may then give.
    """

    engine: Engine
    tokenizer: Any
    config: dict[str, Any]
    max_length: int
    position_limit: int | None = None
    settings: SavedSettings = field(default_factory=SavedSettings)
    encode: Callable[[int, str | None], Encoder] | None = None
    takes_instruction: bool = False


def check_model_options(info: ModelInfo, options: LoadOptions) -> None:
    """Raise if a model does not rerank, needs the other rerank function, or is of another type than an option."""
    name, kind, flag = info.source.name, info.model_type, options.flag
    if kind == "none":
        architectures = ", ".join(info.config.get("architectures") or ["model without an architecture"])
        raise ModelError(
            f"model {name!r} is a {architectures}; expected a cross-encoder: a ...ForSequenceClassification, "
            "or a language model that says yes or no"
        )
    if flag is None and (kind in ("layerwise", "lightweight") or (kind == "causal" and info.is_bge)):
        raise InputError(f"model {name!r} is a BGE reranker; load it with BGERerankFunction({name!r})")
    if flag is not None and (kind == "library" or (kind == "causal" and info.settings.tokens is not None)):
        raise InputError(f"model {name!r} is not a BGE reranker; load it with CrossEncoderRerankFunction({name!r})")
    if kind != "classifier" and options.label is not None:
        raise InputError(f"label is for classifiers; model {name!r} is of type {kind}")
    if flag is None:
        return
    default = FlagOptions()
    limited = (
        ("prompt", options.prompt is not None, ("causal", "layerwise", "lightweight")),
        ("cutoff_layers", flag.cutoff_layers is not None, ("layerwise", "lightweight")),
        ("compress_layers", flag.compress_layers != default.compress_layers, ("lightweight",)),
        ("compress_ratio", flag.compress_ratio != default.compress_ratio, ("lightweight",)),
    )
    for option, is_set, types in limited:
        if is_set and kind not in types:
            raise InputError(f"{option} is for models of type {' or '.join(types)}; {name!r} is of type {kind}")


def pick_label(info: ModelInfo, options: LoadOptions) -> Label | None:
    """Return the label of a classifier that is the score; None for a classifier with one label."""
    name, names = info.source.name, [label.casefold() for label in info.labels]
    shown = ", ".join(map(repr, info.labels[:8]))
    wanted = options.label.casefold() if isinstance(options.label, str) else options.label
    odds = options.activation == "softmax"
    if len(names) == 1:
        if odds:
            raise InputError(f"model {name!r} has one label, of which softmax is always 1: use sigmoid, or raw")
        if wanted is None or wanted in (0, names[0]):
            return None
        raise InputError(f"model {name!r} has one label, {shown}: leave label={options.label!r} out")
    if wanted is None:
        raise InputError(
            f"model {name!r} has {len(names)} labels: {shown}. Say which one is the score with label=..., and with "
            "activation_fct='softmax' for its probability"
        )
    chosen = names.index(wanted) if isinstance(wanted, str) and wanted in names else wanted
    if isinstance(chosen, bool) or not isinstance(chosen, int) or not 0 <= chosen < len(names):
        raise InputError(f"model {name!r} has no label {options.label!r}; it has {shown}, or 0 to {len(names) - 1}")
    return Label(chosen, odds)


def _layers(layers: object) -> list[object]:
    return [layers] if as_int(layers) is not None else check_list(layers, "layers", "numbers")


def _around(form: object, instruction: object) -> tuple[str, str]:
    if not isinstance(form, str) or not isinstance(instruction, str):
        raise InputError(f"instructions and their formats are strings, got {form!r} and {instruction!r}")
    try:  # without an instruction FlagEmbedding ignores the format, too
        before, mark, after = form.replace("\\n", "\n").format(instruction, "\0").partition("\0")
    except (IndexError, KeyError, ValueError):
        mark = ""
    if not mark:
        raise InputError(f"a format has two places, as '{{}}{{}}' has for instruction and text; got {form!r}")
    return (before, after) if instruction else ("", "")

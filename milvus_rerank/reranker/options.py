"""What loading a reranker can be told, and what it finds."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from milvus_rerank.engines import Engine
from milvus_rerank.engines.base import Label
from milvus_rerank.errors import InputError
from milvus_rerank.models import ModelSource
from milvus_rerank.models.files import label_count
from milvus_rerank.models.kinds import Kind, Settings
from milvus_rerank.scoring.caches import TOKEN_CACHE, ScoreCache
from milvus_rerank.scoring.encoding import Chunks, Encoder
from milvus_rerank.scoring.pairs import Truncation, Wording


@dataclass(frozen=True, slots=True)
class Flag:
    """How FlagEmbedding words pairs, and what its language models can be told.

    :param query_instruction: before each query; None for the model's own: nothing, or ``A: `` for language models.
    :param query_format: where instruction and query go.
    :param passage_instruction: before each document; None for the model's own: nothing, or ``B: ``.
    :param passage_format: where instruction and document go.
    :param layer: the layer whose score head is read; None for the last.
    :param compress_layers: before which layers document tokens are merged.
    :param compress_ratio: how many become one.
    """

    query_instruction: str | None = None
    query_format: str = "{}{}"
    passage_instruction: str | None = None
    passage_format: str = "{}{}"
    layer: int | None = None
    compress_layers: tuple[int, ...] = (8,)
    compress_ratio: int = 1

    def wording(self, query: str = "", passage: str = "") -> Wording:
        """Return what stands around texts.

        :param query: the model's own instruction for queries.
        :param passage: and for documents.
        :returns: the instructions in their formats.
        """
        own_query = query if self.query_instruction is None else self.query_instruction
        own_passage = passage if self.passage_instruction is None else self.passage_instruction
        return Wording(*_around(self.query_format, own_query), *_around(self.passage_format, own_passage))


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What loading a reranker can be told, already in this package's words.

    :param source: which model.
    :param device: ``cpu``, ``cuda``, ``cuda:n``, ``mps``; None, "" or ``auto`` pick.
    :param engine: ``torch``, ``onnx``, ``openvino``; ``auto`` takes the fastest that is installed and can run it.
    :param dtype: ``float32``, ``bfloat16``, ``float16``, ``int8`` or ``auto``.
    :param threads: the most CPU threads of a forward pass; None for the CPUs this process may use.
    :param max_length: the most tokens of a pair; None for the model's own limit.
    :param query_max_length: the most tokens of a query, as :class:`PairEncoder` knows it.
    :param truncation: which text to shorten, as :class:`PairEncoder` knows it.
    :param activation: from logits to scores, as :func:`pick_activation` knows it.
    :param label: which of several labels is the score: its name or number.
    :param prompt: what to tell the model; None for its own.
    :param flag: FlagEmbedding's ways instead of those of sentence-transformers; None for the latter.
    :param chunks: how to read documents that are too long; None cuts them off.
    :param batch_size: a hint: how many pairs of full length a batch may hold.
    :param max_batch_tokens: the budget of a batch; None derives it from ``batch_size``.
    :param show_progress: show progress bars on stderr.
    :param token_cache: how many tokens of documents to remember; 0 for none.
    :param score_cache: how many scores to remember, or a cache that rerankers share; 0 for none.
    """

    source: ModelSource
    device: str | None = None
    engine: str = "auto"
    dtype: str = "float32"
    threads: int | None = None
    max_length: int | None = None
    query_max_length: int | None = None
    truncation: Truncation = "longest_first"
    activation: str | Callable[[Any], Any] | None = None
    label: int | str | None = None
    prompt: str | None = None
    flag: Flag | None = None
    chunks: Chunks | None = None
    batch_size: int = 32
    max_batch_tokens: int | None = None
    show_progress: bool = False
    token_cache: int = TOKEN_CACHE
    score_cache: int | ScoreCache = 0


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready to run, and what scoring must know of it.

    :param engine: runs it.
    :param tokenizer: its tokenizer.
    :param config: its ``config.json``.
    :param max_length: the tokens a pair may have by default.
    :param position_limit: the tokens a pair can have at all; None if positions are not counted in a table.
    :param settings: what sentence-transformers wrote beside it.
    :param encode: makes its encoder, given the most tokens of a pair; None for that of a plain pair.
    """

    engine: Engine
    tokenizer: Any
    config: dict[str, Any]
    max_length: int
    position_limit: int | None = None
    settings: Settings = field(default_factory=Settings)
    encode: Callable[[int], Encoder] | None = None


class NotReadyError(InputError):
    """An engine is installed, but this model has no file for it; another engine may do."""


def read_long(long: str | Chunks) -> Chunks | None:
    """Return how to read documents that are too long.

    :param long: ``truncate``, ``chunk``, or :class:`Chunks`.
    :returns: None to cut them off.
    :raises InputError: for anything else.
    """
    if isinstance(long, Chunks):
        return long
    if long not in ("truncate", "chunk"):
        raise InputError(f"long must be 'truncate', 'chunk' or Chunks(...), got {long!r}")
    return Chunks() if long == "chunk" else None


def check_flag(kind: Kind, options: LoadOptions) -> None:
    """Refuse what only another kind of BGE's models can be told.

    :param kind: the model's.
    :param options: what it was told.
    :raises InputError: for an option that would be ignored.
    """
    flag = options.flag
    if flag is None:
        return
    own = Flag()
    told = {
        "prompt": (options.prompt is not None, ("causal", "layerwise", "lightweight")),
        "cutoff_layers": (flag.layer is not None, ("layerwise", "lightweight")),
        "compress_layers": (flag.compress_layers != own.compress_layers, ("lightweight",)),
        "compress_ratio": (flag.compress_ratio != own.compress_ratio, ("lightweight",)),
    }
    for name, (given, kinds) in told.items():
        if given and kind not in kinds:
            raise InputError(
                f"{name} is for models of the kind {' or '.join(kinds)}; {options.source.name!r} is a {kind}"
            )


def pick_label(source: ModelSource, config: dict[str, Any], options: LoadOptions) -> Label | None:
    """Return which label of a classifier is the score; None for the only one.

    :param source: the model, for messages.
    :param config: its ``config.json``.
    :param options: the label that was asked for.
    :returns: its place.
    :raises InputError: if there are several and none was chosen, or the chosen one is not among them.
    """
    count = label_count(config)
    names = {int(number): str(name) for number, name in (config.get("id2label") or {}).items()}
    shown = ", ".join(repr(names.get(number, number)) for number in range(min(count, 8)))
    odds = options.activation == "softmax"
    if count == 1:
        same = isinstance(options.label, str) and options.label.casefold() == names.get(0, "").casefold()
        if odds:
            raise InputError(f"model {source.name!r} has one label, of which softmax is always 1: use sigmoid, or raw")
        if same or options.label is None or options.label == 0:
            return None
        raise InputError(f"model {source.name!r} has one label, {shown}: leave label={options.label!r} out")
    if options.label is None:
        raise InputError(
            f"model {source.name!r} has {count} labels: {shown}. Say which one is the score with label=..., and with "
            "activation_fct='softmax' for its probability"
        )
    places = {name.casefold(): number for number, name in names.items()}
    chosen = places.get(options.label.casefold()) if isinstance(options.label, str) else options.label
    if isinstance(chosen, bool) or not isinstance(chosen, int) or not 0 <= chosen < count:
        raise InputError(f"model {source.name!r} has no label {options.label!r}; it has {shown}, or 0 to {count - 1}")
    return Label(chosen, odds)


def _around(form: object, instruction: object) -> tuple[str, str]:
    if not isinstance(form, str) or not isinstance(instruction, str):
        raise InputError(f"instructions and their formats are strings, got {form!r} and {instruction!r}")
    try:  # without an instruction FlagEmbedding leaves the format out, too
        before, mark, after = form.replace("\\n", "\n").format(instruction, "\0").partition("\0")
    except (IndexError, KeyError, ValueError):
        mark = ""
    if not mark:
        raise InputError(f"a format has two places, as '{{}}{{}}' has for instruction and text; got {form!r}")
    return (before, after) if instruction else ("", "")

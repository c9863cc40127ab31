"""Loading for torch: model types that this package assembles itself, and the rest through sentence-transformers."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from milvus_rerank.engines.base import Label
from milvus_rerank.engines.select import choose_dtype, cpu_limit
from milvus_rerank.errors import InputError
from milvus_rerank.loading.inspect import ModelInfo
from milvus_rerank.loading.load_sentence_transformers import load_library
from milvus_rerank.loading.memory import check_memory
from milvus_rerank.loading.options import FlagOptions, Loaded, LoadOptions
from milvus_rerank.models.files import TOKENIZERS, check_vocabulary
from milvus_rerank.models.weights import INDEX, WHOLE, check_weights
from milvus_rerank.onnx_graphs.architectures import can_build, check_shapes
from milvus_rerank.onnx_graphs.files import PICKLED, WEIGHTS
from milvus_rerank.scoring.encoder import Encoder

_QUESTION = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
    "prediction of either 'Yes' or 'No'."
)
_SHORT_QUESTION = "Predict whether passage B contains an answer to query A."
"""Question that the lightweight model was trained with; both questions are from FlagEmbedding's documentation."""

_Encode: TypeAlias = Callable[[int, str | None], Encoder]


def load_torch(info: ModelInfo, options: LoadOptions, device: str, label: Label | None) -> Loaded:
    """Load a model for torch.

    :param info: the model.
    :param options: how to run it.
    :param device: the device, as :func:`~milvus_rerank.engines.select.choose_device` returns it.
    :param label: the label that is the score; None for a model with one label.
    :returns: the model.
    :raises ModelError: if the model cannot be read.
    """
    from milvus_rerank.engines.torch_engine import TorchEngine, classify, has_bfloat16, use_one_thread_in_forks

    use_one_thread_in_forks()
    folder = _fetch(info, options)
    tensors = check_weights(info.source.name, info.config, folder)
    if info.model_type == "classifier" and can_build(info.config):
        check_shapes(info.source.name, info.config, tensors, complete=False)  # transformers says what is missing
    dtype = choose_dtype(options.dtype, "torch", device, has_bfloat16)
    check_memory(info.source.name, tensors, dtype, device)
    if info.model_type == "library":
        return load_library(options, device, dtype, info, folder)
    loaded = _load(info, options, folder, dtype)
    check_vocabulary(info.source.name, loaded.tokenizer, loaded.model.get_input_embeddings().weight.shape[0])
    config, forward, encode = loaded.config, classify, None
    if info.model_type == "classifier":
        if info.has_chat_template and options.flag is None:
            encode = _chat_encoder(info, options, loaded.tokenizer, loaded.model.config.pad_token_id)
    else:
        config = {**config, "id2label": {0: ""}}  # a language model's config counts labels that it does not have
        if options.flag is None:
            forward, encode = _yes_or_no(info, options, loaded)
        else:
            forward, encode = _flag(info, options, options.flag, loaded)
    threads = options.threads or cpu_limit()
    engine = TorchEngine(loaded.model, device=device, dtype=dtype, threads=threads, forward=forward, label=label)
    return Loaded(
        engine,
        loaded.tokenizer,
        config,
        loaded.max_length,
        loaded.position_limit,
        info.settings,
        encode,
        takes_instruction=encode is not None,
    )


def _fetch(info: ModelInfo, options: LoadOptions) -> Path:
    """Return the folder with all files that transformers reads of a model, after downloading those that are missing."""
    if info.is_local:
        return info.folder
    weights = WEIGHTS if {WHOLE, INDEX} & set(info.files) else PICKLED
    patterns: tuple[str, ...] = (*weights, *TOKENIZERS)
    if info.model_type == "library":
        patterns = (*patterns, *(f"*/{pattern}" for pattern in patterns))
    if info.source.trust_remote_code:
        patterns = (*patterns, "*.py")
    return info.fetch(*patterns, show_progress=options.show_progress)


def _load(info: ModelInfo, options: LoadOptions, folder: Path, dtype: str) -> Any:
    """Return the model with its tokenizer, as a :class:`~milvus_rerank.models.hub.LoadedModel`."""
    from milvus_rerank.models.hub import load_model

    flag, bars = options.flag or FlagOptions(), options.show_progress
    if info.model_type not in ("layerwise", "lightweight"):
        causal = info.model_type == "causal"
        return load_model(options.source, folder, dtype if causal else "float32", causal=causal, show_progress=bars)
    from milvus_rerank.models import bge_llm

    stock: tuple[Any, Any]
    if info.model_type == "layerwise":
        stock = bge_llm.LayerwiseModel, bge_llm.layerwise_config(info.config, flag.layer)
    else:
        config = bge_llm.lightweight_config(info.config, flag.layer, flag.merging_layers, flag.compress_ratio)
        stock = bge_llm.LightweightModel, config
    loaded = load_model(options.source, folder, dtype, stock=stock, show_progress=bars)
    if info.model_type == "layerwise":
        loaded.model.fold()
    return loaded


def _chat_encoder(info: ModelInfo, options: LoadOptions, tokenizer: Any, pad_id: int | None) -> Any:
    """Return a factory of encoders for a chat template; None if a classifier's does not take query and document."""
    from milvus_rerank.models.chat_template import carries_instruction, chat_prompt
    from milvus_rerank.scoring.prompt_encoder import PromptEncoder

    render = chat_prompt(tokenizer, options.source.name, info.settings, by_user=info.model_type == "causal")
    if render is None:
        return None
    takes_instruction = carries_instruction(render)

    def encode(max_length: int, instruction: str | None) -> Encoder:
        if instruction and not takes_instruction:
            raise InputError(f"the chat template of model {options.source.name!r} leaves instructions out; pass none")
        return PromptEncoder(
            tokenizer,
            partial(render, instruction=instruction),
            max_length=max_length,
            query_max_length=options.query_max_length,
            pad_id=pad_id or 0,
        )

    return encode


def _yes_or_no(info: ModelInfo, options: LoadOptions, loaded: Any) -> tuple[Any, _Encode]:
    """Return the forward pass and the encoders of a language model, with sentence-transformers' prompts."""
    from milvus_rerank.engines.causal_lm import NextToken
    from milvus_rerank.models.chat_template import answer_tokens, is_mxbai
    from milvus_rerank.scoring.pair_encoder import Affixes, PairEncoder

    tokens = info.settings.tokens
    forward = NextToken(loaded.model, *(tokens or answer_tokens(loaded.tokenizer, options.source.name)))
    if tokens is None and is_mxbai(options.source.name):
        return forward, _mxbai_encoder(options, loaded.tokenizer)
    encode = _chat_encoder(info, options, loaded.tokenizer, None)
    return forward, encode or (
        lambda length, instruction: PairEncoder(
            loaded.tokenizer,
            max_length=length,
            query_max_length=options.query_max_length,
            truncation=options.truncation,
            affixes=Affixes(query_before=instruction or ""),
            pad_right=True,
            with_bounds=True,
            token_cache=options.batching.token_cache,
        )
    )


def _mxbai_encoder(options: LoadOptions, tokenizer: Any) -> _Encode:
    """Return a factory of encoders that build pairs as mxbai-rerank does: each part is tokenised separately."""
    from milvus_rerank.models.chat_template import MXBAI_PARTS as PARTS
    from milvus_rerank.scoring.pair_encoder import Affixes

    between = _ids(tokenizer, "\n")
    task = _ids(tokenizer, PARTS.task) + _ids(tokenizer, PARTS.after)
    make = _parts_encoder(options, tokenizer, _ids(tokenizer, PARTS.before), between, task)

    def encode(max_length: int, instruction: str | None) -> Encoder:
        instructed = f"instruction: {instruction}\n" if instruction else ""
        affixes = Affixes(query_before=f"{instructed}query: ", document_before="document: ")
        most = min(max_length, PARTS.most)
        query_most = options.query_max_length or most * 3 // 4
        return make(max_length=most, query_max_length=query_most, affixes=affixes)

    return encode


def _flag(info: ModelInfo, options: LoadOptions, flag: FlagOptions, loaded: Any) -> tuple[Any, _Encode]:
    """Return the forward pass and the encoders of BGE's language models, with FlagEmbedding's prompts."""
    from milvus_rerank.engines.causal_lm import Merging, NextToken

    kind, tokenizer = info.model_type, loaded.tokenizer
    forward: Any = Merging()
    if kind != "lightweight":
        yes = tokenizer("Yes", add_special_tokens=False)["input_ids"][0] if kind == "causal" else 0
        forward = NextToken(loaded.model, yes)
    begin = tokenizer.bos_token_id
    with_begin = begin is not None and (kind != "causal" or begin != tokenizer.pad_token_id)
    default = _SHORT_QUESTION if kind == "lightweight" else _QUESTION
    between = _ids(tokenizer, "\n")

    def encode(max_length: int, instruction: str | None) -> Encoder:
        question = _ids(tokenizer, default if instruction is None else instruction)
        make = _parts_encoder(options, tokenizer, (begin,) if with_begin else (), between, question)
        # FlagEmbedding limits each text, and both together, to which it adds a separator and the prompt's length again.
        return make(
            max_length=max_length + 2 * len(between) + 2 * len(question),
            query_max_length=options.query_max_length or max_length * 3 // 4,
            document_max_length=max_length,
            affixes=flag.affixes("A: ", "B: "),
        )

    return forward, encode


def _parts_encoder(
    options: LoadOptions, tokenizer: Any, before: tuple[int, ...], between: tuple[int, ...], after: tuple[int, ...]
) -> Callable[..., Encoder]:
    """Return a factory of encoders that join separately tokenised parts, with line breaks around the document."""
    from milvus_rerank.scoring.pair_encoder import PairEncoder
    from milvus_rerank.scoring.pair_template import PairTemplate

    return partial(
        PairEncoder,
        tokenizer,
        truncation="only_second",
        template=PairTemplate(before, between, between + after, (0, 0, 0, 0, 0)),
        pad_right=True,
        with_bounds=True,
        token_cache=options.batching.token_cache,
    )


def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

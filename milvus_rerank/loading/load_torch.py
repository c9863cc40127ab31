"""Loading for torch: model types that this package assembles itself, and the rest through sentence-transformers."""

from collections.abc import Callable
from typing import Any

from milvus_rerank.engines.base import Label
from milvus_rerank.engines.select import choose_dtype, cpu_limit
from milvus_rerank.loading.inspect import ModelInfo
from milvus_rerank.loading.load_sentence_transformers import load_library
from milvus_rerank.loading.options import FlagOptions, Loaded, LoadOptions
from milvus_rerank.models.model_type import ModelType, Settings
from milvus_rerank.scoring.encoder import Encoder

_QUESTION = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
    "prediction of either 'Yes' or 'No'."
)
_SHORT_QUESTION = "Predict whether passage B contains an answer to query A."
"""Question that the lightweight model was trained with; both questions are from FlagEmbedding's documentation."""


def load_torch(info: ModelInfo, options: LoadOptions, device: str, label: Label | None) -> Loaded:
    """Load a model for torch.

    :param info: the model.
    :param options: how to run it.
    :param device: the device, as :func:`~milvus_rerank.engines.select.choose_device` returns it.
    :param label: the label that is the score; None for a model with one label.
    :returns: the model.
    :raises ModelError: if the model cannot be read.
    """
    from milvus_rerank.engines.torch_engine import has_bfloat16

    dtype = choose_dtype(options.dtype, "torch", device, has_bfloat16)
    if info.model_type == "classifier":
        return _classifier(info, options, device, dtype, label)
    if info.model_type == "library":
        return load_library(options, device, dtype, info.config, info.settings)
    if info.model_type == "causal" and options.flag is None:
        return _causal(options, device, dtype, info.settings)
    return _flag(options, options.flag or FlagOptions(), device, dtype, info)


def _classifier(info: ModelInfo, options: LoadOptions, device: str, dtype: str, label: Label | None) -> Loaded:
    from milvus_rerank.engines.torch_engine import TorchEngine
    from milvus_rerank.models.hub import load_model

    settings = info.settings
    loaded = load_model(options.source, show_progress=options.show_progress)
    threads = options.threads or cpu_limit()
    engine = TorchEngine(loaded.model, device=device, dtype=dtype, threads=threads, label=label)
    encode = None
    if info.has_chat_template and options.flag is None:
        from milvus_rerank.models.chat_template import chat_prompt

        prompt = options.prompt if options.prompt is not None else settings.prompt
        render = chat_prompt(loaded.tokenizer, options.source.name, prompt, settings, by_user=False)
        encode = (
            None if render is None else _prompts(options, loaded.tokenizer, render, loaded.model.config.pad_token_id)
        )
    return Loaded(engine, loaded.tokenizer, loaded.config, loaded.max_length, loaded.position_limit, settings, encode)


def _prompts(
    options: LoadOptions, tokenizer: Any, render: Callable[[str, str], str], pad_id: int = 0
) -> Callable[[int], Encoder]:
    from milvus_rerank.scoring.prompt_encoder import PromptEncoder

    def encode(max_length: int) -> Encoder:
        limit = options.query_max_length
        return PromptEncoder(tokenizer, render, max_length=max_length, query_max_length=limit, pad_id=pad_id)

    return encode


def _causal(options: LoadOptions, device: str, dtype: str, settings: Settings) -> Loaded:
    """Load a language model that answers yes or no, with sentence-transformers' prompts."""
    from milvus_rerank.engines.causal_lm import NextToken
    from milvus_rerank.engines.torch_engine import TorchEngine
    from milvus_rerank.models.chat_template import answer_tokens, chat_prompt, is_mxbai
    from milvus_rerank.models.hub import load_causal

    loaded = load_causal(options.source, dtype, show_progress=options.show_progress)
    yes, no = settings.tokens or answer_tokens(loaded.tokenizer, options.source.name)
    prompt = options.prompt if options.prompt is not None else settings.prompt
    of_mxbai = settings.tokens is None and is_mxbai(options.source.name)
    render = None if of_mxbai else chat_prompt(loaded.tokenizer, options.source.name, prompt, settings)
    engine = TorchEngine(
        loaded.model,
        device=device,
        dtype=dtype,
        threads=options.threads or cpu_limit(),
        forward=NextToken(loaded.model, yes, no),
    )

    def plain(max_length: int) -> Encoder:
        from milvus_rerank.scoring.pair_encoder import Affixes, PairEncoder

        return PairEncoder(
            loaded.tokenizer,
            max_length=max_length,
            query_max_length=options.query_max_length,
            truncation=options.truncation,
            affixes=Affixes(query_before=prompt or ""),
            pad_right=True,
            with_bounds=True,
            token_cache=options.batching.token_cache,
        )

    encode: Callable[[int], Encoder] = plain
    if of_mxbai:
        encode = _mxbai_encoder(options, loaded.tokenizer, prompt)
    elif render is not None:
        encode = _prompts(options, loaded.tokenizer, render)
    one_label = {**loaded.config, "id2label": {0: ""}}  # a language model's config counts labels that it does not have
    return Loaded(engine, loaded.tokenizer, one_label, loaded.max_length, None, settings, encode)


def _mxbai_encoder(options: LoadOptions, tokenizer: Any, instruction: str | None) -> Callable[[int], Encoder]:
    """Return a factory of encoders that build pairs as mxbai-rerank does: each part is tokenised separately."""
    from milvus_rerank.models.chat_template import MXBAI_PARTS
    from milvus_rerank.scoring.pair_encoder import Affixes, PairEncoder
    from milvus_rerank.scoring.pair_template import PairTemplate

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    parts, between = MXBAI_PARTS, ids("\n")
    template = PairTemplate(ids(parts.before), between, between + ids(parts.task) + ids(parts.after), (0, 0, 0, 0, 0))
    instructed = f"instruction: {instruction}\n" if instruction else ""

    def encode(max_length: int) -> Encoder:
        most = min(max_length, parts.most)
        return PairEncoder(
            tokenizer,
            max_length=most,
            query_max_length=options.query_max_length or most * 3 // 4,
            truncation="only_second",
            affixes=Affixes(query_before=f"{instructed}query: ", document_before="document: "),
            template=template,
            pad_right=True,
            with_bounds=True,
            token_cache=options.batching.token_cache,
        )

    return encode


def _flag(options: LoadOptions, flag: FlagOptions, device: str, dtype: str, info: ModelInfo) -> Loaded:
    """Load one of BGE's language models, with FlagEmbedding's prompts."""
    from milvus_rerank.engines.causal_lm import Merging, NextToken
    from milvus_rerank.engines.torch_engine import TorchEngine
    from milvus_rerank.models import hub

    source, bars, kind, config = options.source, options.show_progress, info.model_type, info.config
    forward: Any
    if kind == "causal":
        loaded = hub.load_causal(source, dtype, show_progress=bars)
        forward = NextToken(loaded.model, loaded.tokenizer("Yes", add_special_tokens=False)["input_ids"][0])
    elif kind == "layerwise":
        loaded = hub.load_layerwise(source, dtype, config, flag.layer, show_progress=bars)
        forward = NextToken(loaded.model, 0)
    else:
        loaded = hub.load_lightweight(
            source, dtype, config, flag.layer, flag.merging_layers, flag.compress_ratio, show_progress=bars
        )
        forward = Merging()
    threads = options.threads or cpu_limit()
    engine = TorchEngine(loaded.model, device=device, dtype=dtype, threads=threads, forward=forward)
    question = _SHORT_QUESTION if kind == "lightweight" else _QUESTION
    prompt = question if options.prompt is None else options.prompt
    encode = _flag_encoder(options, flag, loaded.tokenizer, prompt, kind)
    return Loaded(engine, loaded.tokenizer, loaded.config, loaded.max_length, encode=encode)


def _flag_encoder(
    options: LoadOptions, flag: FlagOptions, tokenizer: Any, prompt: str, kind: ModelType
) -> Callable[[int], Encoder]:
    """Return a factory of encoders that build pairs as FlagEmbedding does for language models."""
    from milvus_rerank.scoring.pair_encoder import PairEncoder
    from milvus_rerank.scoring.pair_template import PairTemplate

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    begin = tokenizer.bos_token_id
    with_begin = begin is not None and (kind != "causal" or begin != tokenizer.pad_token_id)
    between, question = ids("\n"), ids(prompt)
    template = PairTemplate((begin,) if with_begin else (), between, between + question, (0, 0, 0, 0, 0))

    def encode(max_length: int) -> Encoder:
        # FlagEmbedding limits each text, and both together, to which it adds a separator and the prompt's length again.
        return PairEncoder(
            tokenizer,
            max_length=max_length + 2 * len(between) + 2 * len(question),
            query_max_length=options.query_max_length or max_length * 3 // 4,
            document_max_length=max_length,
            truncation="only_second",
            affixes=flag.affixes("A: ", "B: "),
            template=template,
            pad_right=True,
            with_bounds=True,
            token_cache=options.batching.token_cache,
        )

    return encode

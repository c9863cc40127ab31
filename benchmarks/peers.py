"""The rows of the benchmark: each peer's environment, and how its object is made and asked for scores.

The driver reads the tables; a worker runs one row's ``load`` inside that row's own environment, so this module
imports no peer at its top. Every row gets the same weights, 512 tokens at most, and raw logits where it can give them.
A library's own defaults stay otherwise: batch sizes, sorting, padding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
BASELINE = "sentence-transformers predict"

# The environment of every process: no network, own caches, no telemetry (on by default in onnxruntime and infinity).
QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
    "ORT_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "XDG_CACHE_HOME": str(Path(__file__).resolve().parent / ".models" / "cache"),
}

# What pip installs into .venvs/NAME, with the repository's constraints.txt for all packages without a version here.
VENVS: dict[str, tuple[str, ...]] = {
    "harness": ("-e", f"{REPO}[export,torch]", "matplotlib", "scipy"),
    "milvus-rerank": ("-e", f"{REPO}[torch,onnx,openvino]"),
    "sentence-transformers": ("sentence-transformers",),
    "sentence-transformers-onnx": ("sentence-transformers[onnx]",),
    "sentence-transformers-openvino": ("sentence-transformers[openvino]",),
    # The newest transformers that FlagEmbedding 1.4.2 imports: 5.24 has no modeling_attn_mask_utils any more.
    "flagembedding": ("FlagEmbedding", "transformers<5.24"),
    "pymilvus-model": ("pymilvus", "pymilvus.model", "sentence-transformers", "FlagEmbedding", "transformers<5.24"),
    "rerankers": ("rerankers[transformers]",),
    "flashrank": ("flashrank",),
    "fastembed": ("fastembed",),
    "infinity": ("infinity-emb[torch]",),
}
# optimum-intel asks for it, its wheel does not go with torch's CPU wheel, and transformers then fails to import.
UNINSTALL = {"sentence-transformers-openvino": ("torchvision",)}


@dataclass(frozen=True, slots=True)
class Setup:
    """What every peer is given.

    :param model: the folder ``models.make_model`` wrote, with ``hf``, ``onnx`` and ``flashrank`` in it.
    :param max_length: the most tokens of a pair.
    :param threads: how many threads to compute with, where a peer has an argument for that; the rest is told by
        OMP_NUM_THREADS, or takes all cores that the worker may use, which are as many.
    """

    model: str
    max_length: int
    threads: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """A peer ready to score.

    :param rank: from one query and its documents to one score per document, in the documents' order.
    :param pairs: from many pairs to one score each, in one call; None where the peer takes one query at a time.
    """

    rank: Callable[[str, list[str]], list[float]]
    pairs: Callable[[list[tuple[str, str]]], list[float]] | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One row of every table.

    :param name: what the tables call it.
    :param venv: its environment, a key of ``VENVS``.
    :param load: makes the object.
    :param precision: what its matrices are multiplied in: ``float32``, ``int8``, or ``auto`` for bfloat16 on a CPU that
        has instructions for it and float32 elsewhere.
    :param ours: whether it is this package.
    :param every: whether it takes part in every round; the others leave out what would take the longest.
    :param sigmoid: whether its scores are sigmoids of the logits, with no way to turn that off.
    """

    name: str
    venv: str
    load: Callable[[Setup], Loaded]
    precision: str = "float32"
    ours: bool = False
    every: bool = False
    sigmoid: bool = False


def sentence_transformers(setup: Setup, *, rank: bool = False) -> Loaded:
    """As its model card shows it. Raw logits: the model's own config asks for the identity as activation."""
    from sentence_transformers import CrossEncoder

    return cross_encoder(CrossEncoder(f"{setup.model}/hf", device="cpu", max_length=setup.max_length), rank=rank)


def sentence_transformers_backend(setup: Setup, backend: str, options: dict[str, Any]) -> Loaded:
    """With the model exported by its own ``save_pretrained`` at the first start; it would export at each load else."""
    from sentence_transformers import CrossEncoder

    exported = Path(setup.model, f"sentence-transformers-{backend}")
    source = exported if exported.exists() else Path(setup.model, "hf")
    model = CrossEncoder(str(source), device="cpu", max_length=setup.max_length, backend=backend, model_kwargs=options)
    if source != exported:
        model.save_pretrained(str(exported))
    return cross_encoder(model)


def cross_encoder(model: Any, *, rank: bool = False) -> Loaded:
    """sentence-transformers' two calls: ``predict`` with its defaults, or ``rank`` for one query."""

    def pairs(pairs: list[tuple[str, str]]) -> list[float]:
        return model.predict(pairs).tolist()

    def ranked(query: str, documents: list[str]) -> list[float]:
        return in_order((result["corpus_id"], result["score"]) for result in model.rank(query, documents))

    return (
        Loaded(ranked) if rank else Loaded(lambda query, documents: pairs([(query, text) for text in documents]), pairs)
    )


def flagembedding(setup: Setup) -> Loaded:
    """``normalize=False`` is its default: raw logits. It cuts queries to 3/4 of the limit, then documents."""
    from FlagEmbedding import FlagReranker

    model = FlagReranker(f"{setup.model}/hf", use_fp16=False, devices="cpu", max_length=setup.max_length)
    return Loaded(
        lambda query, documents: model.compute_score([(query, text) for text in documents]), model.compute_score
    )


def pymilvus_cross_encoder(setup: Setup) -> Loaded:
    """Its default device, "", fails, so it is given; ``max_length`` cannot be: the tokenizer's 512 holds."""
    from pymilvus.model.reranker import CrossEncoderRerankFunction

    function = CrossEncoderRerankFunction(model_name=f"{setup.model}/hf", device="cpu")
    return Loaded(partial(called, function))


def pymilvus_bge(setup: Setup) -> Loaded:
    """A local folder needs ``model_class``; queries are cut as FlagReranker itself does it, not to 256."""
    from pymilvus.model.reranker import BGERerankFunction

    function = BGERerankFunction(
        model_name=f"{setup.model}/hf",
        use_fp16=False,
        normalize=False,
        devices="cpu",
        model_class="encoder-only-base",
        max_length=setup.max_length,
        query_max_length=setup.max_length * 3 // 4,
    )
    return Loaded(partial(called, function))


def rerankers(setup: Setup) -> Loaded:
    """Raw logits; ``max_length`` is not an argument: the tokenizer's 512 holds."""
    from rerankers import Reranker

    model = Reranker(f"{setup.model}/hf", model_type="cross-encoder", device="cpu", verbose=0)
    return Loaded(
        lambda query, documents: in_order(
            (result.document.doc_id, result.score) for result in model.rank(query, documents).results
        )
    )


def flashrank(setup: Setup) -> Loaded:
    """It runs only models of its own list: ours lies under one of those names in its cache. Always a sigmoid.

    It forwards all documents of a call in one batch. Threads cannot be set: onnxruntime takes all cores.
    """
    from flashrank import Ranker, RerankRequest

    name = next(Path(setup.model, "flashrank").iterdir()).name
    ranker = Ranker(model_name=name, cache_dir=f"{setup.model}/flashrank", max_length=setup.max_length)

    def rank(query: str, documents: list[str]) -> list[float]:
        passages = [{"id": index, "text": text} for index, text in enumerate(documents)]
        return in_order((result["id"], result["score"]) for result in ranker.rerank(RerankRequest(query, passages)))

    return Loaded(rank)


def fastembed(setup: Setup) -> Loaded:
    """The folder is registered as a custom model; the limit of 512 comes from its tokenizer_config.json."""
    from fastembed.common.model_description import ModelSource
    from fastembed.rerank.cross_encoder import TextCrossEncoder

    TextCrossEncoder.add_custom_model("local/model", ModelSource(hf="local/model"), model_file="model.onnx")
    model = TextCrossEncoder("local/model", threads=setup.threads, specific_model_path=f"{setup.model}/onnx")
    return Loaded(
        lambda query, documents: list(model.rerank(query, documents)), lambda pairs: list(model.rerank_pairs(pairs))
    )


def infinity(setup: Setup) -> Loaded:
    """BetterTransformer off: it needs optimum and a transformers before 4.49. Telemetry off, by the environment."""
    from infinity_emb import EngineArgs, SyncEngineArray

    arguments = EngineArgs(
        model_name_or_path=f"{setup.model}/hf",
        engine="torch",
        device="cpu",
        dtype="float32",
        bettertransformer=False,
        served_model_name="model",
    )
    engines = SyncEngineArray.from_args([arguments])

    def rank(query: str, documents: list[str]) -> list[float]:
        results, _ = engines.rerank(model="model", query=query, docs=documents, raw_scores=True).result()
        return in_order((result.index, result.relevance_score) for result in results)

    return Loaded(rank)


def milvus_rerank(setup: Setup, folder: str, options: dict[str, Any]) -> Loaded:
    """This package. ``folder`` is ``hf``, or ``int8`` for what ``milvus-rerank export`` made of it."""
    from milvus_rerank import CrossEncoderRerankFunction

    function = CrossEncoderRerankFunction(
        f"{setup.model}/{folder}", device="cpu", max_length=setup.max_length, **options
    )
    return Loaded(function.score, function.score_pairs)


def called(function: Any, query: str, documents: list[str]) -> list[float]:
    """Call what has pymilvus.model's signature for all documents."""
    return in_order((result.index, result.score) for result in function(query, documents, top_k=len(documents)))


def in_order(scored: Any) -> list[float]:
    """Put scores that come ranked back into the documents' order."""
    return [float(score) for _, score in sorted(scored, key=lambda pair: pair[0])]


def ours(suffix: str, precision: str, *, every: bool = False, folder: str = "hf", **options: Any) -> Row:
    """A row of this package."""
    load = partial(milvus_rerank, folder=folder, options=options)
    return Row(f"milvus-rerank {suffix}".strip(), "milvus-rerank", load, precision, ours=True, every=every)


def st_backend(backend: str, suffix: str, precision: str, **options: Any) -> Row:
    """A row of sentence-transformers with another backend than torch."""
    load = partial(sentence_transformers_backend, backend=backend, options=options)
    return Row(f"sentence-transformers {suffix}", f"sentence-transformers-{backend}", load, precision)


ROWS: tuple[Row, ...] = (
    Row(BASELINE, "sentence-transformers", sentence_transformers, every=True),
    Row("sentence-transformers rank", "sentence-transformers", partial(sentence_transformers, rank=True)),
    st_backend("onnx", "onnx", "float32", provider="CPUExecutionProvider"),
    st_backend("openvino", "openvino, its default", "auto"),
    st_backend("openvino", "openvino f32", "float32", ov_config={"INFERENCE_PRECISION_HINT": "f32"}),
    Row("FlagEmbedding", "flagembedding", flagembedding),
    Row("pymilvus.model CrossEncoder", "pymilvus-model", pymilvus_cross_encoder),
    Row("pymilvus.model BGE", "pymilvus-model", pymilvus_bge),
    Row("rerankers", "rerankers", rerankers),
    Row("FlashRank", "flashrank", flashrank, sigmoid=True),
    Row("fastembed", "fastembed", fastembed),
    Row("infinity-emb", "infinity", infinity),
    ours("", "float32", every=True),
    ours("torch", "float32", engine="torch"),
    ours("onnx", "float32", engine="onnx"),
    ours('dtype="auto"', "auto", every=True, dtype="auto"),
    ours('dtype="int8"', "int8", every=True, folder="int8", dtype="int8"),
)

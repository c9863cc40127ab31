"""Write tiny classifiers and the scores that other packages give on them: python tests/peer_scores/make.py

Needs an environment of its own: pip install FlagEmbedding==1.4.2 pymilvus.model==0.3.4 transformers==4.57.6
sentence-transformers==5.7.0 torch==2.13.0. FlagEmbedding puts pairs together by the tokenizer's prepare_for_model. From
transformers 5 on there is none: FlagEmbedding then decodes the ids and tokenises the text again, which drops empty
documents and what does not survive decoding. From transformers 5.24 on FlagEmbedding 1.4.2 cannot be imported.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from FlagEmbedding import FlagReranker
from pymilvus.model.reranker import BGERerankFunction, CrossEncoderRerankFunction
from torch.nn import Sigmoid

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from pair_texts import QUERIES, TEXTS  # noqa: E402
from tiny_models import ARCHITECTURES, copy_as_published, save_tiny_model  # noqa: E402

PACKAGES = ("FlagEmbedding", "pymilvus.model", "sentence-transformers", "transformers", "tokenizers", "torch")
WIDTH = 16

# The options of each function whose scores are stored, by FlagEmbedding's names for them.
LIMITS = {"query_max_length": 24, "max_length": 64}
INSTRUCTIONS = {
    "query_instruction_for_rerank": "find: ",
    "passage_instruction_for_rerank": "text",
    "passage_instruction_format": "{}: {}",
}
FLAG_RERANKER: list[dict[str, Any]] = [
    {"normalize": True, **LIMITS},
    {"normalize": False, **LIMITS},
    {"normalize": False, "query_max_length": None, "max_length": 64},
    {"normalize": False, "query_max_length": 8, "max_length": 21},
    {"normalize": False, **LIMITS, **INSTRUCTIONS},
]
BGE_RERANK_FUNCTION = [{"normalize": True, "batch_size": 4, **LIMITS}, {"normalize": False, "batch_size": 4, **LIMITS}]
CROSS_ENCODER_RERANK_FUNCTION: list[dict[str, Any]] = [
    {"batch_size": 4, "activation_fct": None},
    {"batch_size": 4, "activation_fct": "sigmoid"},
]


def flag_reranker_scores(folder: Path, options: dict[str, Any]) -> list[list[float]]:
    reranker = FlagReranker(str(folder), devices="cpu", **options)
    return [reranker.compute_score([(query, text) for text in TEXTS]) for query in QUERIES]


def bge_rerank_function_scores(folder: Path, options: dict[str, Any]) -> list[list[float]]:
    return in_order_of_texts(BGERerankFunction(str(folder), device="cpu", model_class="encoder-only-base", **options))


def cross_encoder_rerank_function_scores(folder: Path, options: dict[str, Any]) -> list[list[float]]:
    activation = Sigmoid() if options["activation_fct"] == "sigmoid" else None
    return in_order_of_texts(
        CrossEncoderRerankFunction(str(folder), device="cpu", **{**options, "activation_fct": activation})
    )


def in_order_of_texts(rerank: Any) -> list[list[float]]:
    ranked = [rerank(query, TEXTS, top_k=0) for query in QUERIES]
    return [[result.score for result in sorted(results, key=lambda result: result.index)] for results in ranked]


SCORERS: dict[str, tuple[Callable[..., Any], list[dict[str, Any]]]] = {
    "FlagReranker": (flag_reranker_scores, FLAG_RERANKER),
    "BGERerankFunction": (bge_rerank_function_scores, BGE_RERANK_FUNCTION),
    "CrossEncoderRerankFunction": (cross_encoder_rerank_function_scores, CROSS_ENCODER_RERANK_FUNCTION),
}


def cases_of(architecture: str, folder: Path) -> Iterator[dict[str, Any]]:
    for function, (score, stored_options) in SCORERS.items():
        if architecture == "modernbert" and function != "CrossEncoderRerankFunction":
            continue  # FlagEmbedding on transformers 4 gives ModernBERT's pairs no special tokens
        for options in stored_options:
            scores = [[round(float(value), 7) for value in row] for row in score(folder, options)]
            spread = max(map(max, scores)) - min(map(min, scores))
            print(f"{architecture:12} {function:27} {spread:.4f} {options}")
            yield {"function": function, "architecture": architecture, "options": options, "scores": scores}


def main() -> None:
    cases: list[dict[str, Any]] = []
    for architecture in ARCHITECTURES:
        shutil.rmtree(HERE / architecture, ignore_errors=True)
        save_tiny_model(architecture, HERE / architecture, width=WIDTH)
        with tempfile.TemporaryDirectory() as parent:
            folder = copy_as_published(HERE / architecture, architecture, Path(parent) / architecture)
            cases.extend(cases_of(architecture, folder))
    made_with = {package: version(package) for package in PACKAGES}
    scores_file = {"made_with": made_with, "queries": QUERIES, "texts": TEXTS, "cases": cases}
    (HERE / "scores.json").write_text(json.dumps(scores_file, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()

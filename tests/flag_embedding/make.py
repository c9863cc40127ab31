"""Writes the tiny models and FlagEmbedding's own scores beside this file: python tests/flag_embedding/make.py

Needs an environment of its own: pip install FlagEmbedding==1.4.2 transformers==4.46.3 "peft<0.14". FlagEmbedding's
layerwise and lightweight models do not run with later versions of transformers.
"""

import itertools
import json
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from FlagEmbedding import FlagLLMReranker, LayerWiseFlagLLMReranker, LightWeightFlagLLMReranker
from FlagEmbedding.inference.reranker.decoder_only.models import configuration_minicpm_reranker as minicpm_config
from FlagEmbedding.inference.reranker.decoder_only.models import gemma_config, gemma_model
from FlagEmbedding.inference.reranker.decoder_only.models import modeling_minicpm_reranker as minicpm_model

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from pair_texts import QUERIES, TEXTS  # noqa: E402
from tiny_models import unigram  # noqa: E402

PAIRS = [list(pair) for pair in itertools.product(QUERIES, TEXTS)]
LIMITS = {"query_max_length": 24, "max_length": 64}
COMMON = {
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
GEMMA = {"head_dim": 4, "num_hidden_layers": 4}


def layerwise(size: int) -> Any:
    config = minicpm_config.LayerWiseMiniCPMConfig(
        vocab_size=size, num_hidden_layers=5, start_layer=2, scale_emb=12, dim_model_base=8, scale_depth=1.4, **COMMON
    )
    return minicpm_model.LayerWiseMiniCPMForCausalLM(config)


def lightweight(size: int) -> Any:
    config = gemma_config.CostWiseGemmaConfig(
        vocab_size=size, start_layer=2, layer_sep=1, layer_wise=True, query_pre_attn_scalar=4, **GEMMA, **COMMON
    )
    return gemma_model.CostWiseGemmaForCausalLM(config)


def plain(size: int) -> Any:
    return transformers.GemmaForCausalLM(transformers.GemmaConfig(vocab_size=size, **GEMMA, **COMMON))


# A folder, its model, FlagEmbedding's class, and the options whose scores are kept. The names are those of the real
# models, by which FlagEmbedding knows them.
MODELS: dict[str, tuple[Callable[[int], Any], Any, list[dict[str, Any]]]] = {
    "bge-reranker-v2-gemma": (
        plain,
        FlagLLMReranker,
        [{}, {"prompt": "Is it so?", "query_instruction_for_rerank": "Q: ", "passage_instruction_format": "{}[{}]"}],
    ),
    "bge-reranker-v2-minicpm-layerwise": (
        layerwise,
        LayerWiseFlagLLMReranker,
        [{}, {"cutoff_layers": [2]}, {"cutoff_layers": [4]}],
    ),
    "bge-reranker-v2.5-gemma2-lightweight": (
        lightweight,
        LightWeightFlagLLMReranker,
        [
            {},
            {"cutoff_layers": [3], "compress_layers": [2], "compress_ratio": 2},
            {"compress_layers": [1, 3], "compress_ratio": 4},
        ],
    ),
}


def save_tokenizer(folder: Path) -> int:
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    core, _ = unigram("<bos> $A $B", special, "<bos>", "<eos>")
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=512, **names)
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def main() -> None:
    for name, (make, flag_class, cases) in MODELS.items():
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        size = save_tokenizer(folder)
        torch.manual_seed(0)
        model = make(size).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:  # so that scores differ by far more than the tolerance
                    parameter.mul_(8)
        model.save_pretrained(folder)
        scores = []
        for options in cases:
            reference = flag_class(str(folder), devices="cpu", batch_size=16, **LIMITS, **options)
            scores.append({"options": options, "scores": reference.compute_score(PAIRS)})
        made = {
            "made_with": {package: version(package) for package in ("FlagEmbedding", "transformers", "torch")},
            "limits": LIMITS,
            "pairs": PAIRS,
            "cases": scores,
        }
        (folder / "scores.json").write_text(json.dumps(made, ensure_ascii=False) + "\n", "utf-8")
        spread = [round(max(one["scores"]) - min(one["scores"]), 3) for one in scores]
        print(name, spread, sum(path.stat().st_size for path in folder.iterdir()) // 1024, "KiB")


if __name__ == "__main__":
    main()

"""The models that are timed, the same weights in each layout that a peer expects. Runs in the harness' environment.

``minilm6`` is the package's trained builtin/rerank (6 layers, 384 wide); ``base12`` has the shape of BERT base
(12 layers, 768 wide), builtin/rerank's tokenizer and seeded random weights, for time only.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from texts import Request
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

from milvus_rerank.models import model_folder

MODELS = Path(__file__).parent / ".models"
MAX_LENGTH = 512
# FlashRank knows models by the names of its own list only, each with the name of its file.
FLASHRANK = ("ms-marco-MiniLM-L-12-v2", "flashrank-MiniLM-L-12-v2_Q.onnx")
TOKENIZER_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def make_model(name: str) -> Path:
    """Write a model in each layout unless it is there, and return its folder."""
    folder = MODELS / name
    if (folder / "done").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    builtin = model_folder("builtin/rerank")
    if name == "minilm6":
        model = AutoModelForSequenceClassification.from_pretrained(builtin, dtype=torch.float32)
    else:
        model = random_base(json.loads((builtin / "config.json").read_text())["vocab_size"])
    model.eval().save_pretrained(folder / "hf")
    write_tokenizer(builtin, folder / "hf")
    _export(model, folder / "onnx")
    flashrank = folder / "flashrank" / FLASHRANK[0]
    flashrank.mkdir(parents=True)
    for file in TOKENIZER_FILES:
        shutil.copy(folder / "hf" / file, folder / "onnx" / file)
        shutil.copy(folder / "hf" / file, flashrank / file)
    (flashrank / FLASHRANK[1]).hardlink_to(folder / "onnx" / "model.onnx")
    (folder / "done").touch()
    return folder


def export_int8(folder: Path, requests: Sequence[Request]) -> None:
    """Let the package write its int8 files, calibrated and checked on these requests: none of those that are timed."""
    if (folder / "int8").exists():
        return
    texts = folder / "texts.jsonl"
    lines = (json.dumps({"query": request.query, "documents": request.documents[:50]}) for request in requests)
    texts.write_text("\n".join(lines) + "\n", "utf-8")
    program = Path(sys.executable).with_name("milvus-rerank")
    # Random weights rank at random: their int8 is below any floor, and only its time is asked for.
    hurry = ["--force", "--queries", "5"] * (folder.name != "minilm6")
    arguments = ["--dtype", "int8", "--texts", str(texts), *hurry]
    subprocess.run([str(program), "export", str(folder / "hf"), str(folder / "int8"), *arguments], check=False)


def random_base(vocabulary: int) -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=vocabulary, num_labels=1)
    # Raw logits everywhere; without this sentence-transformers would apply a sigmoid.
    config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity"}
    return BertForSequenceClassification(config)


def write_tokenizer(source: Path, folder: Path) -> None:
    """Save the tokenizer with one limit, 512.

    The shipped files also carry limits of their training (``max_length`` 44 and a truncation at 150), which fastembed
    would obey and the others ignore.
    """
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8"))
    for key in ("max_length", "stride", "truncation_side", "truncation_strategy", "is_local", "local_files_only"):
        config.pop(key, None)
    # BertTokenizerFast, as transformers 4 (which infinity needs) knows it too.
    config.update(model_max_length=MAX_LENGTH, tokenizer_class="BertTokenizerFast", do_lower_case=True)
    path.write_text(json.dumps(config, indent=1), "utf-8")
    tokens = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens), "utf-8")


def _export(model: torch.nn.Module, folder: Path) -> None:
    """Write ONNX with the input names and the one output, shape (pairs, 1), that FlashRank and fastembed expect."""
    folder.mkdir(parents=True)
    # Three tensors, not one thrice: the tracer takes equal objects for one input and gives wrong scores silently. And
    # with padding: from a mask of ones transformers may conclude that none is needed.
    model.set_attn_implementation("eager")
    ids, mask, types = (torch.ones((2, 16), dtype=torch.int64) for _ in range(3))
    mask[1, 8:] = 0
    shape = {0: torch.export.Dim("pairs", min=1, max=4096), 1: torch.export.Dim("tokens", min=2, max=MAX_LENGTH)}
    names = ["input_ids", "attention_mask", "token_type_ids"]
    torch.onnx.export(
        model,
        (),
        folder / "model.onnx",
        kwargs={"input_ids": ids, "attention_mask": mask, "token_type_ids": types},
        input_names=names,
        output_names=["logits"],
        dynamic_shapes=dict.fromkeys(names, shape),
        dynamo=True,
        external_data=False,
    )

"""Real models at their real size: python benchmarks/replicas.py [--models REGEX] [--rows REGEX] [--minutes N].

Makes models of the shapes of public ones, with seeded random weights, in .models/replicas (15 GB), and measures loading
and scoring, imports included, each in a fresh process. Only times, memory and disk mean something. Runs in the
package's own environment, as `make install` makes it; other packages run in theirs, which `run.py` describes. Writes
results/replicas.json after every row, and goes on where an earlier run stopped.
"""

import argparse
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from machine import machine
from peers import QUIET
from run import make_venv

HERE = Path(__file__).resolve().parent
FOLDER = HERE / ".models" / "replicas"
RESULTS = HERE / "results" / "replicas.json"
DOCUMENTS, WORDS = 20, 196
WORKER = "--worker"

ROBERTA = {"type": "xlm-roberta", "vocab_size": 250002, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
SHAPES: dict[str, dict[str, Any]] = {
    "ms-marco-MiniLM-L6-v2": {
        "type": "bert",
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
        "vocab_size": 30522,
    },
    "bge-reranker-base": {**ROBERTA, **BASE, "max_position_embeddings": 514},
    "bge-reranker-large": {**ROBERTA, **LARGE, "max_position_embeddings": 514},
    "bge-reranker-v2-m3": {**ROBERTA, **LARGE, "max_position_embeddings": 8194},
    "mxbai-rerank-base-v1": {
        "type": "deberta-v2",
        **BASE,
        "vocab_size": 128100,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 256,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        "type_vocab_size": 0,
        "dtype": "float16",
    },
    "gte-reranker-modernbert-base": {
        "type": "modernbert",
        **BASE,
        "num_hidden_layers": 22,
        "intermediate_size": 1152,
        "vocab_size": 50368,
        "max_position_embeddings": 8192,
        "classifier_pooling": "mean",
        "dtype": "float16",
    },
    "ettin-reranker-32m-v1": {
        "type": "modernbert",
        "hidden_size": 384,
        "num_hidden_layers": 10,
        "num_attention_heads": 6,
        "intermediate_size": 576,
        "vocab_size": 50368,
        "max_position_embeddings": 7999,
        "modules": True,
    },
    "Qwen3-Reranker-0.6B": {
        "type": "qwen3",
        "hidden_size": 1024,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
        "vocab_size": 151669,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    },
    "bge-reranker-v2-gemma": {
        "type": "gemma",
        "hidden_size": 2048,
        "num_hidden_layers": 18,
        "num_attention_heads": 8,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "intermediate_size": 16384,
        "vocab_size": 256000,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    },
}
"""The sizes of each model, from its public config.json, with its weights' type on the hub where that is not float32;
gemma's are in float32 there, which this machine's memory does not hold twice. Of ettin's, the head is modules."""


def words(count: int) -> list[str]:
    """Return distinct words, the same ones each time."""
    rng = random.Random(0)
    made = dict.fromkeys([*"abcdefghijklmnopqrstuvwxyz0123456789", "who", "is", "it", "test", "query"])
    while len(made) < count:
        made["".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 7)))] = None
    return list(made)


def make_tokenizer(folder: Path, size: int, *, bert: bool) -> None:
    """Write a tokenizer with a vocabulary of the real size, in which each word of :func:`words` is a token."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"] if bert else ["<s>", "<pad>", "</s>", "<unk>"]
    cls, sep, pad, unknown = (
        (special[1], special[2], special[0], special[3]) if bert else ("<s>", "</s>", "<pad>", "<unk>")
    )
    core = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate([*special, *words(size - 4)])}, unknown)
    )
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    pair = f"{cls} $A {sep} $B:1 {sep}:1" if bert else f"{cls} $A {sep} {sep} $B {sep}"
    ids = [(cls, special.index(cls)), (sep, special.index(sep))]
    core.post_processor = processors.TemplateProcessing(single=f"{cls} $A {sep}", pair=pair, special_tokens=ids)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, cls_token=cls, sep_token=sep, pad_token=pad, unk_token=unknown, eos_token=sep
    ).save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    names = ["input_ids", *["token_type_ids"] * bert, "attention_mask"]
    settings |= {"model_input_names": names, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


def make(name: str) -> Path:
    """Write a replica, unless it is there."""
    folder = FOLDER / name
    if (folder / "tokenizer_config.json").exists():
        return folder
    import torch
    import transformers

    shape = dict(SHAPES[name])
    kind, dtype = shape.pop("type"), getattr(torch, shape.pop("dtype", "float32"))
    modules = shape.pop("modules", False)
    config = transformers.AutoConfig.for_model(kind, num_labels=1, pad_token_id=0 if kind == "bert" else 1, **shape)
    torch.manual_seed(0)
    causal = kind in ("qwen3", "gemma")
    auto = transformers.AutoModelForSequenceClassification
    if causal or modules:
        auto = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    auto.from_config(config, dtype=dtype).save_pretrained(folder)
    if modules:
        make_tokenizer(folder, shape["vocab_size"], bert=False)
        add_modules(folder, shape["hidden_size"])
        return folder
    make_tokenizer(folder, shape["vocab_size"] - (2 if causal else 0), bert=kind == "bert")
    if causal:  # two tokens more, which say yes and no
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        tokenizer.add_tokens(["yes", "no"] if kind == "qwen3" else ["Yes", "No"])
        tokenizer.save_pretrained(folder)
    return folder


def add_modules(folder: Path, width: int) -> None:
    """Write a transformer's folder anew, as sentence-transformers saves it with a head of ettin's modules."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
    from torch import nn

    body = Transformer(str(folder), transformer_task="feature-extraction")
    first = Dense(width, width, bias=False, activation_function=nn.GELU())
    score = Dense(width, 1, activation_function=nn.Identity(), module_output_name="scores")
    modules = [body, Pooling(width, "cls"), first, LayerNorm(width), score]
    CrossEncoder(modules=modules, device="cpu").save_pretrained(str(folder))


def ours(engine: str, dtype: str = "float32") -> Callable[[str], Callable[[str, list[str]], Any]]:
    """Return the loader of this package's reranker with an engine and a precision."""

    def load(folder: str) -> Callable[[str, list[str]], Any]:
        from milvus_rerank import BGERerankFunction, CrossEncoderRerankFunction

        options: Any = {"engine": engine, "dtype": dtype}
        if "gemma" in folder:
            from milvus_rerank import FlagOptions

            return BGERerankFunction(folder, device="cpu", flag=FlagOptions(), **options).score
        return CrossEncoderRerankFunction(folder, device="cpu", **options).score

    return load


def library(folder: str) -> Callable[[str, list[str]], Any]:
    """Load sentence-transformers' cross-encoder."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(folder, device="cpu")
    return lambda query, documents: model.predict([(query, document) for document in documents])


def library_openvino(folder: str) -> Callable[[str, list[str]], Any]:
    """Load sentence-transformers' cross-encoder on OpenVINO in float32; it exports the model at each load."""
    from sentence_transformers import CrossEncoder

    options = {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}
    model = CrossEncoder(folder, device="cpu", backend="openvino", model_kwargs=options)
    return lambda query, documents: model.predict([(query, document) for document in documents])


def flagembedding(folder: str) -> Callable[[str, list[str]], Any]:
    """Load FlagEmbedding's reranker."""
    from FlagEmbedding import FlagLLMReranker, FlagReranker

    reranker = FlagLLMReranker if "gemma" in folder else FlagReranker
    model = reranker(folder, use_fp16=False, devices="cpu")
    return lambda query, documents: model.compute_score([(query, document) for document in documents])


def pymilvus_model(folder: str) -> Callable[[str, list[str]], Any]:
    """Load pymilvus.model's function for the model: BGE's, or the one for cross-encoders."""
    from pymilvus.model.reranker import BGERerankFunction, CrossEncoderRerankFunction

    function: Any
    if "bge" in folder:
        kind = "decoder-only-base" if "gemma" in folder else "encoder-only-base"
        function = BGERerankFunction(folder, use_fp16=False, devices="cpu", model_class=kind)
    else:
        function = CrossEncoderRerankFunction(folder, device="cpu")
    return lambda query, documents: [result.score for result in function(query, documents, top_k=len(documents))]


ROWS: dict[str, tuple[str, Callable[[str], Callable[[str, list[str]], Any]]]] = {
    "sentence-transformers": ("", library),
    "sentence-transformers openvino": ("sentence-transformers-openvino", library_openvino),
    "FlagEmbedding": ("flagembedding", flagembedding),
    "pymilvus.model": ("pymilvus-model", pymilvus_model),
    "milvus-rerank": ("", ours("auto")),
    'milvus-rerank dtype="auto"': ("", ours("auto", "auto")),
    'milvus-rerank engine="onnx"': ("", ours("onnx")),
    'milvus-rerank engine="openvino"': ("", ours("openvino")),
    'milvus-rerank engine="torch"': ("", ours("torch")),
}
"""Each row's environment, as :mod:`peers` names it, "" for the package's own; and the function that loads a model."""


def peak() -> int:
    """Return the most memory that this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def work(row: str, folder: str) -> None:
    """Load, score, and print the figures: in a process of its own."""
    rng, known = random.Random(1), words(2000)
    documents = [" ".join(rng.choice(known) for _ in range(WORDS)) for _ in range(DOCUMENTS)]
    start = time.perf_counter()
    score = ROWS[row][1](folder)
    loaded, load_peak = time.perf_counter() - start, peak()
    start = time.perf_counter()
    scores = [float(value) for value in score("abc def", documents)]
    seconds = time.perf_counter() - start
    print(
        json.dumps(
            {
                "load_seconds": round(loaded, 2),
                "load_peak_mib": load_peak,
                "score_seconds": round(seconds, 2),
                "peak_mib": peak(),
                "first_scores": [round(value, 6) for value in scores[:3]],
            }
        )
    )


def measure(row: str, folder: Path, timeout: float) -> dict[str, Any]:
    """Run a row three times in fresh processes, with an empty cache first; return the first and the best later run."""
    venv = ROWS[row][0]
    if venv and not make_venv(venv):
        return {"failed": (HERE / ".venvs" / venv / "refused").read_text("utf-8")[:300]}
    python = str(HERE / ".venvs" / venv / "bin" / "python") if venv else sys.executable
    with tempfile.TemporaryDirectory(dir=FOLDER) as cache:
        environment = {**os.environ, **QUIET, "MILVUS_RERANK_CACHE": cache}
        runs = []
        for _ in range(3):
            command = [python, __file__, WORKER, row, str(folder)]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, env=environment, timeout=timeout, check=False
                )
            except subprocess.TimeoutExpired:
                return {"failed": f"not ready after {timeout:g} s"}
            if done.returncode:
                return {"failed": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:300]}
            runs.append(json.loads(done.stdout.strip().splitlines()[-1]))
        files = [path.stat() for path in Path(cache).rglob("*") if path.is_file()]
        added = sum(status.st_size for status in files if status.st_nlink == 1)
    later = sorted(runs[1:], key=lambda run: run["load_seconds"] + run["score_seconds"])[0]
    return {"first": runs[0], "later": later, "added_disk_mib": round(added / 2**20, 1)}


def main() -> None:
    """Measure all rows of all models that are not in the results yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="", help="a regular expression, searched in the models' names")
    parser.add_argument("--rows", default="", help="a regular expression, searched in the rows' names")
    parser.add_argument("--minutes", type=float, default=600, help="begin no row after so many minutes")
    parser.add_argument("--again", action="store_true", help="measure rows that are in the results, too")
    arguments = parser.parse_args()
    models = [name for name in SHAPES if re.search(arguments.models, name)]
    rows = [row for row in ROWS if re.search(arguments.rows, row)]
    if not models or not rows:
        parser.error(f"no model or no row matches; there are {', '.join(SHAPES)}; {', '.join(ROWS)}")
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {"models": {}}
    end = time.monotonic() + 60 * arguments.minutes
    for name in models:
        FOLDER.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, __file__, WORKER, "make", name], check=True, stderr=subprocess.DEVNULL)
        folder = FOLDER / name
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        model = results["models"].setdefault(name, {"weights_mib": round(size / 2**20), "rows": {}})
        for row in rows:
            if row in model["rows"] and not arguments.again:
                continue
            if time.monotonic() > end:
                print("the time is over; run this again to go on")
                return
            model["rows"][row] = measure(row, folder, 1800)
            print(name, row, json.dumps(model["rows"][row]), flush=True)
            results |= {"machine": machine(), "date": datetime.now(timezone.utc).date().isoformat()}
            RESULTS.write_text(json.dumps(results, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    if WORKER not in sys.argv:
        main()
    elif sys.argv[2] == "make":
        make(sys.argv[3])
    else:
        work(sys.argv[2], sys.argv[3])

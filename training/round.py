"""Round a cross-encoder's weights to 8-bit floats (E4M3), so that what they do to real texts changes least.

python training/round.py DATA FOLDER OUT: DATA as for run.sh, FOLDER holds the trained model, OUT is written.

GPTQ (Frantar et al., 2022, arXiv:2210.17323): each layer's weights are rounded one input at a time, and the error that
an input's rounding adds to the outputs is taken back through the inputs still to come, as far as they go together in
the calibration texts. The rounded weights are the model: they load as float32, in every library, without scales.
"""

import argparse
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from common import read_jsonl
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

PAIRS = 1024
BATCH = 16
MAX_LENGTH = 150
DAMPING = 0.01
BLOCK = 128


def nearest(weight: torch.Tensor) -> torch.Tensor:
    """Return the nearest 8-bit floats, in the type of the input."""
    return weight.to(torch.float8_e4m3fn).to(weight.dtype)


def calibration_pairs(data: Path) -> list[tuple[str, str]]:
    """Return titles with their texts, and with the text after them, from collections that the model was trained on."""
    documents = [
        document
        for name in ("cacm", "cisi")
        for document in read_jsonl(data / name / "corpus.jsonl")
        if document.get("title") and document.get("text")
    ]
    step = max(1, 2 * len(documents) // PAIRS)
    chosen = documents[::step]
    matching = [(document["title"], document["text"]) for document in chosen]
    rivals = [(one["title"], other["text"]) for one, other in itertools.pairwise(chosen)]
    return matching + rivals


def gather(model: torch.nn.Module, names: list[str], run: Callable[[], object]) -> dict[str, torch.Tensor]:
    """Return the mean product of every two inputs of linear layers, each of shape ``(inputs, inputs)``, over a run."""
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}
    hooks = []
    for name in names:

        def add(_: object, inputs: tuple[torch.Tensor], name: str = name) -> None:
            rows = inputs[0].reshape(-1, inputs[0].shape[-1])
            sums[name] = sums.get(name, 0) + (rows.T @ rows).double()
            counts[name] = counts.get(name, 0) + len(rows)

        hooks.append(model.get_submodule(name).register_forward_pre_hook(add))
    run()
    for hook in hooks:
        hook.remove()
    return {name: sums[name] / counts[name] for name in sums}


def compensated(weight: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
    """Return 8-bit floats, shape ``(outputs, inputs)``, whose outputs differ least from the weight's."""
    damped = products + torch.eye(len(products)) * DAMPING * products.diagonal().mean()
    order = damped.diagonal().argsort(descending=True)  # the inputs that matter most have most to be corrected by
    left = weight.double()[:, order]
    factor = torch.linalg.cholesky(torch.linalg.inv(damped[order][:, order])).T
    rounded = torch.empty_like(left)
    for start in range(0, left.shape[1], BLOCK):
        end = min(start + BLOCK, left.shape[1])
        errors = torch.empty(len(left), end - start, dtype=torch.float64)
        for column in range(start, end):
            rounded[:, column] = nearest(left[:, column])
            errors[:, column - start] = (left[:, column] - rounded[:, column]) / factor[column, column]
            left[:, column:end] -= torch.outer(errors[:, column - start], factor[column, column:end])
        left[:, end:] -= errors @ factor[start:end, end:]
    result = torch.empty_like(rounded)
    result[:, order] = rounded
    return result


def main() -> None:
    """Round every layer in turn, each on what the rounded layers before it give."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("data", "folder", "out"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    model = AutoModelForSequenceClassification.from_pretrained(args.folder, dtype=torch.float32).eval()
    pairs = calibration_pairs(args.data)

    def run() -> list[torch.Tensor]:
        scores = []
        for start in range(0, len(pairs), BATCH):
            queries, texts = zip(*pairs[start : start + BATCH], strict=True)
            options = {"padding": True, "truncation": True, "max_length": MAX_LENGTH, "return_tensors": "pt"}
            scores.append(model(**tokenizer(list(queries), list(texts), **options)).logits[:, 0])
        return scores

    with torch.inference_mode():
        before = torch.cat(run())
        for name, parameter in model.named_parameters():
            if name.endswith("embeddings.weight"):
                parameter.copy_(nearest(parameter))
        layers = [name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)]
        for prefix in [*(f"bert.encoder.layer.{n}." for n in range(model.config.num_hidden_layers)), "bert.pooler."]:
            names = [name for name in layers if name.startswith(prefix)]
            products = gather(model, names, run)
            for name in names:
                layer = model.get_submodule(name)
                layer.weight.copy_(compensated(layer.weight, products[name]))
            change = torch.cat(run()) - before
            print(prefix, "largest change of a score:", float(change.abs().max()), flush=True)
    shutil.copytree(args.folder, args.out, dirs_exist_ok=True)
    stored = load_file(args.folder / "model.safetensors")
    for name, value in model.state_dict().items():
        wide = value.dim() == 2 and not name.startswith("classifier")
        stored[name] = value.to(torch.float8_e4m3fn if wide else stored[name].dtype)
    save_file(stored, args.out / "model.safetensors", metadata={"format": "pt"})
    print(
        f"scores of {len(pairs)} pairs change by {change.pow(2).mean().sqrt():.4f} (root mean square), "
        f"{change.abs().max():.4f} at most; their deviation is {before.std():.4f}"
    )


if __name__ == "__main__":
    main()

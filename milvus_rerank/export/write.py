"""Write a model as a folder that needs no torch: config, tokenizer, licence and a float32 graph."""

import json
import shutil
from pathlib import Path

from milvus_rerank.errors import ModelError
from milvus_rerank.export.publish import RECORD
from milvus_rerank.models import ModelSource
from milvus_rerank.models.files import (
    CONFIGS,
    TOKENIZERS,
    FileTokenizer,
    check_reranker,
    content_key,
    fetch_folder,
    list_files,
    read_config,
    read_tokenizer,
)
from milvus_rerank.models.weights import read_tensors, weight_files
from milvus_rerank.onnx_graphs import cache, files
from milvus_rerank.onnx_graphs.architectures import can_build
from milvus_rerank.requirements import ENGINES, require

FLOAT32 = "onnx/model.onnx"
_PAPERS = ("README.md", "LICENSE*", "NOTICE*", "config_sentence_transformers.json")


def fetch_original(source: ModelSource) -> Path:
    """Return a local folder with all files that an export needs; download the missing files."""
    wanted = (*CONFIGS, *TOKENIZERS, *_PAPERS, *files.WEIGHTS)
    folder = fetch_folder(source, wanted)
    check_reranker(source.name, read_config(folder))
    if not weight_files(folder):
        folder = fetch_folder(source, (*wanted, *files.graph_files(FLOAT32)))
        if files.find_carried(list_files(folder), "onnx", "float32") is None:
            folder = fetch_folder(source, (*wanted, *files.PICKLED))
    return folder


def original_key(folder: Path) -> str:
    """Return a key for a model's contents: its config, tokenizer and weights. An export has the key of its model."""
    if (folder / RECORD).is_file():
        return str(read_config(folder, RECORD).get("key"))
    weights = weight_files(folder)
    if not weights:
        graph = files.find_carried(list_files(folder), "onnx", "float32")
        pickled = sorted(folder.glob(files.PICKLED[0]))
        weights = [folder / graph, *_data_files(folder / graph)] if graph else pickled
    return content_key([path for path in (folder / name for name in CONFIGS) if path.is_file()] + weights)


def write_float32(source: ModelSource, folder: Path, target: Path) -> None:
    """Write a model that :func:`fetch_original` fetched as a folder with the graph and weights in ``onnx/``."""
    graph = target / FLOAT32
    graph.parent.mkdir(parents=True)
    _copy(folder, target, ("config.json", *_PAPERS))
    _write_tokenizer(source, folder, target)
    config = read_config(target)
    tokenizer = FileTokenizer(target, config, read_config(target, "tokenizer_config.json", optional=True))
    names = list_files(folder)
    if weight_files(folder) and can_build(config) and tokenizer.padding_side == "right":
        with_types = "token_type_ids" in tokenizer.model_input_names
        cache.write_built(graph, config, read_tensors(folder), source.name, with_types=with_types)
        return
    carried = files.find_carried(names, "onnx", "float32")
    if carried is None:
        cache.write_traced(
            graph, source, folder, [name for name in tokenizer.model_input_names if name in cache.INPUTS]
        )
        _rename_data(graph)
        return
    for path in (folder / carried, *_data_files(folder / carried)):
        shutil.copyfile(path, graph.parent / path.name)


def copy_small_files(folder: Path, target: Path) -> None:
    """Copy a folder that :func:`write_float32` wrote, without its graph."""
    target.mkdir()
    _copy(folder, target, ("config.json", *_PAPERS, *TOKENIZERS))


def _write_tokenizer(source: ModelSource, folder: Path, target: Path) -> None:
    tokenizer_config = read_config(folder, "tokenizer_config.json", optional=True)
    if read_tokenizer(folder, read_config(folder), tokenizer_config) is not None:
        _copy(folder, target, TOKENIZERS)
        return
    require(f"the tokenizer of model {source.name!r}", *ENGINES["torch"])
    from milvus_rerank.models.hub import load_tokenizer

    tokenizer = load_tokenizer(source, folder)
    if not tokenizer.is_fast:
        raise ModelError(
            f"model {source.name!r} has the tokenizer {type(tokenizer).__name__}, which cannot be written as "
            "tokenizer.json; do not export it, run it with engine='torch'"
        )
    tokenizer.save_pretrained(target)
    path = target / "tokenizer_config.json"
    settings = {**read_config(target, path.name), "model_input_names": list(tokenizer.model_input_names)}
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")


def _copy(folder: Path, target: Path, patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            shutil.copyfile(path, target / path.name)  # without its mode: files of caches and packages may be read-only


def _data_files(graph: Path) -> list[Path]:
    """Return the external files that hold a graph's weights."""
    import onnx

    from milvus_rerank.onnx_graphs.carried import data_files

    return data_files(graph, onnx.load(graph, load_external_data=False))


def _rename_data(graph: Path) -> None:
    """Give a graph's weights the usual file name, which :func:`graph_files` looks for on the hub."""
    import onnx

    data_files = _data_files(graph)
    if len(data_files) == 1:
        model = onnx.load(graph, load_external_data=False)
        wanted = graph.name + "_data"
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = wanted
        data_files[0].rename(graph.parent / wanted)
        graph.write_bytes(model.SerializeToString())

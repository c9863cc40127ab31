"""Check that a model has the files that it needs, before anything is loaded."""

import logging
import re

from milvus_rerank.errors import ModelError
from milvus_rerank.loading.inspect import ModelInfo
from milvus_rerank.models.files import check_file
from milvus_rerank.models.source import adapter_error
from milvus_rerank.models.weights import INDEX, PICKLED, PICKLED_INDEX, WHOLE
from milvus_rerank.onnx_graphs.files import find_carried

logger = logging.getLogger(__name__)

_WEIGHTS = frozenset({WHOLE, INDEX, PICKLED, PICKLED_INDEX})
_NOT_ALWAYS_READ = re.compile(
    r"(model[^/]*\.safetensors|pytorch_model[^/]*\.bin)(\.index\.json)?"
    r"|.*\.(onnx|onnx_data|onnx\.data|xml)|openvino/.*\.bin|openvino_model.*\.bin"
)
"""Weights and graphs: a model that has both is read from one of them."""
_TOKENIZER = re.compile(r"tokenizer\.json|vocab\.(txt|json)|.*\.(model|tiktoken|bpe|codes)")


def check_complete(info: ModelInfo, dtype: str) -> None:
    """Raise if a model lacks weights or a tokenizer, or has only pointers to them.

    :param info: the model.
    :param dtype: the precision to run it in.
    :raises ModelError: with what is missing and what to do about it.
    """
    name, files = f"model {info.source.name!r}", info.files
    if "adapter_config.json" in files:
        raise adapter_error(info.source.name)
    if info.model_type == "library" and info.head is None:  # its parts are in folders of their own
        return
    graph = find_carried(files, "onnx", dtype) or find_carried(files, "openvino", dtype)
    has_weights = not _WEIGHTS.isdisjoint(files) and dtype != "int8"
    for pointer in info.pointers:
        if not _NOT_ALWAYS_READ.fullmatch(pointer) or not (has_weights or graph):
            check_file(info.folder / pointer)
        else:
            logger.warning("%s is a Git LFS pointer and is not used; to get the file: git lfs pull", pointer)
    int8 = find_carried(files, "onnx", "int8") or find_carried(files, "openvino", "int8")
    if not (has_weights or graph) and dtype != "int8":
        if int8:
            raise ModelError(f"{name} has only an int8 graph, {int8}: load it with dtype='int8'")
        raise ModelError(f"{name} has no weights: expected model.safetensors or onnx/model.onnx, found {_shown(files)}")
    if not any(map(_TOKENIZER.fullmatch, files)):
        raise ModelError(
            f"{name} has no tokenizer: expected tokenizer.json, found {_shown(files)}; copy it from the model "
            "that this one was made from, or write it with tokenizer.save_pretrained(FOLDER)"
        )


def _shown(files: tuple[str, ...]) -> str:
    return ", ".join(files[:8]) + (", ..." if len(files) > 8 else "")

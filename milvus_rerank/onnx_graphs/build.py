"""ONNX graphs built from a model's weights, by its architecture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from milvus_rerank.models.modules import Head
from milvus_rerank.models.weights import Tensor
from milvus_rerank.onnx_graphs.build_bert import BertBuilder
from milvus_rerank.onnx_graphs.build_modernbert import ModernBertBuilder
from milvus_rerank.onnx_graphs.build_relative import DebertaBuilder, MPNetBuilder
from milvus_rerank.onnx_graphs.modernbert import HEAD, read_facts
from milvus_rerank.onnx_graphs.relative import DEBERTA, MPNET


def build(
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    with_types: bool,
    embed: bool,
    head: Head | None = None,
) -> onnx.ModelProto:
    """Build the ONNX graph of a model.

    :param config: the model's ``config.json``, for which :func:`~milvus_rerank.onnx_graphs.architectures.can_build`
        is true.
    :param tensors: its weights, which :func:`~milvus_rerank.onnx_graphs.architectures.check_shapes` has checked.
    :param with_types: whether the tokenizer makes token types; if not, every token has type 0.
    :param embed: whether the graph holds the weights, in float32. If not, they are external data: the engine reads them
        from the model's own files, which it expects in one folder under the names of :attr:`Tensor.path`.
    :param head: the head, if it consists of sentence-transformers' modules; its weights are always in the graph.
    :returns: a model that computes in float32. Its inputs are ``input_ids``, ``attention_mask`` and, if the model uses
        types, ``token_type_ids``, all int64 of shape ``(pairs, tokens)`` and padded on the right. Its output is
        ``logits``, shape ``(pairs, labels)``.
    """
    modernbert = read_facts(config, head)
    if modernbert is not None:
        return ModernBertBuilder(modernbert, tensors, embed=embed, held=HEAD if head else ()).build()
    builder = {DEBERTA: DebertaBuilder, MPNET: MPNetBuilder}.get(config["model_type"], BertBuilder)
    return builder(config, tensors, with_types=with_types, embed=embed).build()


def save(graph: onnx.ModelProto, path: Path) -> None:
    """Write a graph, with its weights in a second file.

    The second file lets engines map the weights into memory, and keeps protobuf messages small enough.

    :param graph: the graph from :func:`build`, with embedded weights.
    :param path: the ``.onnx`` file to write.
    """
    onnx.save_model(graph, path, save_as_external_data=True, location=path.name + "_data")

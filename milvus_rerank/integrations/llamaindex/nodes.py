"""The text, metadata and score of a node, and its copy with a result."""

from typing import Any

from llama_index.core.schema import ImageNode, MetadataMode, NodeWithScore, TextNode

from milvus_rerank.integrations.core import span_metadata
from milvus_rerank.results import RerankResult


def read_text(item: NodeWithScore) -> object:
    """Return the text that an embedding model reads; None for an image or other medium without text."""
    node = item.node
    is_text = isinstance(node, TextNode) and not isinstance(node, ImageNode)
    has_text = is_text or node.get_content(metadata_mode=MetadataMode.NONE)
    return node.get_content(metadata_mode=MetadataMode.EMBED) if has_text else None


def read_metadata(item: NodeWithScore) -> dict[str, Any]:
    """Return the metadata of the node."""
    return item.node.metadata  # type: ignore[no-any-return]


def read_score(item: NodeWithScore) -> float | None:
    """Return the score of the retriever."""
    return item.score  # type: ignore[no-any-return]


def scored(item: NodeWithScore, result: RerankResult, keep_retrieval_score: bool) -> NodeWithScore:
    """Return a new item with the score; its node is a copy if metadata are added.

    :param item: the item; it is not changed.
    :param result: its result.
    :param keep_retrieval_score: whether to add the former score.
    :returns: the new item. Neither embeddings nor language models read the added metadata.
    """
    node = item.node
    former = {"retrieval_score": item.score} if keep_retrieval_score else {}
    metadata = {**former, **span_metadata(result, node.get_content(MetadataMode.NONE))}
    if metadata:
        update = {
            "metadata": {**node.metadata, **metadata},
            "excluded_embed_metadata_keys": [*node.excluded_embed_metadata_keys, *metadata],
            "excluded_llm_metadata_keys": [*node.excluded_llm_metadata_keys, *metadata],
        }
        node = node.model_copy(update=update)
    return NodeWithScore(node=node, score=result.score)

"""LlamaIndex: a node postprocessor."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from milvus_rerank.errors import InputError
from milvus_rerank.integrations.core import DEFAULT_MODEL, arerank_items, open_reranker, require_framework, rerank_items

require_framework("the LlamaIndex adapter", "llama-index-core", "0.13", "llamaindex")

from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr, field_serializer, field_validator
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import ImageNode, MetadataMode, NodeWithScore, QueryBundle, TextNode

from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.results import RerankResult
from milvus_rerank.validation import check_threshold, check_top_k

_KEPT = "retrieval_score"


class RerankPostprocessor(BaseNodePostprocessor):
    """Rerank nodes, for query engines and retrievers.

    It returns new ``NodeWithScore`` objects and does not change the nodes that came in. The reranker reads the text
    that an embedding model would (``MetadataMode.EMBED``). ``reranker`` is a name for :func:`milvus_rerank.load`, which
    takes ``options``, or a rerank function; only a name can be read back with ``from_dict``. ``top_n`` is the most
    nodes to return, None for all; ``threshold`` is the least score to return. With ``keep_retrieval_score``, the
    metadata hold a node's former score as ``retrieval_score``, which neither embeddings nor language models read.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")
    reranker: Any = DEFAULT_MODEL
    options: dict[str, Any] = Field(default_factory=dict)
    top_n: int | None = 5
    threshold: float | None = None
    keep_retrieval_score: bool = False
    instruction: str | None = None
    _opened: BaseRerankFunction = PrivateAttr()

    _check_top_n = field_validator("top_n", mode="before")(check_top_k)
    _check_threshold = field_validator("threshold", mode="before")(check_threshold)

    def model_post_init(self, context: Any) -> None:
        """Open the reranker."""
        super().model_post_init(context)
        self._opened = open_reranker(self.reranker, **self.options)

    @field_serializer("reranker")
    def _name(self, reranker: Any) -> str:
        return reranker if isinstance(reranker, str) else repr(reranker)

    @classmethod
    def class_name(cls) -> str:
        """Return the name by which LlamaIndex knows the class."""
        return "MilvusRerankPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        with self._events(nodes, query_bundle) as (query, found):
            options = (self.top_n, self.threshold, self.instruction)
            found += map(self._scored, rerank_items(self._opened, query, nodes, _text, *options))
        return found

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        with self._events(nodes, query_bundle) as (query, found):
            options = (self.top_n, self.threshold, self.instruction)
            found += map(self._scored, await arerank_items(self._opened, query, nodes, _text, *options))
        return found

    @contextmanager
    def _events(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None
    ) -> Iterator[tuple[str, list[NodeWithScore]]]:
        """Report the query and the nodes, then the list of nodes that the block fills."""
        if query_bundle is None:
            raise InputError("reranking needs a query; pass query_str or query_bundle to postprocess_nodes")
        dispatcher, model, top_n = get_dispatcher(__name__), self._name(self.reranker), self.top_n or len(nodes)
        found: list[NodeWithScore] = []
        payload = {
            EventPayload.NODES: nodes, EventPayload.MODEL_NAME: model,
            EventPayload.QUERY_STR: query_bundle.query_str, EventPayload.TOP_K: top_n,
        }  # fmt: skip
        dispatcher.event(ReRankStartEvent(query=query_bundle, nodes=nodes, top_n=top_n, model_name=model))
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            yield query_bundle.query_str, found
            event.on_end(payload={EventPayload.NODES: found})
        dispatcher.event(ReRankEndEvent(nodes=found))

    def _scored(self, pair: tuple[NodeWithScore, RerankResult]) -> NodeWithScore:
        (item, result), node = pair, pair[0].node
        if self.keep_retrieval_score:
            node = node.model_copy(
                update={
                    "metadata": {**node.metadata, _KEPT: item.score},
                    "excluded_embed_metadata_keys": [*node.excluded_embed_metadata_keys, _KEPT],
                    "excluded_llm_metadata_keys": [*node.excluded_llm_metadata_keys, _KEPT],
                }
            )
        return NodeWithScore(node=node, score=result.score)


def _text(item: NodeWithScore) -> object:
    """Return the text of a node; None for an image or other medium without text."""
    content = item.node.get_content(metadata_mode=MetadataMode.EMBED)
    is_text = isinstance(item.node, TextNode) and not isinstance(item.node, ImageNode)
    return content if content or is_text else None

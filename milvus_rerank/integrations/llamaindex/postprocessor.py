"""LlamaIndex' node postprocessor."""

from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr, field_serializer, field_validator
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle

from milvus_rerank.errors import InputError
from milvus_rerank.integrations.core import DEFAULT_MODEL, ItemCall, open_reranker
from milvus_rerank.integrations.llamaindex.events import rerank_events
from milvus_rerank.integrations.llamaindex.nodes import read_metadata, read_score, read_text, scored
from milvus_rerank.integrations.steps_field import StepsField
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.validation import check_threshold, check_top_k

Nodes = list[NodeWithScore]


class RerankPostprocessor(BaseNodePostprocessor):
    """Rerank nodes, for query engines and retrievers.

    It returns new ``NodeWithScore`` objects and does not change the nodes that came in. The reranker reads the text
    that an embedding model would (``MetadataMode.EMBED``). ``reranker`` is a name for :func:`milvus_rerank.load`, which
    takes ``options``, or a rerank function; only a name can be read back with ``from_dict``. ``top_n`` is the most
    nodes to return, None for all; ``threshold`` is the least score of the reranker to return. ``steps`` run after the
    reranker and read the metadata: a :class:`milvus_rerank.Pipeline`, or steps or tables for one. With
    ``keep_retrieval_score``, the metadata hold a node's former score as ``retrieval_score``; of a long text they hold
    ``relevance_span``, its best part. Neither embeddings nor language models read these.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")
    reranker: Any = DEFAULT_MODEL
    options: dict[str, Any] = Field(default_factory=dict)
    top_n: int | None = 5
    threshold: float | None = None
    keep_retrieval_score: bool = False
    instruction: str | None = None
    steps: StepsField = Field(None, validate_default=True)
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

    def _postprocess_nodes(self, nodes: Nodes, query_bundle: QueryBundle | None = None) -> Nodes:
        with self._events(nodes, query_bundle) as reranked:
            reranked += self._call(nodes, query_bundle).run(self._opened)
        return reranked

    async def _apostprocess_nodes(self, nodes: Nodes, query_bundle: QueryBundle | None = None) -> Nodes:
        with self._events(nodes, query_bundle) as reranked:
            reranked += await self._call(nodes, query_bundle).arun(self._opened)
        return reranked

    def _events(self, nodes: Nodes, query: QueryBundle | None) -> AbstractContextManager[Nodes]:
        if query is None:
            raise InputError("reranking needs a query; pass query_str or query_bundle to postprocess_nodes")
        return rerank_events(self.callback_manager, query, nodes, self._name(self.reranker), self.top_n or len(nodes))

    def _call(self, nodes: Nodes, query: Any) -> ItemCall[NodeWithScore]:
        copy = partial(scored, keep_retrieval_score=self.keep_retrieval_score)
        options = self.top_n, self.threshold, self.instruction, self.steps, read_metadata, read_score
        return ItemCall(query.query_str, nodes, read_text, copy, *options)

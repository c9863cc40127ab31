"""LlamaIndex' callbacks and instrumentation events of reranking."""

from collections.abc import Iterator
from contextlib import contextmanager

from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.schema import NodeWithScore, QueryBundle


@contextmanager
def rerank_events(
    callbacks: CallbackManager, query: QueryBundle, nodes: list[NodeWithScore], model: str, top_n: int
) -> Iterator[list[NodeWithScore]]:
    """Report the start of reranking, and its end with the nodes that the block adds to the list.

    :param callbacks: the callback manager.
    :param query: the query.
    :param nodes: the nodes to rerank.
    :param model: the reranker's name.
    :param top_n: the most nodes to return.
    :yields: the list.
    """
    dispatcher = get_dispatcher(__name__)
    reranked: list[NodeWithScore] = []
    payload = {
        EventPayload.NODES: nodes, EventPayload.MODEL_NAME: model,
        EventPayload.QUERY_STR: query.query_str, EventPayload.TOP_K: top_n,
    }  # fmt: skip
    dispatcher.event(ReRankStartEvent(query=query, nodes=nodes, top_n=top_n, model_name=model))
    with callbacks.event(CBEventType.RERANKING, payload=payload) as event:
        yield reranked
        event.on_end(payload={EventPayload.NODES: reranked})
    dispatcher.event(ReRankEndEvent(nodes=reranked))

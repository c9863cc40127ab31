"""The LlamaIndex adapter, in LlamaIndex' own query engine."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from adapting import LONG_TEXT, QUERY, TEXTS, by_parts, check_span, direct, framework, run_example
from two_stage_docs import Failing

framework("llama_index.core", "llama_index.vector_stores.milvus", "milvus_lite")

from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import ImageNode, MediaResource, MetadataMode, Node, NodeWithScore, QueryBundle, TextNode

from milvus_rerank import CrossEncoderRerankFunction, LexicalRerankFunction
from milvus_rerank.errors import InputError, RegistryError
from milvus_rerank.integrations.llamaindex import RerankPostprocessor

pytestmark = pytest.mark.filterwarnings("default")  # frameworks warn of each other


class Fixed(BaseRetriever):
    def _retrieve(self, query_bundle: Any) -> Any:
        return nodes()


def nodes() -> list[Any]:
    return [
        NodeWithScore(node=TextNode(id_=f"n{index}", text=text), score=-0.1 * index) for index, text in enumerate(TEXTS)
    ]


def engine(**options: Any) -> Any:
    return RetrieverQueryEngine.from_args(Fixed(), llm=MockLLM(), node_postprocessors=[RerankPostprocessor(**options)])


def check(found: list[Any]) -> None:
    """Check that nodes are ordered and scored as by the reranker itself."""
    expected = direct()
    assert [node.node.node_id for node in found] == [f"n{index}" for index, _ in expected]
    assert [node.score for node in found] == pytest.approx([score for _, score in expected], abs=1e-6)


def test_a_query_engine_gives_the_rerankers_scores() -> None:
    check(engine(top_n=None).query(QUERY).source_nodes)
    check(asyncio.run(engine(top_n=None).aquery(QUERY)).source_nodes)


def test_the_nodes_that_came_in_are_not_changed() -> None:
    given = nodes()
    found = RerankPostprocessor(keep_retrieval_score=True).postprocess_nodes(given, query_str=QUERY)
    assert [node.to_dict() for node in given] == [node.to_dict() for node in nodes()]
    assert not any(node is one for node in found for one in given)


def test_the_retrieval_score_is_kept_where_no_model_reads_it() -> None:
    found = RerankPostprocessor(keep_retrieval_score=True).postprocess_nodes(nodes(), query_str=QUERY)
    expected = [-0.1 * int(node.node.node_id[1:]) for node in found]
    assert [node.node.metadata["retrieval_score"] for node in found] == expected
    for mode in (MetadataMode.EMBED, MetadataMode.LLM):
        assert "retrieval_score" not in found[0].node.get_content(metadata_mode=mode)


@pytest.mark.parametrize("metadata", [{}, {"title": "Chapter 7"}])
def test_the_best_part_of_a_long_text_is_in_the_metadata_where_no_model_reads_it(metadata: dict[str, str]) -> None:
    given = NodeWithScore(node=TextNode(text=LONG_TEXT, metadata=metadata))
    before = given.to_dict()
    [found] = RerankPostprocessor(reranker=by_parts()).postprocess_nodes([given], query_str=QUERY)
    check_span(found.node.metadata["relevance_span"], title="title: Chapter 7\n\n" if metadata else "")
    assert given.to_dict() == before
    for mode in (MetadataMode.EMBED, MetadataMode.LLM):
        assert found.node.get_content(mode) == given.node.get_content(mode)


def test_a_node_without_a_score_or_metadata_is_reranked() -> None:
    given = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
    found = RerankPostprocessor(top_n=None, keep_retrieval_score=True).postprocess_nodes(given, query_str=QUERY)
    assert [node.node.metadata for node in found] == [{"retrieval_score": None}] * len(TEXTS)
    assert [node.score for node in found] == pytest.approx([score for _, score in direct()], abs=1e-6)


def test_the_reranker_reads_the_metadata_that_an_embedding_model_reads() -> None:
    node = TextNode(
        text=TEXTS[1], metadata={"title": "Programs", "secret": "x"}, excluded_embed_metadata_keys=["secret"]
    )
    [found] = RerankPostprocessor().postprocess_nodes([NodeWithScore(node=node)], query_str=QUERY)
    text = f"title: Programs\n\n{TEXTS[1]}"
    assert found.score == pytest.approx(CrossEncoderRerankFunction(device="cpu").score(QUERY, [text])[0], abs=1e-6)


def test_top_n_and_the_threshold_cut_and_a_score_of_zero_sorts_between() -> None:
    scores = [score for _, score in direct()]
    assert len(engine(top_n=2).query(QUERY).source_nodes) == 2
    assert len(engine(top_n=None, threshold=scores[2]).query(QUERY).source_nodes) == 3

    class Numbers:
        def score(self, query: str, documents: list[str]) -> list[float]:
            return [-1.0, 0.0, 1.0]

    found = RerankPostprocessor(reranker=Numbers()).postprocess_nodes(nodes()[:3], query_str=QUERY)
    assert [node.score for node in found] == [1.0, 0.0, -1.0]


def test_no_nodes_and_no_query() -> None:
    assert RerankPostprocessor().postprocess_nodes([], query_str=QUERY) == []
    with pytest.raises(ValueError, match="reranking needs a query"):
        RerankPostprocessor().postprocess_nodes(nodes())


def test_twenty_concurrent_calls_lose_nothing() -> None:
    postprocessor = RerankPostprocessor(top_n=None)

    async def calls() -> list[Any]:
        return list(
            await asyncio.gather(*(postprocessor.apostprocess_nodes(nodes(), QueryBundle(QUERY)) for _ in range(20)))
        )

    found = asyncio.run(calls())
    assert len(found) == 20
    for one in found:
        check(one)


def test_it_is_read_back_from_what_it_writes() -> None:
    postprocessor = RerankPostprocessor(options={"device": "cpu"}, top_n=3, threshold=-9.5, keep_retrieval_score=True)
    copy = RerankPostprocessor.from_dict(postprocessor.to_dict())
    assert copy.to_dict() == postprocessor.to_dict()
    assert (copy.top_n, copy.threshold, copy.options, copy.keep_retrieval_score) == (3, -9.5, {"device": "cpu"}, True)
    check(
        RerankPostprocessor.from_json(RerankPostprocessor(top_n=None).to_json()).postprocess_nodes(
            nodes(), query_str=QUERY
        )
    )
    written = RerankPostprocessor(reranker=LexicalRerankFunction()).to_dict()
    with pytest.raises(RegistryError, match="no reranker is named 'LexicalRerankFunction"):
        RerankPostprocessor.from_dict(written)


def test_callbacks_and_events_see_query_nodes_and_model() -> None:
    seen: list[Any] = []

    class Handler(BaseEventHandler):
        def handle(self, event: Any, **options: Any) -> None:
            seen.append(event)

    debug, root, handler = LlamaDebugHandler(print_trace_on_end=False), get_dispatcher(), Handler()
    root.add_event_handler(handler)
    try:
        postprocessor = RerankPostprocessor(top_n=2, callback_manager=CallbackManager([debug]))
        found = postprocessor.postprocess_nodes(nodes(), query_str=QUERY)
    finally:
        root.event_handlers.remove(handler)
    start, end = (event for event in seen if event.class_name().startswith("ReRank"))
    assert (start.query.query_str, len(start.nodes), start.top_n, start.model_name) == (QUERY, 5, 2, "builtin/rerank")
    assert [node.score for node in end.nodes] == [node.score for node in found]
    [(first, last)] = debug.get_event_pairs(CBEventType.RERANKING)
    assert (first.payload[EventPayload.TOP_K], first.payload[EventPayload.QUERY_STR]) == (2, QUERY)
    assert len(last.payload[EventPayload.NODES]) == 2


@pytest.mark.parametrize(
    "node",
    [
        ImageNode(id_="picture", image_url="http://127.0.0.1/a.png"),
        ImageNode(id_="picture", image_url="http://127.0.0.1/a.png", metadata={"file_name": "a.png"}),
        Node(id_="picture", image_resource=MediaResource(data=b"cG5n", mimetype="image/png")),
    ],
)
def test_a_picture_without_text_is_named(node: Any) -> None:
    picture = NodeWithScore(node=node)
    with pytest.raises(InputError, match=r"documents\[5\] \(id 'picture'\) has no text to rerank"):
        RerankPostprocessor().postprocess_nodes([*nodes(), picture], query_str=QUERY)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_failing_reranker_reaches_the_callbacks_and_the_caller_of_the_query_engine(asynchronous: bool) -> None:
    debug, failure = LlamaDebugHandler(print_trace_on_end=False), RuntimeError("out of order")
    failing = RetrieverQueryEngine.from_args(
        Fixed(), MockLLM(), node_postprocessors=[RerankPostprocessor(reranker=Failing(failure))],
        callback_manager=CallbackManager([debug]),
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="out of order"):
        asyncio.run(failing.aquery(QUERY)) if asynchronous else failing.query(QUERY)
    [(_, last)] = debug.get_event_pairs(CBEventType.RERANKING)
    assert last.payload == {EventPayload.EXCEPTION: failure}


def test_wrong_options_say_what_is_expected() -> None:
    with pytest.raises(ValueError, match="top_k must not be negative"):
        RerankPostprocessor(top_n=-1)
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        RerankPostprocessor(topn=3)


def test_the_example_finds_the_first_program(tmp_path: Path) -> None:
    printed = run_example("llamaindex_rag.py", tmp_path)
    assert re.match(r"-?\d+\.\d\d  lovelace  was at 0\.\d\d\n", printed), printed
    assert len(printed.splitlines()) == 2

"""Steps after the reranker in LlamaIndex' node postprocessor."""

import asyncio
from typing import Any

import pytest
from adapting import framework

framework("llama_index.core")

from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from milvus_rerank import Pipeline
from milvus_rerank.errors import InputError
from milvus_rerank.integrations.llamaindex import RerankPostprocessor
from milvus_rerank.steps import Decay, Fuse, GroupBy

pytestmark = pytest.mark.filterwarnings("default")  # frameworks warn of each other
QUERY = "a cat"
STEPS = Pipeline([Decay("age", "linear", origin=0, scale=10), GroupBy("page", 1)])


def nodes() -> list[Any]:
    fields = [("a cat", 8, "p"), ("a cat", 2, "p"), ("a cat", 4, "q"), ("a dog", 0, "r")]
    hidden = {"excluded_embed_metadata_keys": ["age", "page"]}
    return [NodeWithScore(node=TextNode(id_=str(index), text=text, metadata={"age": age, "page": page}, **hidden),
            score=0.1 * index) for index, (text, age, page) in enumerate(fields)]  # fmt: skip


def postprocessor(steps: object = STEPS, **options: Any) -> Any:
    return RerankPostprocessor(reranker="lexical", steps=steps, top_n=2, **options)


def ids(found: list[Any]) -> list[str]:
    return [node.node.node_id for node in found]


def test_the_steps_see_all_nodes_and_top_n_cuts_after_them() -> None:
    given = nodes()
    for steps in (STEPS, STEPS.to_list()):
        found = postprocessor(steps).postprocess_nodes(given, query_str=QUERY)
        assert ids(found) == ["1", "2"]
        assert [node.score for node in found] == pytest.approx([0.9, 0.8])
        assert ids(asyncio.run(postprocessor(steps).apostprocess_nodes(given, QueryBundle(QUERY)))) == ["1", "2"]
    assert [node.to_dict() for node in given] == [node.to_dict() for node in nodes()]


def test_fuse_reads_the_retrievers_score() -> None:
    found = postprocessor([Fuse("IP", (0, 1))]).postprocess_nodes(nodes(), query_str=QUERY)
    assert ids(found) == ["3", "2"]


def test_it_is_read_back_with_its_steps_from_what_it_writes() -> None:
    written = postprocessor().to_dict()
    assert written["steps"] == STEPS.to_list()
    for copy in (RerankPostprocessor.from_dict(written), RerankPostprocessor.from_json(postprocessor().to_json())):
        assert copy.steps == STEPS
        assert ids(copy.postprocess_nodes(nodes(), query_str=QUERY)) == ["1", "2"]


def test_a_node_without_the_field_is_an_error_that_callbacks_see() -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    made = postprocessor([{"type": "group_by", "field": "year"}], callback_manager=CallbackManager([debug]))
    with pytest.raises(InputError, match=r"step 1 of 1 \(group_by\): results\[0\] has no field 'year'") as caught:
        made.postprocess_nodes(nodes(), query_str=QUERY)
    [(_, last)] = debug.get_event_pairs(CBEventType.RERANKING)
    assert last.payload == {EventPayload.EXCEPTION: caught.value}


def test_an_unknown_step_is_refused_when_the_postprocessor_is_made() -> None:
    with pytest.raises(ValueError, match=r"there is no step 'groupby'; did you mean 'group_by'\?"):
        postprocessor([{"type": "groupby", "field": "page"}])

"""Steps after the reranker in Haystack's ranker."""

import asyncio
from typing import Any

import pytest
from adapting import framework

framework("haystack")

from haystack import Document, Pipeline
from haystack.core.errors import PipelineRuntimeError

from milvus_rerank import Pipeline as Steps
from milvus_rerank.errors import InputError
from milvus_rerank.integrations.haystack import MilvusRerankRanker
from milvus_rerank.steps import Decay, Fuse, GroupBy

pytestmark = pytest.mark.filterwarnings("default")  # frameworks warn of each other
QUERY = "a cat"
STEPS = Steps([Decay("age", "linear", origin=0, scale=10), GroupBy("page", 1)])


def documents() -> list[Any]:
    fields = [("a cat", 8, "p"), ("a cat", 2, "p"), ("a cat", 4, "q"), ("a dog", 0, "r")]
    return [Document(id=str(index), content=text, meta={"age": age, "page": page}, score=0.1 * index) for
            index, (text, age, page) in enumerate(fields)]  # fmt: skip


def pipeline(steps: object = STEPS, top_k: int = 2) -> Any:
    made = Pipeline()
    made.add_component("ranker", MilvusRerankRanker("lexical", steps=steps, top_k=top_k))
    return made


def data(given: list[Any]) -> dict[str, Any]:
    return {"ranker": {"query": QUERY, "documents": given}}


def test_the_steps_see_all_documents_and_top_k_cuts_after_them() -> None:
    given = documents()
    for steps in (STEPS, STEPS.to_list(), list(STEPS.steps)):
        found = pipeline(steps).run(data(given))["ranker"]["documents"]
        assert [document.id for document in found] == ["1", "2"]
        assert [document.score for document in found] == pytest.approx([0.9, 0.8])
        assert found == asyncio.run(pipeline(steps).run_async(data(given)))["ranker"]["documents"]
    assert given == documents()


def test_fuse_reads_the_retrievers_score() -> None:
    found = pipeline([Fuse("IP", (0, 1))]).run(data(documents()))["ranker"]["documents"]
    assert [document.id for document in found] == ["3", "2"]


def test_a_pipeline_with_steps_is_read_back_from_what_it_writes() -> None:
    text = pipeline().dumps()
    copy = Pipeline.loads(text)
    assert copy.dumps() == text
    assert copy.get_component("ranker").to_dict()["init_parameters"]["steps"] == STEPS.to_list()
    assert [document.id for document in copy.run(data(documents()))["ranker"]["documents"]] == ["1", "2"]


def test_a_document_without_the_field_is_the_cause_of_haystacks_own_error() -> None:
    made = pipeline([{"type": "group_by", "field": "year"}])
    with pytest.raises(
        PipelineRuntimeError, match=r"step 1 of 1 \(group_by\): results\[0\] has no field 'year'"
    ) as one:
        made.run(data(documents()))
    assert isinstance(one.value.__cause__, InputError)


def test_an_unknown_step_is_refused_when_the_ranker_is_made() -> None:
    with pytest.raises(InputError, match=r"there is no step 'groupby'; did you mean 'group_by'\?"):
        MilvusRerankRanker("lexical", steps=[{"type": "groupby", "field": "page"}])

"""Steps after the reranker in LangChain's document compressor."""

import asyncio

import pytest
from adapting import framework

framework("langchain_core")

from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda

from milvus_rerank import LexicalRerankFunction, Pipeline
from milvus_rerank.errors import InputError
from milvus_rerank.integrations.langchain import RerankCompressor
from milvus_rerank.steps import Decay, GroupBy

pytestmark = pytest.mark.filterwarnings("default")  # frameworks warn of each other
QUERY = "a cat"
STEPS = Pipeline([Decay("age", "linear", origin=0, scale=10), GroupBy("page", 1)])


def documents() -> list[Document]:
    fields = [("a cat", 8, "p"), ("a cat", 2, "p"), ("a cat", 4, "q"), ("a dog", 0, "r")]
    return [Document(text, id=str(index), metadata={"age": age, "page": page}) for index, (text, age, page) in
            enumerate(fields)]  # fmt: skip


def compressor(steps: object = STEPS, top_n: int | None = 2) -> RerankCompressor:
    return RerankCompressor(reranker=LexicalRerankFunction(), steps=steps, top_n=top_n)


def test_the_steps_see_all_documents_and_top_n_cuts_after_them() -> None:
    given = documents()
    for steps in (STEPS, STEPS.to_list()):
        found = compressor(steps).compress_documents(given, QUERY)
        assert [document.id for document in found] == ["1", "2"]
        assert [document.metadata["relevance_score"] for document in found] == pytest.approx([0.9, 0.8])
        assert found == asyncio.run(compressor(steps).acompress_documents(given, QUERY))
    assert given == documents()


def test_without_steps_the_metadata_are_not_read() -> None:
    found = RerankCompressor(reranker=LexicalRerankFunction(), top_n=1).compress_documents(documents(), QUERY)
    assert [document.id for document in found] == ["0"]


def test_it_is_read_back_from_what_it_writes() -> None:
    written = compressor().model_dump(mode="json", include={"steps"})
    assert written == {"steps": STEPS.to_list()}
    assert RerankCompressor(reranker=LexicalRerankFunction(), **written).steps == STEPS


def test_a_document_without_the_field_is_an_error_that_a_chain_handles() -> None:
    unknown = compressor([{"type": "group_by", "field": "year"}])
    chain = RunnableLambda(lambda query: unknown.compress_documents(documents(), query))
    with pytest.raises(InputError, match=r"step 1 of 1 \(group_by\): results\[0\] has no field 'year'"):
        chain.invoke(QUERY)
    fallback = chain.with_fallbacks([RunnableLambda(lambda query: [])], exceptions_to_handle=(InputError,))
    assert fallback.invoke(QUERY) == []


def test_an_unknown_step_is_refused_when_the_compressor_is_made() -> None:
    with pytest.raises(ValueError, match=r"there is no step 'groupby'; did you mean 'group_by'\?"):
        compressor([{"type": "groupby", "field": "page"}])

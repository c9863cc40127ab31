"""The Haystack adapter, in Haystack's own pipeline."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from adapting import LONG_TEXT, QUERY, TEXTS, by_parts, check_span, direct, framework, run_example

framework("haystack", "milvus_haystack", "milvus_lite")

from haystack import Document, Pipeline
from haystack.core.errors import DeserializationError, PipelineRuntimeError
from haystack.dataclasses import ByteStream

from milvus_rerank import CrossEncoderRerankFunction, LexicalRerankFunction, register
from milvus_rerank.errors import InputError, RegistryError
from milvus_rerank.integrations.haystack import MilvusRerankRanker

pytestmark = pytest.mark.filterwarnings("default")  # frameworks warn of each other


def documents() -> list[Any]:
    return [
        Document(id=f"d{index}", content=text, meta={"tags": [index]}, score=0.5) for index, text in enumerate(TEXTS)
    ]


def pipeline(**options: Any) -> Any:
    made = Pipeline()
    made.add_component("ranker", MilvusRerankRanker(**options))
    return made


def run(made: Any) -> Any:
    return made.run({"ranker": {"query": QUERY, "documents": documents()}})["ranker"]["documents"]


def check(found: list[Any]) -> None:
    """Check that documents are ordered and scored as by the reranker itself, and are whole."""
    expected = direct()
    assert [document.id for document in found] == [f"d{index}" for index, _ in expected]
    assert [document.meta for document in found] == [{"tags": [index]} for index, _ in expected]
    assert [document.score for document in found] == pytest.approx([score for _, score in expected], abs=1e-6)


def test_a_pipeline_gives_the_rerankers_scores() -> None:
    check(run(pipeline()))


def test_an_asynchronous_run_gives_them_too_and_loses_nothing() -> None:
    made = pipeline()

    async def calls() -> list[Any]:
        data = [{"ranker": {"query": QUERY, "documents": documents()}} for _ in range(20)]
        return list(await asyncio.gather(*(made.run_async(one) for one in data)))

    found = asyncio.run(calls())
    assert len(found) == 20
    for one in found:
        check(one["ranker"]["documents"])


def test_the_documents_that_came_in_are_not_changed() -> None:
    given = documents()
    found = MilvusRerankRanker().run(query=QUERY, documents=given)["documents"]
    assert given == documents()
    assert not any(document is one for document in found for one in given)


def test_top_k_and_the_threshold_cut() -> None:
    scores = [score for _, score in direct()]
    assert len(run(pipeline(top_k=2))) == 2
    assert len(run(pipeline(score_threshold=scores[2]))) == 3
    ranker = MilvusRerankRanker(top_k=4)
    found = ranker.run(query=QUERY, documents=documents(), top_k=3, score_threshold=scores[1])
    assert len(found["documents"]) == 2
    assert MilvusRerankRanker().run(query=QUERY, documents=[]) == {"documents": []}


def test_of_documents_with_one_id_the_best_of_the_retrievers_stays() -> None:
    twice = [Document(id="a", content="bread", score=0.1), Document(id="a", content="ada", score=0.9)]
    [found] = MilvusRerankRanker().run(query=QUERY, documents=twice)["documents"]
    assert found.content == "ada"


def test_fields_of_meta_come_before_the_content_and_may_be_missing() -> None:
    ranker = MilvusRerankRanker(meta_fields_to_embed=["title", "year"], embedding_separator=" | ")
    given = [Document(content=TEXTS[1], meta={"title": "Programs", "year": 1843}), Document(content=TEXTS[3])]
    texts = [f"Programs | 1843 | {TEXTS[1]}", TEXTS[3]]
    found = ranker.run(query=QUERY, documents=given)["documents"]
    expected = CrossEncoderRerankFunction(device="cpu").score(QUERY, texts)
    assert [document.score for document in found] == pytest.approx(sorted(expected, reverse=True), abs=1e-6)


@pytest.mark.parametrize("fields", [[], ["title"]])
def test_the_best_part_of_a_long_document_is_in_meta(fields: list[str]) -> None:
    register("by-parts", by_parts, replace=True)
    given = Document(content=LONG_TEXT, meta={"title": "Chapter 7"})
    ranker = MilvusRerankRanker("by-parts", meta_fields_to_embed=fields)
    [found] = ranker.run(query=QUERY, documents=[given])["documents"]
    check_span(found.meta["relevance_span"], title="Chapter 7\n" if fields else "")
    assert given.meta == {"title": "Chapter 7"}


def test_a_pipeline_is_read_back_from_what_it_writes() -> None:
    options = {"device": "cpu"}
    made = pipeline(options=options, top_k=5, score_threshold=-20.0, meta_fields_to_embed=["title"], instruction=None)
    text = made.dumps()
    copy = Pipeline.loads(text)
    assert copy.dumps() == text
    ranker = copy.get_component("ranker")
    assert (ranker.options, ranker.top_k, ranker.score_threshold) == (options, 5, -20.0)
    check(run(copy))


def test_a_process_that_has_not_imported_the_adapter_must_allow_it(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text(pipeline().dumps())
    load = (
        "from haystack import Pipeline\nprint(Pipeline.loads(open('pipeline.yaml').read(){}).get_component('ranker'))"
    )
    for allowed, works in (("", False), (", allowed_modules=['milvus_rerank']", True)):
        command = [sys.executable, "-c", load.format(allowed)]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert (ran.returncode == 0) is works, ran.stderr
        assert works or DeserializationError.__name__ in ran.stderr


def test_the_model_is_loaded_by_warm_up_or_at_first_use() -> None:
    ranker = MilvusRerankRanker("nonsense")
    with pytest.raises(RegistryError, match="no reranker is named 'nonsense'"):
        ranker.warm_up()
    with pytest.raises(RegistryError, match="no reranker is named 'nonsense'"):
        ranker.run(query=QUERY, documents=documents())


def test_concurrent_first_runs_load_the_model_once() -> None:
    loads = []

    def lexical() -> Any:
        loads.append(1)
        return LexicalRerankFunction()

    register("counted", lexical, replace=True)
    ranker = MilvusRerankRanker("counted")

    async def calls() -> list[Any]:
        return list(await asyncio.gather(*(ranker.run_async(query=QUERY, documents=documents()) for _ in range(20))))

    assert [len(one["documents"]) for one in asyncio.run(calls())] == [len(TEXTS)] * 20
    assert len(loads) == 1


def test_wrong_options_say_what_is_expected() -> None:
    with pytest.raises(InputError, match="top_k must be a positive integer, got int: 0"):
        MilvusRerankRanker(top_k=0)
    with pytest.raises(InputError, match="top_k must be a positive integer, got int: -1"):
        MilvusRerankRanker().run(query=QUERY, documents=documents(), top_k=-1)
    with pytest.raises(InputError, match="model must be a name such as 'builtin/rerank'"):
        MilvusRerankRanker(CrossEncoderRerankFunction(device="cpu"))  # type: ignore[arg-type]


def test_a_picture_without_text_is_named() -> None:
    picture = Document(id="picture", blob=ByteStream(b"png", mime_type="image/png"))
    with pytest.raises(InputError, match=r"documents\[5\] \(id 'picture'\) has no text to rerank"):
        MilvusRerankRanker().run(query=QUERY, documents=[*documents(), picture])


def test_a_failing_reranker_is_the_cause_of_haystacks_own_error() -> None:
    class OutOfOrder:
        def score(self, query: str, documents: list[str]) -> list[float]:
            raise RuntimeError("out of order")

    register("out-of-order", OutOfOrder, replace=True)
    made = pipeline(model="out-of-order")
    with pytest.raises(PipelineRuntimeError, match="out of order") as caught:
        run(made)
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(PipelineRuntimeError, match="out of order"):
        asyncio.run(made.run_async({"ranker": {"query": QUERY, "documents": documents()}}))


def test_the_example_finds_the_first_program(tmp_path: Path) -> None:
    printed = run_example("haystack_rag.py", tmp_path)
    assert re.fullmatch(r"-?\d+\.\d\d  lovelace\n-?\d+\.\d\d  \w+\n", printed), printed

"""Full-text and hybrid search with several clients on a ``milvus-lite`` server: what old containers cannot do."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from milvus_fixtures import MILVUS_INDEX, SEARCH_RESULTS, embed, lite_server, make_docs
from present import present
from pymilvus import AsyncMilvusClient, MilvusClient
from two_stage_docs import ids

from milvus_rerank import RRF, Dense, FullText, Hybrid, LexicalRerankFunction, TwoStageSearch, Weighted
from milvus_rerank.errors import SearchError
from milvus_rerank.search.first_stage import FirstStage

HYBRID = Hybrid((Dense("dense"), FullText("sparse")))


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with lite_server(tmp_path_factory.mktemp("lite")) as (uri, _):
        writer = MilvusClient(uri)
        make_docs(writer)
        yield uri
        writer.close()


@pytest.fixture
def reader(lite: str) -> Iterator[MilvusClient]:
    client = MilvusClient(lite)
    yield client
    client.close()


def two_stage(client: Any, stage: FirstStage) -> TwoStageSearch:
    return TwoStageSearch(client, "docs", reranker=LexicalRerankFunction(), embed=embed, first_stage=stage)


def test_full_text_search_finds_the_words(reader: MilvusClient) -> None:
    first, second = two_stage(reader, FullText("sparse"))([SEARCH_RESULTS, "paris weather"], top_k=3)
    assert sorted(ids(first)) == ["d4", "d7", "d8"]
    assert [hit.score for hit in first] == [1.0, 1.0, 0.5]
    assert ids(second) == ["d0"]


@pytest.mark.parametrize("fusion", [RRF(), Weighted((0.5, 0.5))])
def test_hybrid_search_is_reranked(reader: MilvusClient, fusion: Any) -> None:
    search = two_stage(reader, Hybrid(HYBRID.searches, fusion))
    first, second = search([MILVUS_INDEX, SEARCH_RESULTS], top_k=2, candidates=9, output_fields=["year"])
    assert sorted(ids(first)) == ["d4", "d5"]
    assert sorted(ids(second)) == ["d7", "d8"]
    assert {present(hit.entity)["year"] for hit in second} == {2022, 2023}


def test_clients_of_both_kinds_at_once(lite: str, reader: MilvusClient) -> None:
    async def search() -> Any:
        client = AsyncMilvusClient(uri=lite)
        try:
            stages: list[FirstStage] = [Dense("dense"), FullText("sparse"), HYBRID] * 4
            return await asyncio.gather(
                *(two_stage(client, stage).asearch(SEARCH_RESULTS, top_k=2) for stage in stages),
                *(two_stage(reader, stage).asearch(SEARCH_RESULTS, top_k=2) for stage in stages),
            )
        finally:
            await client.close()

    answers = asyncio.run(search())
    assert [sorted(ids(answer)) for answer in answers] == [["d7", "d8"]] * 24


def test_a_server_that_is_gone_is_an_error_in_time(tmp_path: Path) -> None:
    with lite_server(tmp_path) as (uri, process):
        client = MilvusClient(uri)
        make_docs(client)
        assert sorted(ids(two_stage(client, HYBRID)(MILVUS_INDEX, top_k=2))) == ["d4", "d5"]
        process.kill()
        process.wait(10)
        started = time.monotonic()
        with pytest.raises(SearchError, match="Is the server running"):
            two_stage(client, HYBRID)(MILVUS_INDEX, timeout=3)
        assert time.monotonic() - started < 4
        client.close()

"""Shipped collection, shipped models, a real server: indexing, searching and reranking make a better order."""

from itertools import pairwise
from statistics import mean

import pytest
from present import present
from pymilvus import MilvusClient

from milvus_rerank import CrossEncoderRerankFunction, StaticEmbedder, TwoStageSearch
from milvus_rerank.evaluation import JudgedCollection, demo_folder, load_judged
from milvus_rerank.evaluation.metrics import ndcg
from milvus_rerank.indexing import describe, index_passages, open_search
from milvus_rerank.models.source import builtin_names

pytestmark = pytest.mark.skipif(
    not {"builtin/embed", "builtin/rerank"} <= set(builtin_names()), reason="the built-in models are not made yet"
)


@pytest.fixture(scope="module")
def embedder() -> StaticEmbedder:
    return StaticEmbedder()


@pytest.fixture(scope="module")
def reranker() -> CrossEncoderRerankFunction:
    return CrossEncoderRerankFunction("builtin/rerank", device="cpu")


@pytest.fixture(scope="module")
def judged() -> JudgedCollection:
    return load_judged(demo_folder())


@pytest.fixture(scope="module")
def history(client: MilvusClient, embedder: StaticEmbedder, judged: JudgedCollection) -> MilvusClient:
    report = index_passages(client, "history", judged.passages, embedder, batch_size=128)
    assert (report.written, report.total) == (len(judged.passages), len(judged.passages))
    return client


def test_indexing_again_writes_nothing(
    history: MilvusClient, embedder: StaticEmbedder, judged: JudgedCollection
) -> None:
    report = index_passages(history, "history", judged.passages, embedder, batch_size=128)
    assert (report.written, report.unchanged, report.total) == (0, len(judged.passages), len(judged.passages))


def test_reranking_raises_the_quality_of_the_order(
    history: MilvusClient, embedder: StaticEmbedder, reranker: CrossEncoderRerankFunction, judged: JudgedCollection
) -> None:
    queries = dict(list(judged.queries.items())[:20])
    search = open_search(history, describe(history, "history"), reranker=reranker, embedder=embedder)
    answers = search(list(queries.values()), top_k=None, candidates=15, output_fields=["title"])
    before, after = {}, {}
    for name, answer in zip(queries, answers, strict=True):
        found = sorted(answer, key=lambda hit: hit.index)
        assert [hit.index for hit in found] == list(range(15))
        assert all(present(one.distance) >= present(next_.distance) for one, next_ in pairwise(found))
        before[name], after[name] = [str(hit.id) for hit in found], [str(hit.id) for hit in answer]
    judgments = {name: judged.judgments[name] for name in queries}
    first, second = mean(ndcg(before, judgments).values()), mean(ndcg(after, judgments).values())
    assert second > first + 0.02, f"nDCG@10 {first:.3f} before, {second:.3f} after"


def test_fields_of_a_passage_come_back(
    history: MilvusClient, embedder: StaticEmbedder, reranker: CrossEncoderRerankFunction, judged: JudgedCollection
) -> None:
    search = TwoStageSearch(history, "history", reranker=reranker, embed=embedder.encode_queries)
    fields = ["title", "year", "topic"]
    answer = search("the first computer bug", top_k=3, candidates=10, filter="year < 1960", output_fields=fields)
    passages = {passage.id: passage for passage in judged.passages}
    for hit in answer:
        passage = passages[str(hit.id)]
        assert hit.text == passage.text
        assert hit.entity == {"text": passage.text, "title": passage.title, **passage.fields}
        assert hit.entity["year"] < 1960
    assert len(answer) == 3

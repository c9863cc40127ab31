"""Parts of a job: every document once and in order, about the same number of pairs, and queries put together again."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from milvus_rerank.cluster import stage
from milvus_rerank.cluster.merge import merge_group
from milvus_rerank.cluster.queries import QueryFields, QueryRow
from milvus_rerank.cluster.reranker import RerankerSpec
from milvus_rerank.cluster.scores import RowScores, order, score_rows
from milvus_rerank.cluster.stage import cut_parts, read_pieces, stage_file
from milvus_rerank.errors import ModelError
from milvus_rerank.reranker import BaseRerankFunction, LexicalRerankFunction

pytestmark = pytest.mark.needs("pyarrow", "fsspec")


def row(name: str, count: int, text: str = "t") -> QueryRow:
    return QueryRow(f"f:{name}", name, f"query {name}", tuple(map(str, range(count))), (text,) * count)


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_every_document_is_in_one_part_in_order(monkeypatch: pytest.MonkeyPatch, seed: int, split: bool) -> None:
    monkeypatch.setattr(stage, "PART_PAIRS", 10)
    monkeypatch.setattr(stage, "PART_CHARACTERS", 200)
    chance = random.Random(seed)
    rows = [row(str(number), chance.choice([0, 1, 3, 9, 10, 11, 35]), "t" * chance.choice([1, 30, 500]))
            for number in range(40)]  # fmt: skip
    parts = list(cut_parts(iter(rows), split=split))
    assert all(parts)
    found: dict[str, list[str]] = {}
    ended: list[str] = []
    for piece, last in (piece for part in parts for piece in part):
        assert piece.query_id not in ended, "a piece comes after its query's last"
        found.setdefault(piece.query_id, []).extend(piece.ids)
        if last:
            ended.append(piece.query_id)
    assert found == {each.query_id: list(each.ids) for each in rows}
    assert ended == [each.query_id for each in rows]
    if split:
        assert max(sum(len(piece.ids) for piece, _ in part) for part in parts) <= 10
        for part in parts:
            texts = [text for piece, _ in part for text in piece.texts]
            assert sum(map(len, texts)) <= 200 or len(texts) == 1
    else:
        assert all(last for part in parts for _, last in part)


def test_a_query_with_very_many_documents_is_spread_over_parts_and_put_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import pyarrow.parquet

    monkeypatch.setattr(stage, "PART_PAIRS", 7)
    counts = {"a": 3, "b": 50, "c": 2, "d": 7, "e": 0}
    rows: list[Any] = [
        {"query_id": name, "query": "w1 w2", "documents": [f"w{(7 * n) % 5} w{n % 3}" for n in range(count)]}
        for name, count in counts.items()
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    staged = stage_file(3, str(tmp_path / "in.jsonl"), QueryFields(), tmp_path / "staged", split=True)
    assert (staged.rows, staged.failed, staged.pairs) == (5, 0, 62)
    assert len(staged.groups[0]) > 7
    assert [part for group in staged.groups for part in group] == list(staged.parts)
    reranker = LexicalRerankFunction()
    for part in staged.parts:
        scored = score_rows(reranker, [piece for piece, _ in read_pieces(tmp_path / "staged" / part)])
        target = tmp_path / "scored" / part
        target.parent.mkdir(parents=True, exist_ok=True)
        columns = {"scores": [s.scores for s in scored], "seconds": [0.5] * len(scored), "error": [""] * len(scored)}
        pyarrow.parquet.write_table(pyarrow.table(columns), target)
    pairs = 0
    for number, group in enumerate(staged.groups):
        pairs += merge_group(tmp_path / "staged", tmp_path / "scored", group, tmp_path / "out" / str(number), "jsonl")
    assert pairs == 62
    results = {}
    for path in (tmp_path / "out").glob("*.jsonl"):
        for line in path.read_text().splitlines():
            results[json.loads(line)["query_id"]] = json.loads(line)
    for each in rows:
        expected = reranker(each["query"], each["documents"], top_k=None)
        assert results[each["query_id"]]["ids"] == [str(result.index) for result in expected]
        assert results[each["query_id"]]["scores"] == [result.score for result in expected]
        assert results[each["query_id"]]["ranks"] == list(range(1, len(expected) + 1))


class Picky(BaseRerankFunction):
    """Fail on some texts."""

    def __init__(self) -> None:
        self.calls = 0

    def score_requests(self, requests: Any, stop: Any) -> list[list[float]]:
        self.calls += 1
        if any("bad" in text for _, texts in requests for text in texts):
            raise RuntimeError("cannot\nread this")
        return [[float(len(text)) for text in texts] for _, texts in requests]


def test_a_row_that_fails_does_not_fail_the_others() -> None:
    rows = [row("a", 2), row("b", 1, "bad"), QueryRow("f:3", error="is not JSON"), row("c", 1, "long")]
    reranker = Picky()
    scores = score_rows(reranker, rows)
    assert [each.error for each in scores] == ["", "RuntimeError: cannot read this", "is not JSON", ""]
    assert [list(each.scores) for each in scores] == [[1.0, 1.0], [], [], [4.0]]
    assert reranker.calls == 4


def test_calls_hold_a_bounded_number_of_pairs() -> None:
    reranker = Picky()
    score_rows(reranker, [row(str(number), 1500) for number in range(4)])
    assert reranker.calls == 2


def test_a_model_that_cannot_be_used_ends_the_job() -> None:
    class Broken(Picky):
        def score_requests(self, requests: Any, stop: Any) -> list[list[float]]:
            raise ModelError("no such model")

    with pytest.raises(ModelError):
        score_rows(Broken(), [row("a", 1)])


def test_order_is_by_score_then_position() -> None:
    assert order([0.5, None, 2.0, 0.5]) == [2, 0, 3]
    assert RowScores().error == ""


def test_the_record_of_a_job_holds_no_secret() -> None:
    options = {
        "api_key": "secret",
        "client": object(),
        "base_url": "http://h",
        "timeout": 5,
        "headers": {"x": "secret"},
    }
    assert RerankerSpec("tei", None, options).to_dict() == {
        "name": "tei", "model": None, "options": {"base_url": "http://h", "timeout": 5}
    }  # fmt: skip

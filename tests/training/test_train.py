"""Fine-tuning on a task that a tiny model can learn, and on one that nothing can."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_embedder import passage_texts, save_embedder, write_beir
from tiny_models import save_tiny_model
from tiny_task import MARK, queries, save_base

from milvus_rerank import load
from milvus_rerank.embedding import StaticEmbedder
from milvus_rerank.errors import InputError, ModelError
from milvus_rerank.evaluation import JudgedQueries, load_judged
from milvus_rerank.indexing import describe, index_passages, open_client, open_search
from milvus_rerank.training import TrainingOptions, TrainingQuery, collect_queries, train_on
from milvus_rerank.training.examples import folds, make_examples

pytestmark = pytest.mark.needs("torch", "sentence_transformers", "accelerate", "datasets", "ir_measures", "scipy")

QUICK = TrainingOptions(folds=2, loss="lambda", learning_rate=2e-3, epochs=6, device="cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_base(tmp_path_factory.mktemp("base") / "model"))


@pytest.mark.filterwarnings("ignore")  # of the trainer's packages
def test_a_model_that_is_better_on_held_out_queries_is_written(base: str, tmp_path: Path) -> None:
    steps: list[str] = []
    report = train_on(queries(20), base, tmp_path / "out", QUICK, progress=lambda step, done, total: steps.append(step))
    assert report.written
    assert report.gain > 0.1
    assert report.interval[0] > 0
    assert len(report.after) == 20
    assert list(dict.fromkeys(steps)) == ["Part 1 of 2", "Part 2 of 2", "All queries"]
    reranker = load(tmp_path / "out", device="cpu")
    assert reranker.scorer.engine.name != "torch"  # type: ignore[attr-defined]
    unseen = queries(10, seed=5)
    marked = [[MARK in text for text in query.texts.values()] for query in unseen]
    best = [reranker.score(query.text, list(query.texts.values())) for query in unseen]
    firsts = [flags[scores.index(max(scores))] for flags, scores in zip(marked, best, strict=True)]
    assert sum(firsts) >= 8
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["gain"] == report.gain
    assert f"{report.gain:+.4f}" in (tmp_path / "out" / "README.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.filterwarnings("ignore")
def test_nothing_is_written_if_there_is_nothing_to_learn(base: str, tmp_path: Path) -> None:
    report = train_on(queries(20, mark=None, seed=2), base, tmp_path / "out", QUICK)
    assert not report.written
    assert report.interval[0] <= 0
    assert "nothing is written" in str(report)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore")
def test_a_training_that_was_cut_off_goes_on(base: str, tmp_path: Path) -> None:
    def cut(step: str, done: int, total: int) -> None:
        if step == "Part 2 of 2" and done > total // 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_on(queries(20), base, tmp_path / "out", QUICK, progress=cut)
    work = tmp_path / ".out.training"
    assert (work / "part-0.json").is_file()
    assert list((work / "fold-1" / "checkpoints").glob("checkpoint-*"))
    steps: list[tuple[str, int]] = []
    report = train_on(
        queries(20), base, tmp_path / "out", QUICK, progress=lambda step, done, total: steps.append((step, done))
    )
    assert report.written
    assert steps[0][0] == "Part 2 of 2"
    assert steps[0][1] > 1
    assert not work.exists()


@pytest.mark.filterwarnings("ignore")
def test_a_single_test_writes_the_model_that_was_tested_and_a_teacher_is_learnt_from(base: str, tmp_path: Path) -> None:
    class Teacher:
        def score(self, query: str, texts: list[str]) -> list[float]:
            return [4.0 if MARK in text else -4.0 for text in texts]

    from milvus_rerank.reranker.custom import wrap

    options = TrainingOptions(folds=1, learning_rate=2e-3, epochs=12, patience=20, device="cpu")
    report = train_on(queries(60), base, tmp_path / "out", options, teacher=wrap(Teacher(), "teacher"))
    assert len(report.after) == 12
    assert report.gain > 0
    assert report.written == (report.interval[0] > 0)


def test_a_query_is_in_one_part_and_parts_are_of_equal_size() -> None:
    parts = folds(queries(11), 3, seed=1)
    assert sorted(map(len, parts)) == [3, 4, 4]
    assert sorted(int(query.name) for part in parts for query in part) == list(range(11))


def test_examples_are_relevant_documents_with_hard_middling_and_random_others() -> None:
    known = queries(4)
    examples = make_examples(known, TrainingOptions(negatives=6), None, None)
    own = {query.text: set(query.texts.values()) for query in known}
    for query in known:
        labels = [example.label for example in examples if example.query == query.text]
        assert (labels.count(1.0), labels.count(0.0)) == (2, 12)
        others = [text for e in examples if e.query == query.text and (text := e.text) not in own[query.text]]
        assert len(others) == 4  # eight hits are not relevant; random documents take the place of the ninth
        relevant = {query.texts[name] for name in query.relevant}
        assert all(
            (example.text in relevant) == (example.label == 1.0) for example in examples if example.query == query.text
        )


def test_an_unjudged_document_that_scores_like_the_relevant_ones_is_left_out() -> None:
    texts = {"good": "good", "hidden": "hidden", "judged": "judged", "bad": "bad"}
    query = TrainingQuery("q", "q", tuple(texts), {"good": 1, "judged": 0}, texts)
    scores = {"good": 3.0, "hidden": 3.0, "judged": 3.0, "bad": -3.0}

    def judge(_: str, given: list[str]) -> list[float]:
        return [scores[text] for text in given]

    options = TrainingOptions(negatives=3, margin=0.05)
    assert {example.text for example in make_examples([query], options, None, None)} == set(texts)
    chosen = {example.text for example in make_examples([query], options, None, judge)}
    assert chosen == {"good", "judged", "bad"}


def test_relevant_documents_are_fetched_if_the_first_stage_missed_them(tmp_path: Path) -> None:
    judged = load_judged(write_beir(tmp_path / "small"))
    embedder = StaticEmbedder(str(save_embedder(tmp_path / "embedder", passage_texts())))
    asked = JudgedQueries(
        "small",
        {"q1": "programming language", "q2": "moon", "q3": "nothing", "q4": "unjudged"},
        {"q1": {"python": 2, "moon": 1, "bug": 0}, "q2": {"moon": 1, "gone": 1}, "q3": {"python": 0}},
    )
    with open_client(str(tmp_path / "small.db")) as client:
        index_passages(client, "small", judged.passages, embedder)
        search = open_search(client, describe(client, "small"), embedder=embedder)
        found, notes = collect_queries(search, asked, candidates=2)
    assert [query.name for query in found] == ["q1", "q2"]
    assert [len(query.hits) for query in found] == [2, 2]
    assert found[0].relevant == ["python", "moon"]
    assert found[0].texts["moon"] == found[1].texts["moon"]
    assert found[1].relevant == ["moon"]
    assert notes == [
        "The collection lacks 1 relevant documents: they are not learnt from.",
        "2 of 4 queries have no relevant document and are left out.",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be a positive number"),
        ({"learning_rate": "fast"}, "learning_rate must be a positive number"),
        ({"margin": 1.5}, "margin must be from 0 to below 1"),
        ({"folds": 0}, "folds must be a positive integer"),
        ({"loss": "hinge"}, "loss must be one of 'binary', 'lambda'"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainingOptions(**options)


def test_too_few_queries_and_a_full_folder_are_refused_before_any_work(base: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 10 queries with a relevant document, got 9"):
        train_on(queries(9), base, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match="holds other files"):
        train_on(queries(20), base, tmp_path / "full")
    model = save_tiny_model("bert", tmp_path / "three", labels=3)
    with pytest.raises(ModelError, match="has 3 labels; training takes a cross-encoder with one label"):
        train_on(queries(20), str(model), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / ".out.training").exists()

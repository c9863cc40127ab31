"""rank and predict, against sentence-transformers' CrossEncoder on the same weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milvus_rerank import (
    CascadeRerankFunction,
    Chunks,
    CrossEncoderRerankFunction,
    LexicalRerankFunction,
)
from milvus_rerank.errors import InputError, RerankError

QUERY = "who proposed a test"
TEXTS = [
    "turing proposed a test in 1950",
    "the quick brown fox",
    "",
    "a test of intelligence " * 40,
    "the quick brown fox",
]
PAIRS = [[QUERY, text] for text in TEXTS] + [["what is a fox", "the quick brown fox"]]
LEXICAL = LexicalRerankFunction()


@pytest.fixture(scope="module")
def reranker(tiny: dict[str, Path]) -> CrossEncoderRerankFunction:
    return CrossEncoderRerankFunction(str(tiny["bert"]), device="cpu")


@pytest.fixture(scope="module")
def peer(tiny: dict[str, Path]) -> Any:
    return pytest.importorskip("sentence_transformers").CrossEncoder(str(tiny["bert"]), device="cpu")


@pytest.mark.needs("torch")
def test_predict_returns_what_cross_encoder_returns(reranker: CrossEncoderRerankFunction, peer: Any) -> None:
    import torch

    calls: list[dict[str, Any]] = [
        {},
        {"batch_size": 2, "show_progress_bar": False, "apply_softmax": True, "device": "cpu"},
        {"activation_fn": torch.nn.Sigmoid()},
        {"activation_fn": torch.nn.Identity()},
        {"activation_fn": torch.nn.Sigmoid(), "convert_to_tensor": True},
        {"convert_to_numpy": False},
        {"convert_to_numpy": True, "convert_to_tensor": True},
    ]
    for options in calls:
        for inputs in (PAIRS, [tuple(pair) for pair in PAIRS], np.array(PAIRS), PAIRS[0], tuple(PAIRS[0]), []):
            ours, theirs = reranker.predict(inputs, **options), peer.predict(inputs, **options)
            assert type(ours) is type(theirs), (options, inputs)
            if isinstance(theirs, list):
                assert [(type(score), score.shape) for score in ours] == [(type(one), one.shape) for one in theirs]
                ours, theirs = torch.tensor(ours), torch.tensor(theirs)
            assert ours.shape == theirs.shape
            assert ours.dtype == theirs.dtype or not len(np.atleast_1d(ours))  # numpy's empty array is of float64
            np.testing.assert_allclose(ours, theirs, atol=2e-6)
    spread = np.ptp(peer.predict(PAIRS))
    assert spread > 1e-4, "the reference does not tell pairs apart"


@pytest.mark.needs("torch")
def test_rank_returns_what_cross_encoder_returns(reranker: CrossEncoderRerankFunction, peer: Any) -> None:
    import torch

    for options in ({}, {"top_k": 2}, {"return_documents": True}, {"activation_fn": torch.nn.Sigmoid(), "top_k": 9}):
        ours, theirs = reranker.rank(QUERY, TEXTS, **options), peer.rank(QUERY, TEXTS, **options)
        assert [{**one, "score": 0} for one in ours] == [{**one, "score": 0} for one in theirs]
        assert [one["score"] for one in ours] == pytest.approx([one["score"] for one in theirs], abs=2e-6)
        assert {type(one["score"]) for one in ours} == {float}
    assert reranker.rank(QUERY, []) == peer.rank(QUERY, []) == []


def test_scores_are_those_of_the_call(reranker: CrossEncoderRerankFunction) -> None:
    found = reranker(QUERY, TEXTS, top_k=0)
    ranked = reranker.rank(QUERY, TEXTS, return_documents=True)
    assert ranked == [{"corpus_id": one.index, "score": one.score, "text": one.text} for one in found]
    predicted = reranker.predict(PAIRS[:5])
    assert predicted.dtype == np.float32
    assert predicted[[one.index for one in found]].tolist() == [float(np.float32(one.score)) for one in found]
    assert reranker.predict(PAIRS[0]) == predicted[0]


def test_every_reranker_has_them(tiny: dict[str, Path]) -> None:
    assert LEXICAL.rank("a dog", ["cat", "dog", "a dog"], top_k=2) == [
        {"corpus_id": 2, "score": 1.0},
        {"corpus_id": 1, "score": 0.5},
    ]
    np.testing.assert_array_equal(
        LEXICAL.predict([("a dog", "dog"), ("cat", "cat")]), np.array([0.5, 1.0], dtype=np.float32)
    )
    cascade = CascadeRerankFunction([(LEXICAL, 2), (str(tiny["bert"]), None)])
    ranked = cascade.rank(QUERY, TEXTS)
    assert [one["corpus_id"] for one in ranked] == [one.index for one in cascade(QUERY, TEXTS, top_k=0)]
    chunks = CrossEncoderRerankFunction(str(tiny["bert"]), device="cpu", long=Chunks(overlap=4))
    pairs = [(query, text) for query, text in PAIRS]
    np.testing.assert_array_equal(chunks.predict(PAIRS), np.array(chunks.score_pairs(pairs), dtype=np.float32))


class OldRerank:
    """Rerank a run as evaluation code does that was written for CrossEncoder: pairs of all queries in one list."""

    def __init__(self, cross_encoder: Any) -> None:
        self.cross_encoder = cross_encoder

    def rerank(self, corpus: dict[str, str], queries: dict[str, str], run: dict[str, dict[str, float]]) -> Any:
        names = [(query, doc) for query, scores in run.items() for doc in scores]
        pairs = [[queries[query], corpus[doc]] for query, doc in names]
        scores = [float(score) for score in self.cross_encoder.predict(pairs, batch_size=128)]
        reranked: dict[str, dict[str, float]] = {query: {} for query in run}
        for (query, doc), score in zip(names, scores, strict=True):
            reranked[query][doc] = score
        return reranked


def test_code_that_reranks_runs_with_a_cross_encoder_goes_on(reranker: CrossEncoderRerankFunction, peer: Any) -> None:
    corpus = {str(number): text for number, text in enumerate(TEXTS)}
    queries = {"q1": QUERY, "q2": "what is a fox"}
    run = {"q1": dict.fromkeys("01234", 0.5), "q2": dict.fromkeys("410", 0.5)}
    ours, theirs = (OldRerank(model).rerank(corpus, queries, run) for model in (reranker, peer))
    assert list(ours) == list(theirs)
    for query, scores in theirs.items():
        assert ours[query] == pytest.approx(scores, abs=2e-6)


@pytest.mark.needs("torch")
def test_former_names_of_arguments_are_understood(reranker: CrossEncoderRerankFunction) -> None:
    import torch

    expected = reranker.predict(PAIRS, activation_fn=torch.nn.Sigmoid()).tolist()
    found = reranker.predict(sentences=PAIRS, activation_fct=torch.nn.Sigmoid(), num_workers=4, chunk_size=8)
    assert found.tolist() == expected
    assert expected != reranker.predict(PAIRS).tolist()
    former: Any = {"num_workers": 1, "apply_softmax": True, "convert_to_numpy": False, "convert_to_tensor": True}
    ranked = reranker.rank(QUERY, TEXTS, activation_fct=torch.nn.Sigmoid(), **former)
    assert ranked == reranker.rank(QUERY, TEXTS, activation_fn=torch.nn.Sigmoid())
    assert ranked != reranker.rank(QUERY, TEXTS)


def test_a_progress_bar_is_shown_on_request_and_only_for_this_call(
    tiny: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = CrossEncoderRerankFunction(str(tiny["bert"]), device="cpu")
    expected = quiet.score(QUERY, TEXTS)
    assert capsys.readouterr().err == ""
    assert [one["score"] for one in quiet.rank(QUERY, TEXTS, show_progress_bar=True)] == sorted(expected)[::-1]
    assert "4/4" in capsys.readouterr().err, "distinct pairs"
    quiet.predict(PAIRS)
    assert capsys.readouterr().err == ""
    loud = CrossEncoderRerankFunction(str(tiny["bert"]), device="cpu", show_progress=True)
    loud.predict(PAIRS, show_progress_bar=False)
    assert "rerank" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda one: one.predict(PAIRS, 64), "prompt_name must be None, got int: 64; pass the text, prompt="),
        (lambda one: one.rank(QUERY, TEXTS, prompt="find"), "takes no instruction, got str: 'find'"),
        (lambda one: one.predict(PAIRS, pool={}), "neither pool nor a list of devices"),
        (lambda one: one.predict(PAIRS, device=["cpu", "cuda"]), "neither pool nor a list of devices"),
        (
            lambda one: one.predict(PAIRS, device="cuda"),
            "the model is on cpu, got device='cuda'; pass device=... where",
        ),
        (lambda one: one.predict(PAIRS, batch_size=0), "batch_size must be a positive integer, got int: 0"),
        (lambda one: one.predict(PAIRS, sentences=PAIRS), "sentences is the former name of inputs; pass only inputs"),
        (lambda one: one.predict(), "pairs must be a list of .query, document. pairs, got NoneType"),
        (lambda one: one.predict("a text"), "pairs must be a list of .* got a single string"),
        (lambda one: one.predict([("q", "a", "b")]), r"pairs\[0\] must be a \(query, document\) pair of strings"),
        (lambda one: one.predict([QUERY]), r"pairs\[0\] must be a \(query, document\) pair"),
        (lambda one: one.rank(QUERY, "text"), "documents must be a list of strings, got a single string"),
        (lambda one: one.rank(QUERY, ["a", 5]), r"documents\[1\] must be a string, got int"),
        (lambda one: one.rank(QUERY, TEXTS, top_k=-1), "top_k must not be negative"),
        (lambda one: one.predict(PAIRS, activation_fn="softly"), "activation_fct must be one of"),
    ],
)
def test_arguments_that_cannot_be_used_say_what_to_type(
    reranker: CrossEncoderRerankFunction, call: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        call(reranker)


def test_rerankers_without_logits_refuse_an_activation() -> None:
    with pytest.raises(InputError, match=r"LexicalRerankFunction has no logits to apply activation_fn to; normalize\("):
        LEXICAL.predict(PAIRS, activation_fn=abs)


def test_softmax_over_labels_needs_a_model_that_was_loaded_for_it(tmp_path: Path) -> None:
    from tiny_models import save_tiny_model

    folder = str(save_tiny_model("bert", tmp_path / "labels", labels=3, activation=None))
    with pytest.raises(RerankError, match=r"gives that of label 1; load it with activation_fct='softmax'"):
        CrossEncoderRerankFunction(folder, device="cpu", label=1).predict(PAIRS, apply_softmax=True)
    softmax = CrossEncoderRerankFunction(folder, device="cpu", label=1, activation_fct="softmax")
    peer = pytest.importorskip("sentence_transformers").CrossEncoder(folder, device="cpu")
    expected = peer.predict(PAIRS, apply_softmax=True)[:, 1]
    np.testing.assert_allclose(softmax.predict(PAIRS, apply_softmax=True), expected, atol=2e-6)

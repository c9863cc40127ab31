"""The models that the package ships: their size, their scores, and what they are good for."""

import dataclasses
import itertools
import os
import re
from pathlib import Path

import numpy as np
import pytest
from pair_texts import QUERIES, TEXTS
from present import present

from milvus_rerank import BGERerankFunction, CrossEncoderRerankFunction, StaticEmbedder
from milvus_rerank.evaluation import load_judged, run_demo
from milvus_rerank.models import builtin_names, model_folder

pytestmark = pytest.mark.compat

CRANFIELD = Path(os.environ.get("MILVUS_RERANK_COLLECTIONS", "none")) / "cranfield"
TURING = "Alan Turing described a universal machine in 1936."
BREAD = "Knead the dough, let it rest for an hour, then bake it."


@pytest.fixture(scope="module")
def reranker() -> CrossEncoderRerankFunction:
    return CrossEncoderRerankFunction(device="cpu")


def test_two_models_of_at_most_22_mb_come_with_the_package() -> None:
    assert builtin_names() == ["builtin/embed", "builtin/rerank"]
    folders = [model_folder(name) for name in builtin_names()]
    assert sum(path.stat().st_size for folder in folders if folder for path in folder.rglob("*")) <= 22e6


def test_each_has_a_card_with_data_licences_and_figures() -> None:
    for name in builtin_names():
        folder = model_folder(name)
        assert folder is not None
        card = (folder / "README.md").read_text(encoding="utf-8")
        for word in ("Apache-2.0", "nDCG@10", "training/"):
            assert word in card, f"{name}: the card lacks {word!r}"
        assert re.search(r"\| cranfield \| 225 \| 0\.\d{4} \|", card), f"{name}: the card lacks its figures"
        assert not re.search(r"@[A-Z]+@|TODO", card)


def test_the_reranker_scores_as_sentence_transformers_does_on_every_engine() -> None:
    from sentence_transformers import CrossEncoder

    pairs = list(itertools.product(QUERIES[:3], TEXTS))
    reference = CrossEncoder(str(model_folder("builtin/rerank")), device="cpu", model_kwargs={"dtype": "float32"})
    expected = reference.predict(pairs, show_progress_bar=False)
    for engine in ("torch", "onnx", "openvino"):
        scores = CrossEncoderRerankFunction(device="cpu", engine=engine).score_pairs(pairs)
        np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0, err_msg=engine)


def test_the_quickest_precision_keeps_the_order(reranker: CrossEncoderRerankFunction) -> None:
    quick = CrossEncoderRerankFunction(device="cpu", dtype="auto")
    scores, expected = (one.score("who described a universal machine", TEXTS) for one in (quick, reranker))
    in_its_order = np.array(expected)[np.argsort(scores)[::-1]]
    assert np.diff(in_its_order).max() < 0.05  # only texts of all but the same score change places
    np.testing.assert_allclose(scores, expected, atol=0.05)


def test_the_reranker_prefers_the_answer(reranker: CrossEncoderRerankFunction) -> None:
    found = reranker("who described a universal machine", [BREAD, TURING])
    assert found[0].index == 1
    assert present(found[0].score) > present(found[1].score) + 1


def test_both_functions_order_alike(reranker: CrossEncoderRerankFunction) -> None:
    documents = [BREAD, TURING, "A kneading machine was patented in 1868.", "Universal Studios opened in 1912."]
    order = [result.index for result in reranker("universal machine 1936", documents)]
    bge = BGERerankFunction("builtin/rerank", device="cpu")("universal machine 1936", documents)
    assert [result.index for result in bge] == order
    assert all(0 < present(result.score) < 1 for result in bge)


def test_the_embedder_gives_unit_vectors_near_for_related_texts() -> None:
    embedder = StaticEmbedder()
    vectors = embedder.encode_documents([TURING, BREAD, ""])
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, embedder.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 0], atol=1e-6)
    query = embedder.encode_queries(["who was Turing"])[0]
    assert query @ vectors[0] > query @ vectors[1] + 0.1


@pytest.mark.skipif(not CRANFIELD.is_dir(), reason="MILVUS_RERANK_COLLECTIONS names no folder with cranfield in it")
def test_reranking_improves_cranfield(reranker: CrossEncoderRerankFunction, tmp_path: Path) -> None:
    judged = load_judged(CRANFIELD)
    # 9 of the 225 queries, evenly spread: all of them take minutes; benchmarks/quality.py measures all.
    some = {name: judged.queries[name] for name in list(judged.queries)[::25]}
    part = dataclasses.replace(judged, queries=some, judgments={name: judged.judgments[name] for name in some})
    report = run_demo(part, tmp_path / "c.db", StaticEmbedder(), reranker, reranker_name="builtin/rerank")
    assert len(report.comparison.queries) == 9
    assert report.comparison.ndcg_after >= report.comparison.ndcg_before + 0.02

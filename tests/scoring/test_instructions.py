"""An instruction per call: the scores of a model that was loaded with it, and an error from all that take none."""

import asyncio
import itertools
import pickle
from pathlib import Path
from typing import Any

import pytest
from serving import serving
from tiny_decoders import ROLES, save_causal_model, save_last_token_classifier

from milvus_rerank import BGERerankFunction, CrossEncoderRerankFunction
from milvus_rerank.cascade import CascadeRerankFunction
from milvus_rerank.errors import InputError
from milvus_rerank.reranker.base import BaseRerankFunction
from milvus_rerank.reranker.lexical import LexicalRerankFunction
from milvus_rerank.scoring.caches import ScoreCache

pytestmark = pytest.mark.compat

QUERY = "who barks?"
TEXTS = ["A dog barks.", "A cat sleeps.", "Stones are silent."]
INSTRUCTIONS = ("Is it about dogs?", "Is it about stones?")
GEMMA = Path(__file__).parents[1] / "flag_embedding" / "bge-reranker-v2-gemma"
DEAF = ROLES.replace("'system'", "'nobody'")  # a template that leaves the instruction out


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("instructed")
    answers = ("1", "0")
    mxbai = root / "mixedbread-ai" / "mxbai-rerank-base-v2"
    return {
        "roles": save_causal_model("qwen3", root / "roles"),
        "none": save_causal_model("qwen3", root / "none", template=None),
        "deaf": save_causal_model("qwen3", root / "deaf", template=DEAF),
        "classifier": save_last_token_classifier(root / "classifier", pad=True, template=ROLES),
        "mxbai": save_causal_model("qwen2", mxbai, template=None, answers=answers),
    }


def load(folder: Path, **options: Any) -> CrossEncoderRerankFunction:
    return CrossEncoderRerankFunction(str(folder), device="cpu", **options)


@pytest.mark.parametrize("name", ["roles", "none", "classifier", "mxbai"])
def test_scores_are_those_of_a_model_loaded_with_the_instruction(folders: dict[str, Path], name: str) -> None:
    reranker = load(folders[name])
    plain = reranker.score(QUERY, TEXTS)
    seen = [plain]
    for instruction in INSTRUCTIONS:
        expected = load(folders[name], prompt=instruction).score(QUERY, TEXTS)
        assert reranker.score(QUERY, TEXTS, instruction=instruction) == pytest.approx(expected, abs=1e-6)
        seen.append(expected)
    assert reranker.score(QUERY, TEXTS) == plain, "an instruction stays after its call"
    assert all(max(map(abs, map(float.__sub__, a, b))) > 1e-5 for a, b in itertools.combinations(seen, 2))


def test_bge_gemma_is_asked_another_question() -> None:
    expected = BGERerankFunction(str(GEMMA), device="cpu", use_fp16=False, prompt="Is it so?").score(QUERY, TEXTS)
    reranker = BGERerankFunction(str(GEMMA), device="cpu", use_fp16=False)
    assert reranker.score(QUERY, TEXTS) != pytest.approx(expected, abs=1e-5)
    assert reranker.score(QUERY, TEXTS, instruction="Is it so?") == pytest.approx(expected, abs=1e-6)


def test_every_method_takes_it(folders: dict[str, Path]) -> None:
    reranker, instruction = load(folders["roles"], score_cache=ScoreCache()), INSTRUCTIONS[1]
    expected = load(folders["roles"], prompt=instruction).score(QUERY, TEXTS)
    plain = reranker.score(QUERY, TEXTS)  # in the cache, where an instruction's scores must not be mixed up with it
    hits = [{"id": index, "text": text} for index, text in enumerate(TEXTS)]
    pairs = [(QUERY, text) for text in TEXTS]

    def by_index(results: Any) -> list[float]:
        return [result.score for result in sorted(results, key=lambda result: result.index)]

    ranked = reranker.rank(QUERY, TEXTS, prompt=instruction)
    found = {
        "call": by_index(reranker(QUERY, TEXTS, instruction=instruction)),
        "rerank": by_index(reranker.rerank(QUERY, TEXTS, instruction=instruction)),
        "predict": reranker.predict(pairs, prompt=instruction, activation_fn=None).tolist(),
        "rank": [row["score"] for row in sorted(ranked, key=lambda row: row["corpus_id"])],
        "pairs": reranker.score_pairs(pairs, instruction=instruction),
        "many": by_index(reranker.rerank_many([QUERY], [TEXTS], instruction=instruction)[0]),
        "hits": by_index(reranker.rerank_hits(QUERY, hits, instruction=instruction)),
        "result": by_index(reranker.rerank_search_result([QUERY], [hits], instruction=instruction)[0]),
    }

    async def awaited() -> dict[str, Any]:
        return {
            "arerank": by_index(await reranker.arerank(QUERY, TEXTS, instruction=instruction)),
            "ascore": await reranker.ascore(QUERY, TEXTS, instruction=instruction),
            "ascore_pairs": await reranker.ascore_pairs(pairs, instruction=instruction),
            "amany": by_index((await reranker.arerank_many([QUERY], [TEXTS], instruction=instruction))[0]),
            "ahits": by_index(await reranker.arerank_hits(QUERY, hits, instruction=instruction)),
            "aresult": by_index((await reranker.arerank_search_result([QUERY], [hits], instruction=instruction))[0]),
        }

    for name, scores in (found | asyncio.run(awaited())).items():
        assert scores == pytest.approx(expected, abs=1e-6), name
    assert reranker.score(QUERY, TEXTS) == plain


def test_a_reranker_with_an_instruction_is_pickled_with_it(folders: dict[str, Path]) -> None:
    instructed = load(folders["roles"]).with_instruction(INSTRUCTIONS[0])
    expected = instructed.score(QUERY, TEXTS)
    assert pickle.loads(pickle.dumps(instructed)).score(QUERY, TEXTS) == pytest.approx(expected, abs=1e-6)
    other = instructed.with_instruction(INSTRUCTIONS[1]).score(QUERY, TEXTS)
    assert other == pytest.approx(load(folders["roles"], prompt=INSTRUCTIONS[1]).score(QUERY, TEXTS), abs=1e-6)


def test_only_as_many_encoders_as_needed_are_kept(folders: dict[str, Path]) -> None:
    reranker = load(folders["roles"])
    first = reranker.with_instruction("0").scorer
    assert reranker.with_instruction("0").scorer is first
    for number in range(1, 20):
        reranker.with_instruction(str(number))
    assert reranker.with_instruction("0").scorer is not first


class Plain(LexicalRerankFunction):
    """A reranker of a user's own."""


@pytest.mark.parametrize("make", [lambda: CrossEncoderRerankFunction("builtin/rerank", device="cpu"), Plain])
def test_a_reranker_that_takes_none_says_so(make: Any) -> None:
    reranker: BaseRerankFunction = make()
    assert not reranker.takes_instruction
    with pytest.raises(InputError, match=r"takes no instruction, got str: 'find'; leave it out, or use a model that"):
        reranker(QUERY, TEXTS, instruction="find")
    with pytest.raises(InputError, match="takes no instruction"):
        asyncio.run(reranker.arerank(QUERY, TEXTS, instruction="find"))


def test_a_template_that_leaves_instructions_out_says_so(folders: dict[str, Path]) -> None:
    reranker = load(folders["deaf"])
    assert reranker.score(QUERY, TEXTS)
    with pytest.raises(InputError, match=r"the chat template of model .* leaves instructions out"):
        reranker(QUERY, TEXTS, instruction="find")
    with pytest.raises(InputError, match=r"the chat template of model .* leaves instructions out"):
        load(folders["deaf"], prompt="find")


@pytest.mark.parametrize("wrong", [5, ["find"], "\ud800"])
def test_an_instruction_is_a_text(folders: dict[str, Path], wrong: Any) -> None:
    with pytest.raises(InputError, match=r"^instruction "):
        load(folders["roles"])(QUERY, TEXTS, instruction=wrong)


def test_an_instruction_that_fills_the_prompt_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="leaves no room beside the prompt's own"):
        load(folders["roles"])(QUERY, TEXTS, instruction="Is it about dogs? " * 200)


def test_in_a_cascade_the_stages_that_take_it_get_it(folders: dict[str, Path]) -> None:
    cascade = CascadeRerankFunction([("lexical", 3), (load(folders["roles"]), 3)])
    expected = load(folders["roles"], prompt=INSTRUCTIONS[0]).score(QUERY, TEXTS)
    results = cascade(QUERY, TEXTS, instruction=INSTRUCTIONS[0])
    assert [result.score for result in results] == pytest.approx(sorted(expected, reverse=True), abs=1e-6)
    with pytest.raises(InputError, match="takes no instruction"):
        CascadeRerankFunction([("lexical", 3)])(QUERY, TEXTS, instruction="find")


def test_the_server_takes_it_on_every_route(folders: dict[str, Path]) -> None:
    loaders = {"m": lambda: load(folders["roles"], activation_fct="raw")}
    expected = {
        text or None: load(folders["roles"], activation_fct="raw", prompt=text or None).score(QUERY, TEXTS)
        for text in ("", *INSTRUCTIONS)
    }
    with serving(loaders) as server:
        assert server.client.get("/info").json()["models"][0]["takes_instruction"] is True
        for instruction, key in itertools.product([None, "", *INSTRUCTIONS], ["instruction", "instruct"]):
            body: Any = {"query": QUERY, "documents": TEXTS, key: instruction}
            wanted = pytest.approx(expected[instruction or None], abs=1e-5)
            for path in ("/v1/rerank", "/v2/rerank", "/voyage/v1/rerank"):
                answer = server.post(path, body).json()
                rows = sorted(answer.get("results") or answer["data"], key=lambda row: row["index"])
                assert [row["relevance_score"] for row in rows] == wanted, path
            rows = server.post("/score", {"queries": QUERY, "documents": TEXTS, key: instruction}).json()["data"]
            assert [row["score"] for row in rows] == wanted
            rows = server.post("/rerank", {"query": QUERY, "texts": TEXTS, "raw_scores": True, key: instruction}).json()
            assert [row["score"] for row in sorted(rows, key=lambda row: row["index"])] == wanted
        body = {"input": {"query": QUERY, "documents": TEXTS}, "parameters": {"instruct": INSTRUCTIONS[0]}}
        rows = server.post("/api/v1/services/rerank/text-rerank/text-rerank", body).json()["output"]["results"]
        scores = [row["relevance_score"] for row in sorted(rows, key=lambda row: row["index"])]
        assert scores == pytest.approx(expected[INSTRUCTIONS[0]], abs=1e-5)
        answer = server.post("/v1/rerank", {"query": QUERY, "documents": TEXTS, "instruction": "x" * 10**6})
        assert answer.status_code == 422
        assert "the instruction is longer than" in answer.json()["error"]
    with serving({"lexical": LexicalRerankFunction}) as server:
        answer = server.post("/v1/rerank", {"query": QUERY, "documents": TEXTS, "instruction": "find"})
        assert (answer.status_code, "takes no instruction" in answer.text) == (422, True)

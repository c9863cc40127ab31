"""The names and defaults of vLLM and text-embeddings-inference, as they are in their current versions."""

from typing import Any

import pytest
from dartmouth import DOCUMENTS, QUERY, results
from serving import Running, serving

from milvus_rerank import CrossEncoderRerankFunction
from milvus_rerank.reranker.lexical import LexicalRerankFunction
from milvus_rerank.scoring.pair_encoder import PairEncoder
from milvus_rerank.server.pairs import SIDES

SIMILARITY = "/hf-inference/models/m/pipeline/sentence-similarity"
LONG = "artificial intelligence was born in 1956 in dartmouth " + "chess " * 600


def scores(server: Running, path: str, **keys: Any) -> list[float]:
    """Return the scores of two documents, of which one is too long for the model."""
    names = ("queries", "documents") if "score" in path else ("query", "documents")
    answer = server.post(path, {names[0]: QUERY, names[1]: [LONG, DOCUMENTS[0]], **keys})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return [row["score"] for row in body["data"]] if "data" in body else [results(body)[index] for index in range(2)]


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize("names", SIDES)
def test_every_pair_of_names_means_the_same(
    server: Running, expected: list[float], path: str, names: tuple[str, str]
) -> None:
    first, second = names
    answer = server.post(path, {first: QUERY, second: DOCUMENTS}).json()
    assert [row["score"] for row in answer["data"]] == pytest.approx(expected, abs=1e-5)
    answer = server.post(path, {first: [QUERY] * 2, second: DOCUMENTS[:2]}).json()
    assert [row["score"] for row in answer["data"]] == pytest.approx(expected[:2], abs=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        {"queries": "q", "text_2": ["a"]},
        {"queries": "q", "documents": ["a"], "items": ["b"]},
        {"queries": "q", "documents": ["a"], "text_1": "other", "text_2": ["a"]},
        {"data_1": "q"},
        {},
    ],
)
def test_other_combinations_are_refused(server: Running, body: dict[str, Any]) -> None:
    answer = server.post("/score", body)
    assert answer.status_code == 422
    assert "expected one pair of 'queries' and 'documents', 'queries' and 'items', " in answer.json()["error"]
    assert " and ".join(map(repr, body)) in answer.json()["error"] or not body


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score"])
def test_vllms_limits_and_activation_are_obeyed_on_every_route(
    server: Running, reranker: CrossEncoderRerankFunction, path: str
) -> None:
    encoder = reranker.scorer.encoder
    assert isinstance(encoder, PairEncoder)
    whole = scores(server, path)
    assert whole == pytest.approx(reranker.score(QUERY, [LONG, DOCUMENTS[0]]), abs=1e-5)
    defaults = {"max_tokens_per_doc": 0, "max_tokens_per_query": 0, "truncate_prompt_tokens": -1, "priority": 0}
    others = {"truncation_side": None, "use_activation": None, "padding": "do_not_pad", "mm_processor_kwargs": None}
    assert scores(server, path, **defaults, **others, cache_salt="salt", request_id="r") == pytest.approx(whole)
    short = " ".join(LONG.split()[:8])
    count = len(encoder.tokenize([short])[0])
    [expected] = reranker.score(QUERY, [short])
    assert scores(server, path, max_tokens_per_doc=count)[0] == pytest.approx(expected, abs=1e-5)
    pair = count + len(encoder.tokenize([QUERY])[0]) + 3
    assert scores(server, path, truncate_prompt_tokens=pair)[0] == pytest.approx(expected, abs=1e-5)
    [end] = reranker.score(QUERY, ["chess " * count])
    left = scores(server, path, truncate_prompt_tokens=pair, truncation_side="left")[0]
    assert left == pytest.approx(end, abs=1e-5)
    assert left != pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", ["use_activation", "activation", "softmax"])
def test_the_activation_can_be_switched_off(name: str) -> None:
    sigmoids = CrossEncoderRerankFunction("builtin/rerank", device="cpu", activation_fct="sigmoid", threads=1)
    logits = CrossEncoderRerankFunction("builtin/rerank", device="cpu", activation_fct="raw", threads=1)
    with serving({"m": lambda: sigmoids}) as server:
        for reranker, value in ((sigmoids, True), (sigmoids, None), (logits, False)):
            expected = reranker.score(QUERY, [LONG, DOCUMENTS[0]])
            for path in ("/v1/rerank", "/v2/rerank", "/score"):
                assert scores(server, path, **{name: value}) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("path", "keys", "message"),
    [
        ("/rerank", {"max_tokens_per_query": 5}, "'max_tokens_per_query' cannot be obeyed: queries are cut"),
        ("/v1/rerank", {"prompt_name": "find"}, "'prompt_name' cannot be obeyed: scores are those of the model's own"),
        ("/v2/rerank", {"chat_template_kwargs": {"instruction": "x"}}, "'chat_template_kwargs' cannot be obeyed"),
        ("/rerank", {"mm_processor_kwargs": {"x": 1}}, "'mm_processor_kwargs' cannot be obeyed"),
        ("/rerank", {"padding": "max_length"}, "'padding' cannot be obeyed"),
        ("/v1/rerank", {"return_embeddings": True}, "'return_embeddings' cannot be obeyed"),
        ("/v1/rerank", {"normalize": False}, "unknown key 'normalize'"),
        ("/rerank", {"truncate_prompt_tokens": 0}, "0 would leave no text"),
        ("/rerank", {"truncate_prompt_tokens": -2}, "greater than or equal to -1"),
        ("/rerank", {"truncation_side": "middle"}, "truncation_side"),
        ("/rerank", {"use_activation": True, "softmax": False}, "mean the same and differ"),
        ("/rerank", {"use_activation": True, "raw_scores": True}, "contradict each other"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_name(
    server: Running, path: str, keys: dict[str, Any], message: str
) -> None:
    answer = server.post(path, {"query": "q", "documents": ["a"], **keys})
    assert answer.status_code == 422
    assert message in answer.json()["error"]


def test_a_null_does_not_hide_another_name_of_the_same_key(server: Running) -> None:
    body = {"query": QUERY, "documents": DOCUMENTS}
    assert len(server.post("/rerank", body | {"top_n": None, "top_k": 2}).json()["results"]) == 2
    returned = server.post("/rerank", body | {"return_documents": None, "return_text": True}).json()["results"]
    assert all(row["document"] == {"text": DOCUMENTS[row["index"]]} for row in returned)


def test_teis_defaults_may_be_absent_null_or_written_out(server: Running) -> None:
    body = {"query": QUERY, "texts": [LONG, *DOCUMENTS]}
    plain = server.post("/rerank", body).json()
    assert {tuple(row) for row in plain} == {("index", "score")}
    assert all(0 < row["score"] < 1 for row in plain)
    written = {"truncate": None, "truncation_direction": "Right", "raw_scores": False, "return_text": False}
    assert server.post("/rerank", body | written).json() == plain
    assert server.post("/rerank", body | {"truncation_direction": "right", "truncate": True}).json() == plain
    left = server.post("/rerank", body | {"truncation_direction": "left"}).json()
    assert {row["index"]: row["score"] for row in left}[0] != {row["index"]: row["score"] for row in plain}[0]


def test_the_parameters_of_sentence_similarity_are_obeyed_or_refused(server: Running) -> None:
    body: dict[str, Any] = {"inputs": {"source_sentence": QUERY, "sentences": [LONG, DOCUMENTS[0]]}}
    plain = server.post(SIMILARITY, body).json()
    assert server.post(SIMILARITY, body | {"parameters": None}).json() == plain
    assert server.post(SIMILARITY, body | {"parameters": {"truncate": True, "prompt_name": None}}).json() == plain
    left = server.post(SIMILARITY, body | {"parameters": {"truncation_direction": "Left"}}).json()
    assert left[1] == plain[1]
    assert left[0] != plain[0]
    answer = server.post(SIMILARITY, body | {"parameters": {"prompt_name": "query"}})
    assert answer.status_code == 422
    assert "'prompt_name' cannot be obeyed" in answer.json()["error"]


def test_a_reranker_that_truncates_by_itself_refuses_limits_by_name() -> None:
    with serving({"m": LexicalRerankFunction}) as server:
        body = {"inputs": {"source_sentence": "q", "sentences": ["a"]}, "parameters": {"truncation_direction": "Left"}}
        answer = server.post(SIMILARITY, body)
        assert answer.status_code == 422
        assert "the model 'm' cannot obey 'truncation_direction'; leave them out" in answer.json()["error"]
        assert server.post("/rerank", {"query": "q", "texts": ["a"]}).status_code == 200


def test_models_are_listed_as_vllm_lists_them(reranker: CrossEncoderRerankFunction) -> None:
    with serving({"a": lambda: reranker, "b": LexicalRerankFunction}, keys=[b"secret"]) as server:
        assert server.client.get("/v1/models").status_code == 401
        answer = server.client.get("/v1/models", headers={"authorization": "Bearer secret"}).json()
    assert answer["object"] == "list"
    first, second = answer["data"]
    assert first.pop("created") == second.pop("created") > 1_500_000_000
    same: dict[str, Any] = {"object": "model", "owned_by": "milvus-rerank", "parent": None, "permission": []}
    assert first == {"id": "a", "root": "a", "max_model_len": reranker.scorer.encoder.max_length, **same}
    assert second == {"id": "b", "root": "b", "max_model_len": None, **same}


def test_openais_client_lists_the_models(server: Running) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.address}/v1", api_key="any")
    assert [model.id for model in client.models.list()] == ["builtin/rerank"]


def test_info_has_teis_keys(server: Running, reranker: CrossEncoderRerankFunction) -> None:
    facts = server.client.get("/info").json()
    expected = {
        "model_id": "builtin/rerank",
        "served_model_name": "builtin/rerank",
        "model_sha": None,
        "model_dtype": "float32",
        "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        "max_concurrent_requests": 512,
        "max_input_length": reranker.scorer.encoder.max_length,
        "max_batch_tokens": reranker.scorer.max_batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": 2000,
        "auto_truncate": True,
        "tokenization_workers": 4,
    }
    assert {key: facts[key] for key in expected} == expected

"""Errors and rerankers in pickles and copies, as process pools, Ray and frameworks make them."""

import copy
import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import milvus_rerank
from milvus_rerank import (
    BaseRerankFunction,
    BGERerankFunction,
    CascadeRerankFunction,
    CohereRerankFunction,
    CrossEncoderRerankFunction,
    FallbackRerankFunction,
    HTTPRerankFunction,
    JinaRerankFunction,
    LexicalRerankFunction,
    ScoreCache,
    TEIRerankFunction,
    TwoStageSearch,
    VoyageRerankFunction,
    create,
    errors,
)
from milvus_rerank.engines import ConstantEngine
from milvus_rerank.errors import InputError, MissingDependencyError, RerankError
from milvus_rerank.reranker.local import EngineRerankFunction
from milvus_rerank.reranker.remote.providers import PROVIDERS
from milvus_rerank.scoring.scorer import PairScorer

QUERY = "who wrote the first program"
TEXTS = ["Ada Lovelace wrote the first program.", "Babbage designed an engine.", ""]
KEY = "secret-of-the-service"

Copy = Callable[[Any], Any]


def through_pickle(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


@pytest.fixture(params=[through_pickle, copy.deepcopy, copy.copy])
def duplicate(request: pytest.FixtureRequest) -> Copy:
    """A function that returns a pickled, deep or shallow copy."""
    return request.param  # type: ignore[no-any-return]


# errors

ARGUMENTS: dict[type[RerankError], tuple[Any, ...]] = {
    errors.HitError: ("hit 3 has no field 'text'", "Pass text_field=..."),
    errors.MissingDependencyError: (["torch", "sentence_transformers"], ["torch"], "engine 'torch'"),
    errors.ServiceError: ("it refused", 429, 2.5),
    errors.ServiceTimeoutError: ("it did not answer", 504, 2.5),
    errors.OverloadedError: ("too many requests", 6.2),
}


def family(root: type[RerankError]) -> Iterator[type[RerankError]]:
    yield root
    for child in root.__subclasses__():
        yield from family(child)


@pytest.mark.parametrize("kind", sorted(set(family(RerankError)), key=str))
def test_every_error_keeps_its_message_and_attributes(kind: type[RerankError], duplicate: Copy) -> None:
    error = kind(*ARGUMENTS.get(kind, ("what went wrong",)))
    again = duplicate(error)
    assert type(again) is kind
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


# rerankers


class Longest:
    """A reranker that scores a text by its length."""

    def score(self, query: str, documents: list[str]) -> list[float]:
        return [float(len(text)) for text in documents]


def local(kind: type[Any]) -> Any:
    return kind("builtin/rerank", device="cpu", engine="onnx", score_cache=ScoreCache(9))


RERANKERS: dict[str, Callable[[], BaseRerankFunction]] = {
    "CrossEncoderRerankFunction": lambda: local(CrossEncoderRerankFunction),
    "BGERerankFunction": lambda: local(BGERerankFunction),
    "LexicalRerankFunction": LexicalRerankFunction,
    "CascadeRerankFunction": lambda: CascadeRerankFunction([("lexical", 2), (local(BGERerankFunction), None)]),
    "FallbackRerankFunction": lambda: FallbackRerankFunction([(local(BGERerankFunction), 99.0), "lexical"]),
    "PluginRerankFunction": lambda: create("test_pickles:Longest"),
}
SERVICES: dict[str, Callable[..., Any]] = {
    "CohereRerankFunction": lambda **options: CohereRerankFunction(api_key=KEY, **options),
    "JinaRerankFunction": lambda **options: JinaRerankFunction(api_key=KEY, **options),
    "VoyageRerankFunction": lambda **options: VoyageRerankFunction(api_key=KEY, **options),
    "TEIRerankFunction": lambda **options: TEIRerankFunction("http://localhost:1", api_key=KEY, **options),
    "HTTPRerankFunction": lambda **options: HTTPRerankFunction("http://localhost:1", api_key=KEY, **options),
}


def test_the_tests_below_go_over_all_public_rerankers() -> None:
    public = [getattr(milvus_rerank, name) for name in milvus_rerank.__all__]
    rerankers = {kind.__name__ for kind in public if isinstance(kind, type) and issubclass(kind, BaseRerankFunction)}
    assert rerankers - {"BaseRerankFunction"} == {*RERANKERS, *SERVICES} - {"PluginRerankFunction"}


@pytest.mark.parametrize("name", RERANKERS)
def test_a_copy_of_a_reranker_gives_the_same_scores(name: str, duplicate: Copy) -> None:
    reranker = RERANKERS[name]()
    again = duplicate(reranker)
    assert type(again) is type(reranker)
    assert again.score(QUERY, TEXTS) == reranker.score(QUERY, TEXTS)
    assert repr(again) == repr(reranker) or name == "PluginRerankFunction"


def test_a_pickle_holds_no_model_and_loads_it_at_the_first_call(duplicate: Copy) -> None:
    reranker = local(CrossEncoderRerankFunction)
    assert len(pickle.dumps(reranker)) < 3000
    again = duplicate(reranker)
    if duplicate is through_pickle:
        assert repr(again) == "CrossEncoderRerankFunction('builtin/rerank', not loaded)"
        assert again.scorer is not reranker.scorer
    assert again.scorer is again.scorer
    assert duplicate is through_pickle or again.scorer is reranker.scorer


def test_a_pickled_score_cache_is_empty_and_still_shared() -> None:
    cache = ScoreCache(7)
    reranker = CrossEncoderRerankFunction("builtin/rerank", device="cpu", engine="onnx", score_cache=cache)
    expected = reranker.score(QUERY, TEXTS)
    again, again_cache = through_pickle([reranker, cache])
    assert (repr(again_cache), len(again_cache), len(cache)) == ("ScoreCache(max_pairs=7)", 0, 3)
    assert again.score(QUERY, TEXTS) == expected
    assert len(again_cache) == 3


@pytest.mark.parametrize("name", SERVICES)
def test_no_pickle_holds_the_key_of_a_service_unless_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (variable for provider in PROVIDERS for variable in provider.variables):
        monkeypatch.delenv(variable, raising=False)
    pickled = pickle.dumps(SERVICES[name]())
    assert KEY.encode() not in pickled
    again = pickle.loads(pickled)
    assert repr(again) == repr(SERVICES[name]())
    with pytest.raises(InputError, match="was pickled without its key"):
        again.score(QUERY, TEXTS)
    assert KEY.encode() in pickle.dumps(SERVICES[name](pickle_key=True))


def test_an_unpickled_service_takes_its_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    pickled = pickle.dumps(JinaRerankFunction(api_key=KEY))
    monkeypatch.setenv("JINA_API_KEY", "key-of-the-other-process")
    assert pickle.loads(pickled).endpoint.key == "key-of-the-other-process"


def test_a_reranker_of_a_ready_scorer_says_why_it_cannot_be_pickled() -> None:
    encoder = local(CrossEncoderRerankFunction).scorer.encoder
    reranker = EngineRerankFunction(PairScorer(encoder, ConstantEngine(2.0)), model_name="ready")
    with pytest.raises(InputError, match=r"EngineRerankFunction\('ready'\) was created from a ready scorer"):
        pickle.dumps(reranker)
    assert copy.deepcopy(reranker).score(QUERY, TEXTS) == [2.0, 2.0, 2.0]


# searches


class Client:
    """A client that can only search."""

    def search(self, *args: Any, **options: Any) -> list[list[dict[str, Any]]]:
        return [[{"id": 1, "distance": 0.5, "entity": {"text": text}} for text in TEXTS[:2]]]

    hybrid_search = search


def test_a_search_pickles_if_its_client_does(duplicate: Copy) -> None:
    search = TwoStageSearch(Client(), "docs", reranker=LexicalRerankFunction())
    answer = duplicate(search)(QUERY, vectors=[[0.0]])
    assert [result.score for result in answer] == [result.score for result in search(QUERY, vectors=[[0.0]])]


@pytest.mark.needs("milvus_lite")
def test_a_search_says_that_its_client_cannot_be_pickled_and_copies_share_the_client(tmp_path: Path) -> None:
    from pymilvus import MilvusClient

    client = MilvusClient(str(tmp_path / "x.db"))
    try:
        search = TwoStageSearch(client, "docs", reranker=LexicalRerankFunction())
        with pytest.raises(InputError, match=r"with its client, a MilvusClient .*; create TwoStageSearch, with a new"):
            pickle.dumps(search)
        assert copy.deepcopy(search).source.client is client
    finally:
        client.close()


# another process


def miss_a_package() -> None:
    raise MissingDependencyError(["torch"], ["torch"], "engine 'torch'")


def test_a_process_pool_gets_rerankers_and_returns_errors() -> None:
    reranker = local(CrossEncoderRerankFunction)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(reranker.score, QUERY, TEXTS).result(timeout=60) == reranker.score(QUERY, TEXTS)
        with pytest.raises(MissingDependencyError, match=r'Type: pip install "milvus-rerank\[torch\]"') as caught:
            pool.submit(miss_a_package).result(timeout=60)
    assert (caught.value.packages, caught.value.purpose) == (("torch",), "engine 'torch'")

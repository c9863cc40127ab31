"""Services that rerank: what each class sends, where to and with which key, and that its scores are the service's."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from fault_server import KEY, Answer, FaultServer, fault_server
from serving import Running, serving

import milvus_rerank
from milvus_rerank import (
    CohereRerankFunction,
    CrossEncoderRerankFunction,
    HTTPRerankFunction,
    JinaRerankFunction,
    LexicalRerankFunction,
    RetryPolicy,
    TEIRerankFunction,
    VoyageRerankFunction,
    create,
)
from milvus_rerank.errors import InputError, ServiceError
from milvus_rerank.reranker.remote.api_formats import COHERE, DASHSCOPE, JINA, TEI, VOYAGE, ApiFormat
from milvus_rerank.reranker.remote.function import RemoteRerankFunction
from milvus_rerank.reranker.remote.providers import find_endpoint

pytestmark = pytest.mark.compat

QUERY = "logic theorist machine"
DOCUMENTS = ["nothing here", "logic machine", "the logic theorist machine", "theorist", "a machine", "logic, Ψ"]
LOCAL = LexicalRerankFunction()

Make = Callable[..., RemoteRerankFunction]

MAKERS: dict[str, Make] = {
    "cohere": lambda address, **options: CohereRerankFunction("any", base_url=address, **options),
    "jina": lambda address, **options: JinaRerankFunction("any", base_url=address, **options),
    "voyage": lambda address, **options: VoyageRerankFunction("any", base_url=f"{address}/voyage", **options),
    "tei": lambda address, **options: TEIRerankFunction(address, **options),
    "http auto": lambda address, **options: HTTPRerankFunction(address, **options),
    "http vllm": lambda address, **options: HTTPRerankFunction(f"{address}/rerank", dialect="vllm", **options),
    "http cohere": lambda address, **options: HTTPRerankFunction(f"{address}/v2/rerank", **options),
    "http dashscope": lambda address, **options: HTTPRerankFunction(address, dialect="dashscope", **options),
}


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the keys of whoever runs the tests."""
    for name in ("CO", "COHERE", "JINA", "JINAAI", "VOYAGE", "SILICONFLOW", "DASHSCOPE"):
        monkeypatch.delenv(f"{name}_API_KEY", raising=False)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving({"lexical": lambda: LOCAL}, keys=[KEY.encode()]) as running:
        yield running


@pytest.fixture
def faults() -> Iterator[FaultServer]:
    with fault_server() as running:
        yield running


@pytest.fixture(params=MAKERS.values(), ids=MAKERS)
def make(request: pytest.FixtureRequest) -> Make:
    return request.param


# Against this package's own server


def test_every_class_gives_the_scores_of_the_server_it_asks(server: Running, make: Make) -> None:
    with make(server.address, api_key=KEY) as function:
        assert function.score(QUERY, DOCUMENTS) == pytest.approx(LOCAL.score(QUERY, DOCUMENTS), abs=1e-6)
        found = function(QUERY, DOCUMENTS, top_k=2)
        assert [(one.index, one.text, one.score) for one in found] == [
            (2, DOCUMENTS[2], 1.0),
            (1, DOCUMENTS[1], pytest.approx(2 / 3, abs=1e-6)),
        ]
        assert [one.index for one in function(QUERY, DOCUMENTS, top_k=0, threshold=0.5)] == [2, 1]
        assert len(function(QUERY, DOCUMENTS * 3)) == 5
        assert json.loads(json.dumps(found[0].to_dict())) == {"text": DOCUMENTS[2], "score": 1.0, "index": 2}


def test_hits_keep_their_ids_and_fields(server: Running, make: Make) -> None:
    hits = [{"id": 10 + place, "distance": 0.5, "entity": {"text": text}} for place, text in enumerate(DOCUMENTS)]
    with make(server.address, api_key=KEY) as function:
        found = function.rerank_hits(QUERY, hits, top_k=1)
        assert [(one.id, one.distance, one.entity) for one in found] == [(12, 0.5, {"text": DOCUMENTS[2]})]
        assert asyncio.run(function.arerank_hits(QUERY, hits, top_k=1)) == found


def test_the_event_loop_gives_what_plain_calls_give(server: Running, make: Make) -> None:
    queries, lists = ["logic", "machine", "none"], [DOCUMENTS, DOCUMENTS[1:3], []]
    pairs = [("logic", "logic"), ("machine", "logic"), ("logic", "x")]

    async def all_of_them(function: RemoteRerankFunction) -> list[Any]:
        async with function:
            return [
                await function.arerank(QUERY, DOCUMENTS, 2),
                await function.ascore(QUERY, DOCUMENTS),
                await function.arerank_many(queries, lists, top_k=None),
                await function.ascore_pairs(pairs),
            ]

    with make(server.address, api_key=KEY, max_documents=4) as function:
        assert asyncio.run(all_of_them(function)) == [
            function(QUERY, DOCUMENTS, 2),
            function.score(QUERY, DOCUMENTS),
            function.rerank_many(queries, lists, top_k=None),
            function.score_pairs(pairs),
        ]
        assert function.score_pairs(pairs) == [1.0, 0.0, 0.0]


def test_long_lists_are_split_and_scores_stay_in_order(server: Running, make: Make) -> None:
    texts = [" ".join(QUERY.split()[: place % 4]) + " filler" for place in range(23)]
    count = lambda: server.metric("milvus_rerank_requests_total")  # noqa: E731
    with make(server.address, api_key=KEY, max_documents=5) as function:
        before = count()
        assert function.score(QUERY, texts) == pytest.approx(LOCAL.score(QUERY, texts), abs=1e-6)
        server.settled()
        assert count() - before == 5
        many = function.rerank_many([QUERY, "filler"], [texts, texts[:6]], top_k=0)
        server.settled()
        assert count() - before == 5 + 5 + 2
        assert [[one.index for one in some] for some in many] == [
            [one.index for one in some] for some in LOCAL.rerank_many([QUERY, "filler"], [texts, texts[:6]], top_k=0)
        ]


def test_nothing_in_asks_nobody() -> None:
    with TEIRerankFunction("http://127.0.0.1:9") as function:
        assert function(QUERY, []) == []
        assert function.rerank_many([], []) == []
        assert asyncio.run(function.arerank_many(["q", "p"], [[], []])) == [[], []]
        with pytest.raises(InputError, match=r"documents\[0\] must be a string, got int: 3"):
            asyncio.run(function.arerank(QUERY, [3]))  # type: ignore[list-item]


@pytest.mark.parametrize("key", [None, "sk-wrong-key"])
def test_a_wrong_or_missing_key_is_an_error_that_says_so(server: Running, make: Make, key: str | None) -> None:
    with make(server.address, api_key=key) as function, pytest.raises(ServiceError) as caught:
        function(QUERY, DOCUMENTS)
    assert caught.value.status == 401
    assert str(caught.value).endswith("; is the key right? pass api_key=...")
    assert "sk-wrong-key" not in str(caught.value)


def test_teis_scores_are_sigmoids_or_logits() -> None:
    reranker = CrossEncoderRerankFunction("builtin/rerank", device="cpu", threads=1)
    texts = ["A dog barks.", "Trees have bark.", "Wolves howl."]
    with serving({"m": lambda: reranker}) as running, TEIRerankFunction(running.address) as probabilities:
        raw = TEIRerankFunction(running.address, raw_scores=True)
        logits = reranker.score("who barks?", texts)
        assert raw.score("who barks?", texts) == pytest.approx(logits, abs=1e-5)
        sigmoids = CrossEncoderRerankFunction("builtin/rerank", device="cpu", threads=1, activation_fct="sigmoid")
        assert probabilities.score("who barks?", texts) == pytest.approx(sigmoids.score("who barks?", texts), abs=1e-6)
        assert max(logits) > 1 or min(logits) < 0
        raw.close()


def test_what_the_server_takes_is_the_error_of_a_larger_request() -> None:
    with (
        serving({"m": lambda: LOCAL}, documents=3) as running,
        JinaRerankFunction("any", base_url=running.address) as function,
    ):
        with pytest.raises(ServiceError, match=r"answered 422 \(.*at most 3") as caught:
            function.score(QUERY, DOCUMENTS)
        assert "A request had up to 1000 documents (max_documents)" in str(caught.value)


# What is sent


def sent(faults: FaultServer, function: RemoteRerankFunction, answer: Any) -> Any:
    faults.answers = [Answer(answer), Answer(answer)]
    with function:
        plain = function.score("q", ["a", "Ψ"])
    assert asyncio.run(function.ascore("q", ["a", "Ψ"])) == plain == [0.25, 0.75]
    first, second = faults.received
    assert (first.body, first.path, first.headers) == (second.body, second.path, second.headers)
    assert first.headers == {
        "host": faults.address.removeprefix("http://"),
        "accept": "application/json",
        "accept-encoding": "identity",
        "connection": "keep-alive",
        "content-type": "application/json",
        "content-length": first.headers["content-length"],
        "user-agent": "milvus-rerank",
        "authorization": f"Bearer {KEY}",
    }
    return first.path, first.body


RESULTS = [{"index": 1, "relevance_score": 0.75}, {"index": 0, "relevance_score": 0.25}]


def test_cohere_is_sent_its_json(faults: FaultServer) -> None:
    function = CohereRerankFunction("rerank-v3.5", KEY, True, base_url=faults.address, max_tokens_per_doc=512)
    body = {"model": "rerank-v3.5", "query": "q", "documents": ["a", "Ψ"], "top_n": 2, "max_tokens_per_doc": 512}
    assert sent(faults, function, {"id": "x", "results": RESULTS, "meta": {}}) == ("/v2/rerank", body)


def test_jina_is_sent_its_json(faults: FaultServer) -> None:
    function = JinaRerankFunction("jina-reranker-m0", KEY, base_url=faults.address)
    body = {"model": "jina-reranker-m0", "query": "q", "documents": ["a", "Ψ"], "top_n": 2, "return_documents": False}
    with_texts = [{**row, "document": {"text": "?"}} for row in RESULTS]
    assert sent(faults, function, {"results": with_texts, "usage": {}}) == ("/v1/rerank", body)


def test_voyage_is_sent_its_json(faults: FaultServer) -> None:
    function = VoyageRerankFunction("rerank-2.5", KEY, base_url=faults.address, truncation=False)
    body = {"model": "rerank-2.5", "query": "q", "documents": ["a", "Ψ"], "top_k": 2} | {
        "return_documents": False,
        "truncation": False,
    }
    assert sent(faults, function, {"object": "list", "data": RESULTS}) == ("/v1/rerank", body)


def test_tei_is_sent_its_json(faults: FaultServer) -> None:
    function = TEIRerankFunction(
        faults.address, api_key=KEY, raw_scores=True, truncate=False, truncation_direction="Left"
    )
    body = {"query": "q", "texts": ["a", "Ψ"], "return_text": False} | {
        "raw_scores": True,
        "truncate": False,
        "truncation_direction": "Left",
    }
    rows = [{"index": row["index"], "score": row["relevance_score"]} for row in RESULTS]
    assert sent(faults, function, rows) == ("/rerank", body)


def test_tei_cuts_long_texts_unless_told(faults: FaultServer) -> None:
    faults.answers = [Answer([{"index": 0, "score": 1}])]
    with TEIRerankFunction(faults.address) as function:
        assert function.score("q", ["a"]) == [1.0]
    defaults = {"raw_scores": False, "truncate": True, "truncation_direction": "Right"}
    assert defaults.items() <= faults.received[0].body.items()
    assert "authorization" not in faults.received[0].headers


def test_dashscope_is_sent_its_json(faults: FaultServer) -> None:
    function = HTTPRerankFunction(
        faults.address, api_key=KEY, model_name="gte-rerank-v2", dialect="dashscope", parameters={"instruct": "i"}
    )
    body = {
        "model": "gte-rerank-v2",
        "input": {"query": "q", "documents": ["a", "Ψ"]},
        "parameters": {"top_n": 2, "return_documents": False, "instruct": "i"},
    }
    path = "/api/v1/services/rerank/text-rerank/text-rerank"
    assert sent(faults, function, {"output": {"results": RESULTS}, "request_id": "x"}) == (path, body)


def test_any_other_is_sent_jinas_json_with_its_own_keys(faults: FaultServer) -> None:
    function = HTTPRerankFunction(
        f"{faults.address}/rerank", api_key=KEY, dialect="vllm", parameters={"truncate_prompt_tokens": 512}
    )
    body = {"query": "q", "documents": ["a", "Ψ"], "top_n": 2, "return_documents": False, "truncate_prompt_tokens": 512}
    assert sent(faults, function, {"results": RESULTS}) == ("/rerank", body)


# Addresses


@pytest.mark.parametrize(
    ("base", "api_format", "url"),
    [
        ("https://h", COHERE, "https://h/v2/rerank"),
        ("https://h/", COHERE, "https://h/v2/rerank"),
        (" https://h:8443/a/b/ ", COHERE, "https://h:8443/a/b/v2/rerank"),
        ("https://h/v2", COHERE, "https://h/v2/rerank"),
        ("https://h/v1", COHERE, "https://h/v1/rerank"),
        ("https://h/x/v2/rerank", COHERE, "https://h/x/v2/rerank"),
        ("https://h/rerank", COHERE, "https://h/rerank"),
        ("https://h/v1/", JINA, "https://h/v1/rerank"),
        ("http://127.0.0.1:8787/voyage", VOYAGE, "http://127.0.0.1:8787/voyage/v1/rerank"),
        ("http://127.0.0.1:8787/voyage/v1", VOYAGE, "http://127.0.0.1:8787/voyage/v1/rerank"),
        ("http://h:8080", TEI, "http://h:8080/rerank"),
        ("http://h:8080/rerank", TEI, "http://h:8080/rerank"),
        ("http://h:8080/prefix/", TEI, "http://h:8080/prefix/rerank"),
        ("http://[::1]:8080", TEI, "http://[::1]:8080/rerank"),
        ("https://h/api/v1", DASHSCOPE, "https://h/api/v1/services/rerank/text-rerank/text-rerank"),
        ("https://h/p?api-version=1", JINA, "https://h/p/v1/rerank?api-version=1"),
        ("https://h/rerank#part", JINA, "https://h/rerank"),
    ],
)
def test_the_route_is_added_to_an_address_where_it_is_not_there(base: str, api_format: ApiFormat, url: str) -> None:
    endpoint = find_endpoint(base, api_format, "base_url")
    assert endpoint.url == url
    assert endpoint.address == url.partition("?")[0]


@pytest.mark.parametrize(
    ("url", "api_format", "asked"),
    [
        ("http://h:7997", JINA, "http://h:7997/v1/rerank"),
        ("http://h:7997/rerank", JINA, "http://h:7997/rerank"),
        ("http://h/v1", JINA, "http://h/v1/rerank"),
        ("http://h/score/here", JINA, "http://h/score/here"),
        ("http://h/v2/rerank", COHERE, "http://h/v2/rerank"),
        ("http://h/voyage/v1/rerank", VOYAGE, "http://h/voyage/v1/rerank"),
        ("http://h/services/rerank/text-rerank", DASHSCOPE, "http://h/services/rerank/text-rerank"),
    ],
)
def test_auto_goes_by_the_address(url: str, api_format: ApiFormat, asked: str) -> None:
    with HTTPRerankFunction(url) as function:
        assert (function.endpoint.api_format.name, function.endpoint.url) == (api_format.name, asked)


@pytest.mark.parametrize(
    ("url", "variable", "api_format", "limit"),
    [
        ("https://api.cohere.com", "CO_API_KEY", COHERE, 1000),
        ("https://api.jina.ai", "JINA_API_KEY", JINA, 2048),
        ("https://api.voyageai.com/v1", "VOYAGE_API_KEY", VOYAGE, 1000),
        ("https://api.siliconflow.cn/v1", "SILICONFLOW_API_KEY", JINA, 128),
        ("https://dashscope-intl.aliyuncs.com", "DASHSCOPE_API_KEY", DASHSCOPE, 500),
    ],
)
def test_the_hosted_services_are_known(
    url: str, variable: str, api_format: ApiFormat, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, f" {KEY}\n")
    with HTTPRerankFunction(url, model_name="m") as function:
        endpoint = function.endpoint
    assert (endpoint.api_format.name, endpoint.max_documents, endpoint.key) == (api_format.name, limit, KEY)


@pytest.mark.parametrize(
    "address",
    [
        "localhost:8080",
        "ftp://user:pw@h",
        "http://",
        "",
        "http://h:port",
        "http://h:0",
        "http://[::1",
        "http://a b",
        "//h",
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="api_url must be an address such as http://localhost:8080 or https") as caught:
        TEIRerankFunction(address)
    assert "pw" not in str(caught.value)


def test_a_host_that_no_client_can_use_is_refused() -> None:
    with pytest.raises(InputError, match="is no address"):
        TEIRerankFunction("http://é-.com")


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(InputError, match=r"base_url holds a user or password before the @; pass .* api_key") as caught:
        JinaRerankFunction(base_url="https://user:hidden@h")
    assert "hidden" not in str(caught.value)


# Keys


@pytest.mark.parametrize(
    ("make", "first", "second"),
    [
        (CohereRerankFunction, "CO_API_KEY", "COHERE_API_KEY"),
        (JinaRerankFunction, "JINA_API_KEY", "JINAAI_API_KEY"),
        (VoyageRerankFunction, "VOYAGE_API_KEY", None),
    ],
)
def test_a_hosted_service_needs_a_key_from_the_argument_or_the_environment(
    make: Callable[..., RemoteRerankFunction], first: str, second: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = " or ".join(name for name in (first, second) if name)
    vendor = make.__name__.removesuffix("RerankFunction")
    for empty in (None, "", " "):
        with pytest.raises(InputError, match=f"^{vendor} needs a key: pass api_key=..., or set {names}$"):
            make(api_key=empty)
    if second:
        monkeypatch.setenv(second, "second")
        assert make().endpoint.key == "second"
    monkeypatch.setenv(first, "first")
    assert make().endpoint.key == "first"
    assert make("a-model", KEY).endpoint.key == KEY
    assert KEY not in repr(make("a-model", KEY))


def test_a_key_of_the_environment_goes_to_nobody_but_its_service(
    faults: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CO_API_KEY", KEY)
    with CohereRerankFunction(base_url=faults.address) as function:
        function.score("q", ["a"])
    assert "authorization" not in faults.received[0].headers
    for host in ("api.cohere.com.example.com", "example.com/api.cohere.com", "not-api.cohere.com", "cohere.com"):
        assert CohereRerankFunction(base_url=f"https://{host}").endpoint.key is None


def test_a_key_goes_over_the_network_encrypted_unless_allowed() -> None:
    for loopback in ("http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://rerank.example.com"):
        assert TEIRerankFunction(loopback, api_key=KEY).endpoint.key == KEY
    with pytest.raises(InputError, match=r"the key would go to rerank without encryption.*https://.*allow_http=True"):
        TEIRerankFunction("http://rerank:8080", api_key=KEY)
    assert TEIRerankFunction("http://rerank:8080", api_key=KEY, allow_http=True).endpoint.key == KEY
    assert TEIRerankFunction("http://rerank:8080").endpoint.key is None
    with pytest.raises(InputError, match="without encryption"):
        CohereRerankFunction(api_key=KEY, base_url="http://api.cohere.com")


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "ключ", "\x00"])
def test_what_no_header_carries_is_no_key(key: str) -> None:
    with pytest.raises(InputError, match="api_key holds a blank, a line break or a letter") as caught:
        TEIRerankFunction("http://localhost:1", api_key=key)
    assert key not in str(caught.value)


# Options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"timeout": 0}, "timeout must be a positive number of seconds, got 0"),
        ({"timeout": None}, "timeout must be a positive number of seconds, got None"),
        ({"deadline": -1.0}, "deadline must be a positive number of seconds, got -1.0"),
        ({"deadline": float("inf")}, "deadline must be a positive number of seconds, got inf"),
        ({"attempts": 0}, "attempts must be a positive integer, got int: 0"),
        ({"concurrency": 1.5}, "concurrency must be a positive integer, got float: 1.5"),
        ({"max_documents": 0}, "max_documents must be a positive integer, got int: 0"),
        ({"dialect": "teii"}, "dialect must be one of 'auto', 'cohere', 'jina', 'voyage', 'tei', 'dashscope', 'vllm'"),
        ({"model_name": ""}, "model_name must be a model's name at the service, or None, got ''"),
        ({"api_key": 3}, "api_key must be a string, got int"),
        ({"parameters": []}, r"parameters must be a dict with names as keys, got \[\]"),
        ({"parameters": {"x": {1}}}, "parameters must be what JSON can hold: Object of type set"),
        ({"parameters": {"top_n": 3, "query": "q"}}, "parameters cannot hold query, top_n: a request has its own"),
    ],
)
def test_bad_options_say_what_was_given(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        HTTPRerankFunction("http://localhost:1", **options)


def test_bad_options_of_single_services_say_what_was_given() -> None:
    with pytest.raises(InputError, match="truncation_direction must be one of 'Left', 'Right', got 'left'"):
        TEIRerankFunction("http://localhost:1", truncation_direction="left")
    with pytest.raises(InputError, match="max_tokens_per_doc must be a positive integer, got int: 0"):
        CohereRerankFunction(api_key=KEY, max_tokens_per_doc=0)


def test_names_order_and_defaults_are_pymilvus_models() -> None:
    with CohereRerankFunction("m", KEY, False) as function:
        assert (function.model_name, function.endpoint.key) == ("m", KEY)
    assert CohereRerankFunction(api_key=KEY).model_name == "rerank-english-v3.0"
    assert JinaRerankFunction(api_key=KEY).model_name == "jina-reranker-v2-base-multilingual"
    assert VoyageRerankFunction(api_key=KEY).model_name == "rerank-2"
    assert TEIRerankFunction("http://localhost:1").endpoint.max_documents == 32
    assert repr(VoyageRerankFunction(api_key=KEY)) == (
        "VoyageRerankFunction('https://api.voyageai.com/v1/rerank', model_name='rerank-2', dialect='voyage', "
        "max_documents=1000)"
    )


def test_they_are_made_by_name() -> None:
    function = create("milvus_rerank.reranker.remote.services:TEIRerankFunction", "http://localhost:1", timeout=2)
    assert isinstance(function, milvus_rerank.reranker.TEIRerankFunction)


# Packages


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_them_loads_no_http_client() -> None:
    code = "import sys, milvus_rerank.reranker; milvus_rerank.CohereRerankFunction; print([m for m in "
    assert run(f"{code}('httpx', 'tenacity', 'anyio') if m in sys.modules])") == "[]\n"


@pytest.mark.parametrize("package", ["httpx", "tenacity"])
def test_a_missing_package_says_what_to_type(package: str) -> None:
    code = f"""
import sys
sys.modules[{package!r}] = None
from milvus_rerank import TEIRerankFunction, errors
try:
    TEIRerankFunction("http://localhost:1")
except errors.MissingDependencyError as error:
    print(error)
"""
    assert run(code) == (
        f"reranking with a service needs the package {package!r}, which is not installed. "
        'Type: pip install "milvus-rerank[services]"\n'
    )


# The user's own client


def note_headers(seen: list[Any]) -> Any:
    def answer(request: Any) -> Any:
        seen.append((str(request.url), request.headers["authorization"], request.headers["x-team"]))
        return httpx.Response(200, json={"results": [{"index": 0, "relevance_score": 0.5}]})

    return httpx.MockTransport(answer)


def test_a_users_client_sends_the_requests_and_stays_open() -> None:
    seen: list[Any] = []
    with httpx.Client(transport=note_headers(seen), headers={"x-team": "search"}, follow_redirects=True) as client:
        with JinaRerankFunction("m", KEY, client=client) as function:
            assert function.score("q", ["a"]) == [0.5]
            with pytest.raises(InputError, match=r"client is an httpx\.Client: use the plain calls, or pass an httpx"):
                asyncio.run(function.ascore("q", ["a"]))
        assert not client.is_closed
    assert seen == [("https://api.jina.ai/v1/rerank", f"Bearer {KEY}", "search")]


def test_a_users_asynchronous_client_sends_the_requests_and_stays_open() -> None:
    seen: list[Any] = []

    async def main() -> None:
        async with httpx.AsyncClient(transport=note_headers(seen), headers={"x-team": "search"}) as client:
            async with JinaRerankFunction("m", KEY, client=client) as function:
                assert await function.ascore("q", ["a"]) == [0.5]
                with pytest.raises(InputError, match=r"client is an httpx\.AsyncClient: await arerank\(\) or its like"):
                    function.score("q", ["a"])
            assert not client.is_closed

    asyncio.run(main())
    assert seen == [("https://api.jina.ai/v1/rerank", f"Bearer {KEY}", "search")]


def test_a_client_that_follows_redirections_takes_no_key_elsewhere(faults: FaultServer) -> None:
    faults.answers = [Answer({}, 307, {"location": "https://elsewhere/x"})]
    with httpx.Client(follow_redirects=True) as client:
        function = JinaRerankFunction("m", KEY, base_url=faults.address, client=client)
        with pytest.raises(ServiceError, match="it points to https://elsewhere/x: give that address"):
            function.score("q", ["a"])


def test_something_else_than_a_client_is_refused() -> None:
    with pytest.raises(InputError, match=r"client must be an httpx\.Client or httpx\.AsyncClient, got str"):
        TEIRerankFunction("http://localhost:1", client="proxy")  # type: ignore[arg-type]


def test_a_retry_policy_sets_the_attempts_and_pauses(faults: FaultServer) -> None:
    faults.answers = [Answer({}, 503), Answer({}, 503, {"retry-after": "0.3"}), Answer({}, 503)]
    retries = RetryPolicy(attempts=9, max_wait=0.01, max_retry_after=0.2)
    with JinaRerankFunction("m", KEY, base_url=faults.address, attempts=retries) as function:
        with pytest.raises(ServiceError, match=r"asked again after 0.3 s, which is too long"):
            function.score("q", ["a"])
        assert len(faults.received) == 2
        assert function.score("q", ["a", "bb"]) == [1.0, 2.0]
    with pytest.raises(InputError, match="max_wait must be a positive number of seconds, got 0"):
        RetryPolicy(max_wait=0)

"""Milvus' model ranker: the function with which Milvus itself calls ``milvus-rerank serve`` during a search."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import urlsplit

from milvus_rerank.errors import InputError
from milvus_rerank.requirements import require
from milvus_rerank.validation import check_choice, check_count, check_list, check_text, describe

if TYPE_CHECKING:
    from pymilvus import Function

Provider = Literal["tei", "vllm", "cohere", "siliconflow", "voyageai", "ali", "huggingface"]
"""A provider of Milvus' model ranker whose requests ``milvus-rerank serve`` answers."""
PROVIDERS: tuple[Provider, ...] = get_args(Provider)

PATHS: dict[Provider, str] = {
    "tei": "/rerank",
    "vllm": "/rerank",
    "cohere": "/v2/rerank",
    "siliconflow": "/v1/rerank",
    "voyageai": "/voyage/v1/rerank",
    "ali": "/api/v1/services/rerank/text-rerank/text-rerank",
    "huggingface": "",  # Milvus appends the path, which holds the model's name
}
"""The path of the server's URL for each provider. Milvus appends that of ``tei`` and ``vllm`` itself."""
_BY_ENDPOINT: tuple[Provider, ...] = ("tei", "vllm")
BATCH = 128
"""The most documents of a request: as VARCHAR fields hold 65,535 bytes at most, half of the server's ``--max-body``."""
_NO_KEY = "none"
"""The key of a server that needs none. Without a key, Milvus Lite would send that of Cohere from the environment."""


@dataclass(frozen=True, slots=True)
class _Target:
    """The server that Milvus calls, and how."""

    provider: Provider
    endpoint: str | None
    model_name: str | None
    credential: str | None
    api_key: str | None


def as_ranker(
    queries: str | Sequence[str],
    endpoint: str | None = None,
    *,
    text_field: str = "text",
    provider: Provider | None = None,
    model_name: str | None = None,
    credential: str | None = None,
    max_client_batch_size: int = BATCH,
    milvus_lite: bool = False,
    api_key: str | None = None,
    name: str = "milvus_rerank",
) -> "Function":
    """Return the ranker with which Milvus reranks a search by calling ``milvus-rerank serve``.

    Pass it to ``client.search(..., ranker=...)`` or ``client.hybrid_search``. Milvus 2.6 or later is needed, and 2.6.20
    for ``huggingface``.

    :param queries: the query, or one for each query vector of the search.
    :param endpoint: the server's address as Milvus reaches it, such as ``http://rerank:8787``. None for a provider that
        has its address in ``milvus.yaml``: all but ``tei`` and ``vllm``.
    :param text_field: the VARCHAR field that the reranker reads.
    :param provider: the format of Milvus' requests; None for ``vllm``, or for ``cohere`` in Milvus Lite. Scores are
        those that the reranker gives in Python, and their sigmoids for ``tei``.
    :param model_name: the model's name at the server; ``tei`` and ``vllm`` send none and get the server's first model.
    :param credential: the name in ``milvus.yaml`` of the server's key; None if the server needs none.
    :param max_client_batch_size: the most documents of a request; Milvus sends requests one after another. Milvus Lite
        sends all documents at once.
    :param milvus_lite: whether Milvus Lite searches.
    :param api_key: the server's key, for Milvus Lite only.
    :param name: the function's name.
    :returns: pymilvus' function.
    :raises InputError: for a provider that the server does not answer, or an argument that Milvus would ignore.
    :raises MissingDependencyError: if pymilvus is not installed.
    """
    if provider is None:
        provider = "cohere" if milvus_lite else "vllm"
    check_choice(provider, "provider", PROVIDERS)
    texts = [queries] if isinstance(queries, str) else check_list(queries, "queries", "strings")
    if not texts:
        raise InputError("queries is empty; pass one query for each query vector of the search")
    target = _Target(provider, endpoint, _check_word(model_name, "model_name"), credential, api_key)
    place = _lite_params(target) if milvus_lite else _server_params(target, max_client_batch_size)
    require("a Milvus ranker", "pymilvus")
    from pymilvus import Function, FunctionType

    return Function(
        name=_check_word(name, "name") or "",
        input_field_names=[_check_field(text_field)],
        function_type=FunctionType.RERANK,
        params={
            "reranker": "model",
            "provider": provider,
            "queries": [check_text(text, "query") for text in texts],
            **place,
        },
    )


def _server_params(target: _Target, batch: int) -> dict[str, Any]:
    """Return the parameters of a Milvus server's provider."""
    provider = target.provider
    if target.api_key is not None:
        raise InputError(
            "api_key is for Milvus Lite alone: Milvus takes keys by the names that they have in milvus.yaml; pass "
            "credential='NAME', or milvus_lite=True"
        )
    params: dict[str, Any] = {"max_client_batch_size": check_count(batch, "max_client_batch_size")}
    if target.credential is not None:
        params["credential"] = _check_word(target.credential, "credential")
    if provider in _BY_ENDPOINT:
        if target.model_name is not None:
            raise InputError(
                f"Milvus' provider {provider!r} sends no model's name, got model_name={target.model_name!r}; leave it "
                "out to use the server's first model, or choose 'siliconflow' or 'cohere'"
            )
        return {**params, "endpoint": _root(target.endpoint, provider)}
    if target.endpoint is not None:
        root = _root(target.endpoint, provider)
        raise InputError(
            f"Milvus takes the address of provider {provider!r} from milvus.yaml, not from a search; leave out "
            f"endpoint and write there: function.rerank.model.providers.{provider}.url: {root}{PATHS[provider]}"
        )
    return {**params, "model_name": _model_name(target)}


def _lite_params(target: _Target) -> dict[str, Any]:
    """Return the parameters of Milvus Lite's provider."""
    if target.provider != "cohere":
        raise InputError(f"Milvus Lite has the provider 'cohere' alone, got {target.provider!r}; leave out provider")
    if target.credential is not None:
        raise InputError(
            f"Milvus Lite reads no milvus.yaml, got credential={target.credential!r}; pass the key itself as api_key"
        )
    key = _check_word(target.api_key, "api_key")
    root = _root(target.endpoint, "cohere")
    return {
        "model_name": target.model_name or "default",  # a server with one model takes any name
        "base_url": root + PATHS["cohere"].removesuffix("/rerank"),
        "api_key": key or _NO_KEY,
    }


def _model_name(target: _Target) -> str:
    if target.model_name is None:
        raise InputError(
            f"Milvus' provider {target.provider!r} needs a model's name; pass model_name=..., one of those of "
            "milvus-rerank serve --model, such as 'builtin/rerank'"
        )
    return target.model_name


def _root(endpoint: object, provider: Provider) -> str:
    """Return scheme, host and port of the server's target."""
    example = "such as 'http://rerank:8787'"
    if endpoint is None or endpoint == "":
        raise InputError(
            f"provider {provider!r} needs endpoint, the address of milvus-rerank serve as Milvus reaches it, {example}"
        )
    if not isinstance(endpoint, str):
        raise InputError(f"endpoint must be an address {example}, got {describe(endpoint)}")
    try:
        parts = urlsplit(endpoint.strip())
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"endpoint must be an address {example}, got {endpoint!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(f"endpoint must be an address {example}, got {endpoint!r}")
    if parts.username is not None:
        raise InputError("endpoint must not hold a user or password; use the server's key")
    if parts.query or parts.fragment or parts.path.rstrip("/") not in ("", PATHS[provider]):
        raise InputError(
            f"endpoint must be scheme, host and port alone, {example}, got {endpoint!r}; Milvus adds the path of the "
            f"route, {PATHS[provider]!r}"
        )
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + ("" if port is None else f":{port}")


def _check_word(value: object, name: str) -> str | None:
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise InputError(f"{name} must be a string that is not empty, got {describe(value)}")
    return value


def _check_field(text_field: object) -> str:
    if isinstance(text_field, str) and text_field.strip() and not set("{}") & set(text_field):
        return text_field
    raise InputError(
        f"text_field must be the name of one VARCHAR field, such as 'text', got {describe(text_field)}; Milvus' model "
        "rankers read one field. To join several: TwoStageSearch(..., text_field=[...])"
    )

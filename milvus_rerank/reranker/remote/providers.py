"""Hosted providers with their keys, and the endpoint for a user's address."""

import os
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit, urlunsplit

from milvus_rerank.errors import InputError
from milvus_rerank.reranker.remote.api_formats import COHERE, DASHSCOPE, JINA, VOYAGE, ApiFormat
from milvus_rerank.validation import check_count, is_loopback


@dataclass(frozen=True, slots=True)
class Provider:
    """A hosted service. Only its ``hosts`` get a key from the environment ``variables``; the first that is set wins."""

    title: str
    hosts: tuple[str, ...]
    variables: tuple[str, ...]
    api_format: ApiFormat
    max_documents: int


_DASHSCOPE_HOSTS = ("dashscope.aliyuncs.com", "dashscope-intl.aliyuncs.com")
PROVIDERS = (
    Provider("Cohere", ("api.cohere.com", "api.cohere.ai"), ("CO_API_KEY", "COHERE_API_KEY"), COHERE, 1000),
    Provider("Jina", ("api.jina.ai",), ("JINA_API_KEY", "JINAAI_API_KEY"), JINA, 2048),
    Provider("Voyage", ("api.voyageai.com",), ("VOYAGE_API_KEY",), VOYAGE, 1000),
    Provider("SiliconFlow", ("api.siliconflow.cn", "api.siliconflow.com"), ("SILICONFLOW_API_KEY",), JINA, 128),
    Provider("DashScope", _DASHSCOPE_HOSTS, ("DASHSCOPE_API_KEY",), DASHSCOPE, 500),
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address that answers rerank requests.

    :param url: the full address. No message shows its query string, which may hold a secret.
    :param api_format: the API format of requests and answers.
    :param max_documents: the most documents of a request.
    :param key: the token of the header ``Authorization: Bearer``; None to send no such header.
    :param variables: the environment variables that may hold the key, for messages.
    """

    url: str = field(repr=False)
    api_format: ApiFormat
    max_documents: int
    key: str | None = field(default=None, repr=False)
    variables: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """The address without its query string."""
        return self.url.partition("?")[0]


def find_endpoint(
    url: str,
    api_format: ApiFormat | None,
    argument: str,
    api_key: str | None = None,
    max_documents: int | None = None,
    allow_http: bool = False,
    *,
    keep_path: bool = False,
) -> Endpoint:
    """Return the endpoint for an address.

    :param url: the address of a service or of its route. A missing route of the API format is added.
    :param api_format: the API format; None to derive it from the address.
    :param argument: the name of the argument that holds the address, for messages.
    :param api_key: the key; None to read a hosted provider's key from the environment.
    :param max_documents: the most documents of a request; None for the service's limit.
    :param allow_http: allow sending the key unencrypted to other machines.
    :param keep_path: keep a path unchanged, unless it is only the beginning of a route.
    :returns: the endpoint.
    :raises InputError: for an invalid address, or an invalid or missing key.
    """
    parts = _split(url, argument)
    host = parts.hostname or ""
    provider = next((provider for provider in PROVIDERS if host in provider.hosts), None)
    api_format = api_format or _guess_format(parts, provider)
    variables = provider.variables if provider else ()
    keys = (_check_key(api_key, "api_key"), *(_check_key(os.environ.get(name), name) for name in variables))
    key = next(filter(None, keys), None)
    if provider and key is None:
        raise InputError(f"{provider.title} needs a key: pass api_key=..., or set {' or '.join(variables)}")
    if key and parts.scheme == "http" and not is_loopback(host) and not allow_http:
        raise InputError(
            f"the key would go to {host} without encryption, for everybody on the way to read. Use https://, or pass "
            "allow_http=True if that network is yours alone"
        )
    if max_documents is None:
        known = provider is not None and provider.api_format is api_format
        max_documents = provider.max_documents if provider and known else api_format.max_documents
    path = _route(parts.path, api_format.path, keep_path)
    whole = urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))
    return Endpoint(whole, api_format, check_count(max_documents, "max_documents"), key, variables)


def _split(url: object, argument: str) -> SplitResult:
    expected = f"{argument} must be an address such as http://localhost:8080 or https://rerank.example.com/prefix"
    if not isinstance(url, str):
        raise InputError(f"{expected}, got {type(url).__name__}")
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.strip().isprintable() or " " in url.strip():
        raise InputError(f"{expected}, got {url.partition('?')[0].rpartition('@')[2]!r}")
    if "@" in parts.netloc:
        raise InputError(f"{argument} holds a user or password before the @; pass the key as api_key=... instead")
    return parts


def _guess_format(parts: SplitResult, provider: Provider | None) -> ApiFormat:
    """Return the API format that an address suggests; most servers use Jina's."""
    if provider:
        return provider.api_format
    segments = [segment for segment in parts.path.split("/") if segment]
    if "voyage" in segments or "voyageai" in segments:
        return VOYAGE
    if segments[-2:] == ["v2", "rerank"]:
        return COHERE
    return DASHSCOPE if segments[-1:] == ["text-rerank"] else JINA


def _route(path: str, route: str, keep_path: bool) -> str:
    """Return a path with the missing part of the route added."""
    segments = [segment for segment in path.split("/") if segment]
    steps = route.split("/")
    if segments[-1:] == steps[-1:]:
        return path
    shared = next((size for size in range(len(steps), 0, -1) if segments[-size:] == steps[:size]), 0)
    if not shared and segments and segments[-1][:1] == "v" and segments[-1][1:].isdigit():
        shared = len(steps) - 1  # for example /v1, where the usual route is /v2/rerank
    return path if keep_path and segments and not shared else "/" + "/".join(segments + steps[shared:])


def _check_key(key: object, source: str) -> str | None:
    """Return a key that a header can carry, or None for an empty key. No message shows the key."""
    if key is not None and not isinstance(key, str):
        raise InputError(f"{source} must be a string, got {type(key).__name__}")
    stripped = (key or "").strip()
    if not (stripped.isascii() and stripped.isprintable()) or " " in stripped:
        raise InputError(f"{source} holds a blank, a line break or a letter that no key has; was it copied whole?")
    return stripped or None

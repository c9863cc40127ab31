"""Hosted providers with their keys, and the endpoint for a user's address."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, urlsplit, urlunsplit

from milvus_rerank.errors import InputError
from milvus_rerank.reranker.remote.api_formats import COHERE, DASHSCOPE, JINA, VOYAGE, ApiFormat
from milvus_rerank.reranker.remote.options import ServiceOptions
from milvus_rerank.validation import is_loopback

_SECRET_LENGTH = 6  # shorter values of an address's query string, such as a version, are no secrets


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
    """An address that answers rerank requests. Its pickle holds the key only with ``pickle_key``."""

    url: str = field(repr=False)  # no message shows its query string, which may hold a secret
    api_format: ApiFormat
    max_documents: int  # of a request
    key: str | None = field(default=None, repr=False)  # the token of the header "Authorization: Bearer"
    variables: tuple[str, ...] = ()  # environment variables that may hold the key
    pickle_key: bool = False
    needs_key: bool = False  # a pickle left the key behind, and no environment variable holds it

    @property
    def address(self) -> str:
        """The address without its query string."""
        return self.url.partition("?")[0]

    @property
    def secrets(self) -> tuple[str, ...]:
        """The key, the address's query string and its long values, each also as JSON, Python or an address has it."""
        query = self.url.partition("?")[2]
        values = [value for _, value in parse_qsl(query) if len(value) >= _SECRET_LENGTH]
        texts = [text for text in (self.key, query, *values) if text]
        forms = [form for text in texts for form in (text, json.dumps(text)[1:-1], repr(text)[1:-1], quote(text))]
        return tuple(sorted(set(forms), key=len, reverse=True))

    def redact(self, text: str) -> str:
        """Return the text without the secrets."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    def check_key(self) -> None:
        """Raise InputError if the key is missing since unpickling."""
        if self.needs_key:
            variable = f"set {' or '.join(self.variables)} here, or " if self.variables else ""
            raise InputError(
                f"the reranker for {self.address} was pickled without its key; {variable}create it with "
                "pickle_key=True, or create it here with api_key=..."
            )

    def __reduce__(self) -> tuple[Any, ...]:
        key = self.key if self.pickle_key else None
        values = (self.url, self.api_format, self.max_documents, key, self.variables, self.pickle_key)
        return _unpickle, (*values, self.needs_key or key != self.key)

    def __deepcopy__(self, memo: object) -> "Endpoint":
        return self


def _unpickle(*values: Any) -> Endpoint:
    endpoint = Endpoint(*values)
    with suppress(InputError):  # in a pool's worker the pool would hang; check_key raises at the first call
        key = _environment_key(endpoint.variables) if endpoint.needs_key else endpoint.key
        return replace(endpoint, key=key, needs_key=endpoint.needs_key and key is None)
    return endpoint


def find_endpoint(
    url: str,
    api_format: ApiFormat | None,
    api_key: str | None = None,
    options: ServiceOptions | None = None,
    argument: str = "url",
    keep_path: bool = False,
) -> Endpoint:
    """Return the endpoint for the address of a service or of its route; for the parameters see RemoteRerankFunction."""
    options = options or ServiceOptions()
    parts = _split(url, argument)
    host = parts.hostname or ""
    provider = next((provider for provider in PROVIDERS if host in provider.hosts), None)
    api_format = api_format or _guess_format(parts, provider)
    variables = provider.variables if provider else ()
    key = _check_key(api_key, "api_key") or _environment_key(variables)
    if provider and key is None:
        raise InputError(f"{provider.title} needs a key: pass api_key=..., or set {' or '.join(variables)}")
    if key and parts.scheme == "http" and not is_loopback(host) and not options.allow_http:
        raise InputError(
            f"the key would go to {host} without encryption, for everybody on the way to read. Use https://, or pass "
            "allow_http=True if that network is yours alone"
        )
    known = provider is not None and provider.api_format is api_format
    limit = options.max_documents or (provider.max_documents if provider and known else api_format.max_documents)
    path = _route(parts.path, api_format.path, keep_path)
    whole = urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))
    return Endpoint(whole, api_format, limit, key, variables, options.pickle_key)


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


def _environment_key(variables: tuple[str, ...]) -> str | None:
    return next(filter(None, (_check_key(os.environ.get(name), name) for name in variables)), None)


def _check_key(key: object, source: str) -> str | None:
    """Return a key that a header can carry, or None for an empty key. No message shows the key."""
    if key is not None and not isinstance(key, str):
        raise InputError(f"{source} must be a string, got {type(key).__name__}")
    stripped = (key or "").strip()
    if not (stripped.isascii() and stripped.isprintable()) or " " in stripped:
        raise InputError(f"{source} holds a blank, a line break or a letter that no key has; was it copied whole?")
    return stripped or None

"""Where a service is, whose it is, and which key it may see."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit, urlunsplit

from milvus_rerank.errors import InputError
from milvus_rerank.inputs import check_count, is_loopback
from milvus_rerank.reranker.remote.api_formats import COHERE, DASHSCOPE, JINA, VOYAGE, Dialect


@dataclass(frozen=True, slots=True)
class Vendor:
    """A hosted service.

    :param title: its name.
    :param hosts: where it is; nobody else sees the key of its variables.
    :param variables: the environment variables that may hold its key, the first that is set wins.
    :param dialect: how it is asked.
    :param max_documents: the most documents of a request.
    """

    title: str
    hosts: tuple[str, ...]
    variables: tuple[str, ...]
    dialect: Dialect
    max_documents: int


VENDORS = (
    Vendor("Cohere", ("api.cohere.com", "api.cohere.ai"), ("CO_API_KEY", "COHERE_API_KEY"), COHERE, 1000),
    Vendor("Jina", ("api.jina.ai",), ("JINA_API_KEY", "JINAAI_API_KEY"), JINA, 2048),
    Vendor("Voyage", ("api.voyageai.com",), ("VOYAGE_API_KEY",), VOYAGE, 1000),
    Vendor("SiliconFlow", ("api.siliconflow.cn", "api.siliconflow.com"), ("SILICONFLOW_API_KEY",), JINA, 128),
    Vendor(
        "DashScope",
        ("dashscope.aliyuncs.com", "dashscope-intl.aliyuncs.com"),
        ("DASHSCOPE_API_KEY",),
        DASHSCOPE,
        500,
    ),
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Whom to ask, and how.

    :param url: the whole address; its query is in no message, as it may hold a secret.
    :param dialect: the JSON to speak.
    :param max_documents: the most documents of a request.
    :param key: what to send as ``Authorization: Bearer``; None for nothing.
    :param variables: where else its key may come from, for messages.
    """

    url: str = field(repr=False)
    dialect: Dialect
    max_documents: int
    key: str | None = field(default=None, repr=False)
    variables: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """The address without its query."""
        return self.url.partition("?")[0]


def find_endpoint(
    url: str,
    dialect: Dialect | None,
    *,
    name: str,
    whole: bool = False,
    api_key: str | None = None,
    max_documents: int | None = None,
    allow_http: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> Endpoint:
    """Return the endpoint of an address.

    :param url: the address of a service or of its route; the dialect's route is added where it is not there yet.
    :param dialect: the JSON to speak; None goes by the address.
    :param name: what the argument with the address is called.
    :param whole: take a path as it is, unless it is only the beginning of a route.
    :param api_key: the key; None takes a hosted service's from the environment.
    :param max_documents: the most documents of a request; None for what the service takes.
    :param allow_http: send a key without encryption, to others than this machine.
    :param environment: the environment variables.
    :returns: the endpoint.
    :raises InputError: for an address or a key that cannot be used, or a key that is missing.
    """
    parts = _split(url, name)
    host = parts.hostname or ""
    vendor = next((one for one in VENDORS if host in one.hosts), None)
    dialect = dialect or _guess(parts, vendor)
    variables = vendor.variables if vendor else ()
    key = _key(api_key) or next((found for one in variables if (found := _key(environment.get(one), one))), None)
    if vendor and key is None:
        raise InputError(f"{vendor.title} needs a key: pass api_key=..., or set {' or '.join(variables)}")
    if key and parts.scheme == "http" and not is_loopback(host) and not allow_http:
        raise InputError(
            f"the key would go to {host} without encryption, for everybody on the way to read. Use https://, or pass "
            "allow_http=True if that network is yours alone"
        )
    if max_documents is None:
        max_documents = vendor.max_documents if vendor and vendor.dialect is dialect else dialect.max_documents
    return Endpoint(
        urlunsplit((parts.scheme, parts.netloc, _path(parts.path, dialect.path, whole), parts.query, "")),
        dialect,
        check_count(max_documents, "max_documents"),
        key,
        variables,
    )


def _split(url: object, name: str) -> SplitResult:
    advice = f"{name} must be an address such as http://localhost:8080 or https://rerank.example.com/prefix"
    if not isinstance(url, str):
        raise InputError(f"{advice}, got {type(url).__name__}")
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.strip().isprintable() or " " in url.strip():
        raise InputError(f"{advice}, got {url.partition('?')[0].rpartition('@')[2]!r}")
    if "@" in parts.netloc:
        raise InputError(f"{name} holds a user or password before the @; pass the key as api_key=... instead")
    return parts


def _guess(parts: SplitResult, vendor: Vendor | None) -> Dialect:
    """Tell by an address how to ask; Jina's JSON is what most servers have taken over."""
    if vendor:
        return vendor.dialect
    segments = [segment for segment in parts.path.split("/") if segment]
    if "voyage" in segments or "voyageai" in segments:
        return VOYAGE
    if segments[-2:] == ["v2", "rerank"]:
        return COHERE
    return DASHSCOPE if segments[-1:] == ["text-rerank"] else JINA


def _path(given: str, route: str, whole: bool) -> str:
    own = [segment for segment in given.split("/") if segment]
    tail = route.split("/")
    if own[-1:] == tail[-1:]:
        return given
    begun = next((size for size in range(len(tail), 0, -1) if own[-size:] == tail[:size]), 0)
    if not begun and own and _is_version(own[-1]):  # such as /v1 for a service whose own route is /v2/rerank
        begun = len(tail) - 1
    return given if whole and own and not begun else "/" + "/".join(own + tail[begun:])


def _is_version(segment: str) -> bool:
    return segment[:1] == "v" and segment[1:].isdigit()


def _key(given: object, source: str = "api_key") -> str | None:
    """Return a key that a header can carry; None if there is none. No message shows it."""
    if given is None:
        return None
    if not isinstance(given, str):
        raise InputError(f"{source} must be a string, got {type(given).__name__}")
    key = given.strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InputError(f"{source} holds a blank, a line break or a letter that no key has; was it copied whole?")
    return key or None

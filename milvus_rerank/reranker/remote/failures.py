"""Failed attempts: the service's message, the decision to retry, and advice to the user."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from milvus_rerank.errors import ServiceError, ServiceTimeoutError
from milvus_rerank.reranker.remote.providers import Endpoint

RETRYABLE = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP statuses after which the same request may succeed."""
TIMEOUTS = frozenset({408, 504})
"""HTTP statuses of a service, or a gateway in front of it, that waited too long."""
_MAX_SHOWN = 200
_MESSAGE_KEYS = ("message", "detail", "error", "msg")


@dataclass(eq=False)
class AttemptError(Exception):
    """An attempt failed."""

    problem: str  # the rest of a sentence about the service
    advice: str = ""  # the action that the user can take
    status: int | None = None  # None without an answer
    retry_after: float | None = None  # seconds that the service asks to wait before the next attempt
    retryable: bool = False
    timed_out: bool = False
    gave_up: str = ""  # the reason for no further attempt, as the rest of the problem's sentence

    def service_error(self, endpoint: Endpoint) -> ServiceError:
        """Return the error for the caller, without the endpoint's secrets."""
        message = f"{self.problem}{self.gave_up}" + (f"; {self.advice}" if self.advice else "")
        error_type = ServiceTimeoutError if self.timed_out else ServiceError
        return error_type(f"{endpoint.address} {endpoint.redact(message)}", self.status, self.retry_after)


def refusal(
    status: int, headers: Mapping[str, str], body: bytes, endpoint: Endpoint, concurrency: int, utc: float
) -> AttemptError:
    """Return the error for an answer with a status outside 200 to 299; ``utc`` is the time in seconds since 1970."""
    message = _message(body, endpoint)
    target = clean(headers.get("location", "").partition("?")[0], endpoint)
    return AttemptError(
        f"answered {status}" + (f" ({message})" if message else ""),
        _advice(status, target, endpoint, concurrency),
        status,
        retry_after(headers, utc),
        status in RETRYABLE,
        status in TIMEOUTS,
    )


def _advice(status: int, target: str, endpoint: Endpoint, concurrency: int) -> str:
    if 300 <= status < 400:
        return f"it points to {target}: give that address" if target else "give the address it points to"
    name, size = endpoint.api_format.name, f"request had up to {endpoint.max_documents} documents (max_documents)"
    wrong_body = f"are model_name and dialect {name!r} right? A {size}"
    wrong_key = " or ".join(["is the key right? pass api_key=...", *(f"set {name}" for name in endpoint.variables)])
    wrong_address = f"is the address right? The dialect {name!r} has the route /{endpoint.api_format.path}"
    return {
        400: wrong_body,
        401: wrong_key,
        403: wrong_key,
        404: wrong_address,
        405: wrong_address,
        413: f"lower max_documents: a {size}",
        422: wrong_body,
        429: f"ask less at once: concurrency is {concurrency}",
    }.get(status, "")


def _message(body: bytes, endpoint: Endpoint) -> str:
    """Return the message in an error's body on one short line; the body may be JSON, a web page, or empty."""
    text = body[:65536].decode("utf-8", "replace")
    try:
        value: Any = json.loads(text)
        while isinstance(value, dict) and (key := next((key for key in _MESSAGE_KEYS if value.get(key)), None)):
            value = value[key]
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) if value else ""
    except (ValueError, RecursionError):
        pass
    return clean(text, endpoint)


def clean(text: str, endpoint: Endpoint) -> str:
    """Return untrusted text on one short line of printable characters, without the endpoint's secrets."""
    text = endpoint.redact(text)[: 4 * _MAX_SHOWN]
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= _MAX_SHOWN else line[: _MAX_SHOWN - 3] + "..."


def retry_after(headers: Mapping[str, str], utc: float) -> float | None:
    """Return the seconds of ``Retry-After``, if any; a date counts from the answer's ``Date``, else from ``utc``."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        then, now = _timestamp(value), _timestamp(headers.get("date", ""))
        return None if then is None else max(0.0, then - (utc if now is None else now))
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _timestamp(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None

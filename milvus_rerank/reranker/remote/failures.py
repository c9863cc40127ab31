"""Failed attempts: the service's message, the decision to retry, and advice to the user."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from milvus_rerank.errors import ServiceError
from milvus_rerank.reranker.remote.providers import Endpoint

RETRYABLE = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP statuses after which the same request may succeed."""
_MAX_SHOWN = 200
_MESSAGE_KEYS = ("message", "detail", "error", "msg")


@dataclass(eq=False)
class AttemptError(Exception):
    """An attempt failed.

    :param problem: the failure, as the rest of a sentence about the service.
    :param advice: the action that the user can take.
    :param status: the HTTP status; None without an answer.
    :param retry_after: the seconds that the service asks to wait before the next attempt; None if it does not say.
    :param retryable: whether another attempt may succeed.
    :param gave_up: the reason for no further attempt, as the rest of the problem's sentence.
    """

    problem: str
    advice: str = ""
    status: int | None = None
    retry_after: float | None = None
    retryable: bool = False
    gave_up: str = ""

    def service_error(self, endpoint: Endpoint) -> ServiceError:
        """Return the error for the caller, without the endpoint's key."""
        message = f"{self.problem}{self.gave_up}" + (f"; {self.advice}" if self.advice else "")
        return ServiceError(f"{endpoint.address} {redact(message, endpoint.key)}", self.status, self.retry_after)


def redact(text: str, key: str | None) -> str:
    """Return the text with the key removed."""
    return text.replace(key, "***") if key else text


def refusal(
    status: int, headers: Mapping[str, str], text: str, endpoint: Endpoint, concurrency: int, utc: float
) -> AttemptError:
    """Return the error for an answer with a status outside 200 to 299; ``utc`` is the time in seconds since 1970."""
    message = read_message(text)
    return AttemptError(
        f"answered {status}" + (f" ({message})" if message else ""),
        _advice(status, headers, endpoint, concurrency),
        status,
        retry_after(headers, utc),
        status in RETRYABLE,
    )


def _advice(status: int, headers: Mapping[str, str], endpoint: Endpoint, concurrency: int) -> str:
    target = clean(headers.get("location", "").partition("?")[0])
    if 300 <= status < 400:
        return f"it points to {target}: give that address" if target else "give the address it points to"
    key_sources = " or ".join(["pass api_key=...", *(f"set {name}" for name in endpoint.variables)])
    name, route = endpoint.api_format.name, endpoint.api_format.path
    size = f"request had up to {endpoint.max_documents} documents (max_documents)"
    wrong_key = f"is the key right? {key_sources}"
    wrong_body = f"are model_name and dialect {name!r} right? A {size}"
    wrong_address = f"is the address right? The dialect {name!r} has the route /{route}"
    advice = {
        400: wrong_body,
        401: wrong_key,
        403: wrong_key,
        404: wrong_address,
        405: wrong_address,
        413: f"lower max_documents: a {size}",
        422: wrong_body,
        429: f"ask less at once: concurrency is {concurrency}",
    }
    return advice.get(status, "")


def read_message(text: str) -> str:
    """Return the message in an error's body on one short line; the body may be JSON, a web page, or empty."""
    text = text[:65536]
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return clean(text)
    while isinstance(value, dict) and (key := next((key for key in _MESSAGE_KEYS if value.get(key)), None)):
        value = value[key]
    return clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) if value else "")


def clean(text: str) -> str:
    """Return untrusted text on one line of printable characters, shortened."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text[: 4 * _MAX_SHOWN])
    line = " ".join(printable.split())
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

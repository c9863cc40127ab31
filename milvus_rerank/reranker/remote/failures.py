"""What can go wrong with a service, in words: what it said, when to ask again, and what its user can do."""

import json
import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from milvus_rerank.errors import ServiceError
from milvus_rerank.reranker.remote.providers import Endpoint
from milvus_rerank.reranker.remote.retry_policy import Policy

AGAIN = frozenset({408, 429, 500, 502, 503, 504})
"""The statuses after which the same request may succeed."""
_SHOWN = 200
_KEYS = ("message", "detail", "error", "msg")


class AttemptError(Exception):
    """One attempt failed.

    :param problem: what happened, as the rest of a sentence about the service.
    :param advice: what its user can do.
    :param status: the HTTP status; None if there was no answer.
    :param retry_after: after how many seconds the service wants to be asked again; None if it did not say.
    :param again: whether another attempt may succeed.
    """

    def __init__(
        self,
        problem: str,
        *,
        advice: str = "",
        status: int | None = None,
        retry_after: float | None = None,
        again: bool = False,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.advice = advice
        self.status = status
        self.retry_after = retry_after
        self.again = again
        self.end = ""
        """Why there was no other attempt."""

    def error(self, endpoint: Endpoint) -> ServiceError:
        """Return the error that the caller sees.

        :param endpoint: whom it was asked of; its key is taken out of whatever the service said.
        :returns: the error.
        """
        said = f"{self.problem}{self.end}" + (f"; {self.advice}" if self.advice else "")
        if endpoint.key:
            said = said.replace(endpoint.key, "***")
        return ServiceError(f"{endpoint.address} {said}", self.status, self.retry_after)


def refusal(
    status: int, headers: Mapping[str, str], body: bytes, endpoint: Endpoint, policy: Policy, utc: float
) -> AttemptError:
    """Return the failure that a status tells of.

    :param status: the HTTP status, none of 200 to 299.
    :param headers: the answer's headers, by names in lower case.
    :param body: the answer, or its beginning.
    :param endpoint: who answered.
    :param policy: what the advice may name.
    :param utc: seconds since 1970.
    :returns: the failure.
    """
    said = message_of(body)
    return AttemptError(
        f"answered {status}" + (f" ({said})" if said else ""),
        advice=_advice(status, headers, endpoint, policy),
        status=status,
        retry_after=retry_after(headers, utc),
        again=status in AGAIN,
    )


def _advice(status: int, headers: Mapping[str, str], endpoint: Endpoint, policy: Policy) -> str:
    if 300 <= status < 400:
        target = headers.get("location", "").partition("?")[0]
        return f"it points to {clean(target)}: give that address" if target else "give the address it points to"
    if status in (401, 403):
        sources = ["pass api_key=...", *(f"set {name}" for name in endpoint.variables)]
        return f"is the key right? {' or '.join(sources)}"
    if status in (400, 422):
        return f"are model_name and dialect {endpoint.dialect.name!r} right? A request had up to {_limit(endpoint)}"
    if status == 413:
        return f"lower max_documents: a request had up to {_limit(endpoint)}"
    if status in (404, 405):
        return f"is the address right? The dialect {endpoint.dialect.name!r} has the route /{endpoint.dialect.path}"
    return f"ask less at once: concurrency is {policy.concurrency}" if status == 429 else ""


def _limit(endpoint: Endpoint) -> str:
    return f"{endpoint.max_documents} documents (max_documents)"


def message_of(body: bytes) -> str:
    """Return what an error's body says, on one short line.

    :param body: JSON of any service, a page, or nothing.
    :returns: the message; the beginning of the body where it holds none.
    """
    text = body[:65536].decode("utf-8", "replace")
    try:
        held: Any = json.loads(text)
    except (ValueError, RecursionError):
        return clean(text)
    while isinstance(held, dict) and (found := next((held[key] for key in _KEYS if held.get(key)), None)) is not None:
        held = found
    return clean(held if isinstance(held, str) else json.dumps(held, ensure_ascii=False) if held else "")


def clean(text: str) -> str:
    """Return a stranger's text on one line of printable characters, shortened."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text[: 4 * _SHOWN]).split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 3] + "..."


def retry_after(headers: Mapping[str, str], utc: float) -> float | None:
    """Return after how many seconds a service wants to be asked again.

    :param headers: the answer's headers.
    :param utc: seconds since 1970, for a service that gives a date and does not say what time it has.
    :returns: the seconds, at least 0; None if it does not say, or not in a way that can be read.
    """
    given = headers.get("retry-after", "").strip()
    try:
        seconds = float(given)
    except ValueError:
        then, now = _date(given), _date(headers.get("date", ""))
        return None if then is None else max(0.0, then - (utc if now is None else now))
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None

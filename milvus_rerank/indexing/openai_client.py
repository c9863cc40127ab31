"""Vectors from an endpoint in the shape of OpenAI's: OpenAI, vLLM, text-embeddings-inference, Ollama and others."""

import os
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any

import httpx

from milvus_rerank.errors import InputError, SearchError
from milvus_rerank.reranker.remote.failures import RETRYABLE, retry_after

URL_VARIABLE, KEY_VARIABLE = "OPENAI_BASE_URL", "OPENAI_API_KEY"
OPENAI = "https://api.openai.com/v1"
_BATCH = 32  # texts of one request: text-embeddings-inference takes no more unless told
_ATTEMPTS = 5
_LONGEST_WAIT = 30.0  # seconds
_LOCAL = ("127.0.0.1", "localhost", "::1")


class OpenAIClient:
    """Ask an endpoint for the vectors of texts.

    The address comes from OPENAI_BASE_URL, and the key from OPENAI_API_KEY; no message shows the key.

    :param model: the model's name at the endpoint.
    :param client: sends the requests.
    :param sleep: waits so many seconds before another attempt.
    :raises InputError: for a missing name or key, an address that is none, or a key that would be sent unencrypted.
    """

    def __init__(
        self, model: str, client: httpx.Client | None = None, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        base, key = os.environ.get(URL_VARIABLE) or OPENAI, os.environ.get(KEY_VARIABLE, "").strip()
        try:
            url = httpx.URL(f"{base.rstrip('/')}/embeddings")
        except httpx.InvalidURL as error:
            raise InputError(f"{URL_VARIABLE} is no address ({error}); for example {OPENAI}") from None
        self._address = str(url.copy_with(username=None, password=None, query=None))
        if url.scheme not in ("http", "https") or not url.host:
            raise InputError(f"{URL_VARIABLE} must begin with https:// or http://, got {self._address!r}")
        if not model:
            raise InputError("embedder 'openai:' lacks a model's name; for example 'openai:text-embedding-3-small'")
        if not key and url.host == httpx.URL(OPENAI).host:
            raise InputError(f"embedder 'openai:{model}' needs {KEY_VARIABLE}, or {URL_VARIABLE} of another server")
        if key and url.scheme != "https" and url.host not in _LOCAL:
            raise InputError(f"{self._address} would get {KEY_VARIABLE} unencrypted; use https, or unset the key")
        self._url, self._model, self._key, self._sleep = url, model, key, sleep
        self._client = client or httpx.Client(timeout=60.0)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector per text, in their order; raise a ``SearchError`` if the endpoint fails."""
        return [
            row for start in range(0, len(texts), _BATCH) for row in self._embed(list(texts[start : start + _BATCH]))
        ]

    def _embed(self, texts: list[str]) -> list[list[float]]:
        answer = self._send({"model": self._model, "input": texts})
        try:
            rows = {row["index"]: row["embedding"] for row in answer.json()["data"]}
            return [rows[index] for index in range(len(texts))]
        except (ValueError, KeyError, TypeError) as error:
            raise SearchError(f"{self._address} gave no embeddings: {type(error).__name__} {error}") from None

    def _send(self, body: dict[str, Any]) -> httpx.Response:
        """Return the answer to a request, which is sent again after an error that may pass."""
        for attempt in range(_ATTEMPTS):
            wait = min(2.0**attempt, _LONGEST_WAIT)
            try:
                answer = self._client.post(self._url, json=body, headers=self._headers)
            except httpx.HTTPError as error:
                problem, retries = (
                    f"does not answer ({type(error).__name__})",
                    not isinstance(error, httpx.ConnectError),
                )
            else:
                if answer.is_success:
                    return answer
                problem, retries = (
                    f"answered {answer.status_code}{self._reason(answer)}",
                    answer.status_code in RETRYABLE,
                )
                asked = retry_after(answer.headers, datetime.now(timezone.utc).timestamp())
                wait = wait if asked is None else asked
            if not retries or wait > _LONGEST_WAIT or attempt == _ATTEMPTS - 1:
                break
            self._sleep(wait)
        raise SearchError(f"embedder 'openai:{self._model}': {self._address} {problem}")

    def _reason(self, answer: httpx.Response) -> str:
        """Return the service's words on one short line, without the key."""
        text = answer.text[:2000]
        text = " ".join((text.replace(self._key, "***") if self._key else text).split())
        return f": {text[:200]}" if text else ""

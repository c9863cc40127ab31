"""Open a Milvus client, and explain its errors while a collection is made or read."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from milvus_rerank.errors import InputError, RerankError, SearchError
from milvus_rerank.requirements import require
from milvus_rerank.search.milvus import message_of, milvus_errors

_SCHEMES = ("http://", "https://", "tcp://", "unix:")


class _Reasons(logging.Handler):
    """Collect logged exceptions: Milvus Lite logs the reason why it cannot open a file, and does not raise it."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the exception of a log record."""
        if record.exc_info and record.exc_info[1]:
            self.reasons.append(str(record.exc_info[1]))


@contextmanager
def open_client(uri: str, *, token: str = "", timeout: float | None = 30.0, must_exist: bool = False) -> Iterator[Any]:
    """Connect to Milvus, and close the connection at the end.

    :param uri: a path that ends in ``.db`` for Milvus Lite, or a server's ``http://host:port``.
    :param token: ``user:password`` or an API key; "" for none.
    :param timeout: seconds to wait for the server.
    :param must_exist: do not create a missing Milvus Lite file.
    :yields: a ``MilvusClient``.
    :raises InputError: for a uri of another form, or a missing file.
    :raises SearchError: if the file cannot be opened or the server cannot be reached.
    :raises MissingDependencyError: if pymilvus or milvus-lite is not installed.
    """
    local = not uri.startswith(_SCHEMES)
    if local:
        _check_path(uri, must_exist)
    require(f"opening {uri}", "pymilvus", *(("milvus_lite",) if local else ()))
    from pymilvus import MilvusClient

    lite, heard = logging.getLogger("milvus_lite.server_manager"), _Reasons()
    lite.addHandler(heard)
    try:
        client = MilvusClient(os.path.expanduser(uri) if local else uri, token=token, timeout=timeout)
    except milvus_errors() as error:
        raise SearchError(f"Milvus at {uri} cannot be opened: {_advice(error, heard.reasons, local)}") from error
    finally:
        lite.removeHandler(heard)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def explain_errors(doing: str, advice: str = "") -> Iterator[None]:
    """Turn pymilvus' exceptions into a ``SearchError`` that names the action.

    :param doing: the action, such as ``create the collection 'docs'``.
    :param advice: what the user can do; "" if that is unknown.
    :yields: nothing.
    :raises SearchError: if Milvus refuses, fails or does not answer.
    """
    try:
        yield
    except RerankError:
        raise
    except milvus_errors() as error:
        text = f"Milvus could not {doing}: {message_of(error)}"
        raise SearchError(f"{text.rstrip('.')}. {advice}" if advice else text) from error


def _check_path(uri: str, must_exist: bool) -> None:
    path = Path(uri).expanduser()
    if path.suffix != ".db":
        raise InputError(
            f"uri must be a Milvus Lite path that ends in .db, or a server such as http://localhost:19530; got {uri!r}"
        )
    if path.is_file():
        raise InputError(
            f"{uri} is a file, but Milvus Lite 3 keeps its data in a folder of that name; choose another path, or move "
            f"the file away (if an older Milvus Lite made it, index its source anew)"
        )
    if must_exist and not path.exists():
        raise InputError(f"there is no Milvus Lite file {uri}; make it with: milvus-rerank index SOURCE --uri {uri}")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent} to put {path.name} in")


def _advice(error: Exception, reasons: list[str], local: bool) -> str:
    if any("lock" in reason for reason in reasons):
        return (
            "another process has it open, and a Milvus Lite file serves one at a time; wait for it to end, or run: "
            "milvus-lite server --data-dir FOLDER"
        )
    if reasons:
        return reasons[-1]
    return message_of(error) if local else f"{message_of(error)}. Is the server running, and is the token right?"

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

_LITE = {"grpc_options": {"grpc.keepalive_time_ms": 2**31 - 1}}
"""Arguments of a client of Milvus Lite: no keepalive.

pymilvus pings the server every 10 seconds. Milvus Lite is a gRPC server in this process, with gRPC's default limit of
one ping in 5 minutes: after some pings it closes the connection (``too_many_pings``), and gRPC writes so to stderr.
"""
_SCHEMES = ("http://", "https://", "tcp://", "unix:")


@contextmanager
def open_client(
    uri: str, *, token: str = "", db_name: str = "", timeout: float | None = 30.0, must_exist: bool = False
) -> Iterator[Any]:
    """Connect to Milvus as :func:`connect` does, and close the connection at the end."""
    client = connect(uri, token=token, db_name=db_name, timeout=timeout, must_exist=must_exist)
    try:
        yield client
    finally:
        client.close()


def connect(
    uri: str, *, token: str = "", db_name: str = "", timeout: float | None = 30.0, must_exist: bool = False
) -> Any:
    """Connect to Milvus.

    :param uri: a path that ends in ``.db`` for Milvus Lite, or a server's ``http://host:port``.
    :param token: ``user:password`` or an API key; "" for none.
    :param db_name: the server's database; "" for its default.
    :param timeout: seconds to wait for the server.
    :param must_exist: do not create a missing Milvus Lite file.
    :returns: a ``MilvusClient``.
    :raises SearchError: if Milvus does not answer, or refuses.
    """
    local = not uri.startswith(_SCHEMES)
    if local:
        _check_path(uri, must_exist)
    require(f"opening {uri}", "pymilvus", *(("milvus_lite",) if local else ()))
    from pymilvus import MilvusClient

    reasons: list[str] = []

    def keep_reason(record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1]:
            reasons.append(str(record.exc_info[1]))
        return True

    log = logging.getLogger("milvus_lite.server_manager")  # it logs why a file cannot be opened, and does not raise it
    log.addFilter(keep_reason)
    try:
        address = os.path.expanduser(uri) if local else uri
        return MilvusClient(address, token=token, db_name=db_name, timeout=timeout, **(_LITE if local else {}))
    except milvus_errors() as error:
        raise SearchError(f"Milvus at {uri} cannot be opened: {_advice(error, reasons, local)}") from error
    finally:
        log.removeFilter(keep_reason)


@contextmanager
def explain_errors(action: str, advice: str = "") -> Iterator[None]:
    """Turn pymilvus' exceptions into a ``SearchError`` that names the action, and what the user can do."""
    try:
        yield
    except RerankError:
        raise
    except milvus_errors() as error:
        text = f"Milvus could not {action}: {message_of(error)}"
        raise SearchError(f"{text.rstrip('.')}. {advice}" if advice else text) from error


def _check_path(uri: str, must_exist: bool) -> None:
    path = Path(uri).expanduser()
    if path.suffix != ".db":
        raise InputError(
            f"uri must be a Milvus Lite path that ends in .db, or a server such as http://localhost:19530; got {uri!r}"
        )
    if path.is_file():
        raise InputError(
            f"uri {uri} is a file, but Milvus Lite 3 keeps its data in a folder; choose another path, or move the file "
            f"away (if an older Milvus Lite made it, index its source anew)"
        )
    if must_exist and not path.exists():
        raise InputError(
            f"the Milvus Lite file {uri} does not exist; create it with: milvus-rerank index SOURCE --uri {uri}"
        )
    if not path.parent.is_dir():
        raise InputError(f"cannot create {uri}: the folder {path.parent} does not exist")


def _advice(error: Exception, reasons: list[str], local: bool) -> str:
    if any("lock" in reason for reason in reasons):
        return (
            "another process has it open, and only one can open a Milvus Lite file; wait for it to end, or start a "
            "server for all of them: milvus-lite server --data-dir FOLDER"
        )
    if reasons:
        return reasons[-1]
    return message_of(error) if local else f"{message_of(error)}. Is the server running, and is the token right?"

"""Settings of the server: address, keys and limits."""

import hmac
from dataclasses import dataclass, field
from pathlib import Path

from milvus_rerank.errors import InputError
from milvus_rerank.validation import is_loopback

KEYS_VARIABLE = "MILVUS_RERANK_API_KEYS"
"""The environment variable that holds the keys, separated by commas."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one request and of all requests together.

    :param body_bytes: the most bytes of a body.
    :param values: the most values in the JSON of a body: texts, numbers, names, lists and objects.
    :param documents: the most documents of a request.
    :param text_characters: the most characters of a query or a document; the model reads fewer anyway.
    :param requests: the most requests at once, from the first byte of the body to the response.
    :param held_bytes: the most bytes of the bodies of all these requests together.
    :param queue_tokens: the most tokens that wait for a device.
    :param deadline: the most seconds from a body's arrival to the response.
    :param header_seconds: the most seconds for the headers of a request to arrive.
    :param send_seconds: the most seconds until a client has read an answer, all but 64 KiB of it.
    :param connections: the most open connections; a further one closes the one that has been idle longest.
    :param body_seconds: the most seconds for a body to arrive.
    :param drain_seconds: the most seconds to finish waiting requests at shutdown.
    """

    body_bytes: int = 16 * 1024 * 1024
    values: int = 50_000
    documents: int = 2000
    text_characters: int = 200_000
    requests: int = 512
    held_bytes: int = 256 * 1024 * 1024
    queue_tokens: int = 1_000_000
    deadline: float = 30.0
    header_seconds: float = 10.0
    body_seconds: float = 10.0
    send_seconds: float = 30.0
    connections: int = 1000
    drain_seconds: float = 20.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a server.

    :param host: the address to listen on.
    :param port: the port; 0 for any free port.
    :param keys: API keys, of which clients must send one; an empty tuple disables the check.
    :param limits: limits of requests.
    :param open: True to listen without a key on an address that other machines can reach.
    :param allowed_hosts: the names by which clients may address the server, beside those of this machine's loopback; an
        empty tuple allows any name, unless the server listens on loopback without a key.
    """

    host: str = "127.0.0.1"
    port: int = 8787
    keys: tuple[bytes, ...] = field(default=(), repr=False)
    limits: Limits = field(default_factory=Limits)
    open: bool = False
    allowed_hosts: tuple[str, ...] = ()

    def refuses_host(self, header: str) -> bool:
        """Tell whether a request with this ``Host`` header is refused.

        A web page can make a browser send requests here under the page's own name (DNS rebinding), and read answers.
        """
        if not self.allowed_hosts and (self.keys or not is_loopback(self.host)):
            return False
        name = host_name(header)
        return not is_loopback(name) and name not in {host.lower().rstrip(".") for host in self.allowed_hosts}

    def refuses_origin(self, origin: str, header: str) -> bool:
        """Tell whether a request with these ``Origin`` and ``Host`` headers comes from a page of another site."""
        if self.keys:
            return False
        scheme, _, address = origin.partition("://")
        return scheme not in ("http", "https") or address.lower() != header.lower()

    def check(self) -> None:
        """Check that only clients with a key can reach the server from other machines, unless ``open`` is set.

        :raises InputError: if other machines can reach the address and no key is set; the message says what to type.
        """
        if not self.keys and not self.open and not is_loopback(self.host):
            raise InputError(
                f"others can reach --host {self.host}, and there is no key. Set {KEYS_VARIABLE}, give --keys-file FILE "
                "with one key a line, or say --open to serve anybody"
            )

    def admits(self, authorization: str | None) -> bool:
        """Return True if this ``Authorization`` header holds one of the keys."""
        scheme, _, key = (authorization or "").partition(" ")
        token = key.strip().encode("latin-1", "replace")
        # Compare with every key, each in constant time: the duration reveals nothing about the keys.
        matches = [hmac.compare_digest(token, key) for key in self.keys]
        return scheme.lower() == "bearer" and any(matches)


def host_name(header: str) -> str:
    """Return the name in a ``Host`` header, in lower case, without port, brackets and the dot at its end."""
    name = header.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0].rstrip(".")


def read_keys(variable: str | None, file: Path | None) -> tuple[bytes, ...]:
    """Return the keys of an environment variable and of a file.

    :param variable: the variable's value, keys separated by commas; None or "" for no keys.
    :param file: a file with one key per line; empty lines and lines that begin with ``#`` are skipped.
    :returns: the keys.
    :raises InputError: if the file cannot be read, or the given sources hold no key.
    """
    lines = (variable or "").split(",")
    if file is not None:
        try:
            lines += [line for line in file.read_text("utf-8").splitlines() if not line.lstrip().startswith("#")]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the keys file {file} cannot be read: {error}") from error
    keys = tuple(line.strip().encode() for line in lines if line.strip())
    sources = [name for name, value in ((KEYS_VARIABLE, variable), (f"--keys-file {file}", file)) if value]
    if sources and not keys:
        raise InputError(f"{' and '.join(sources)}: there is no key in it; one key a line, or with commas between them")
    return keys

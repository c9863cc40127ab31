"""What a server can be told."""

import hmac
from dataclasses import dataclass, field
from pathlib import Path

from milvus_rerank.errors import InputError
from milvus_rerank.validation import is_loopback

KEYS_VARIABLE = "MILVUS_RERANK_API_KEYS"
"""The environment variable that holds the keys, with commas between them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request, and all of them together, may take.

    :param body_bytes: the largest body.
    :param documents: the most documents of a request.
    :param text_characters: the most characters of a query or a document; the model reads less of it anyway.
    :param requests: the most requests at once, from the first byte of the body to the answer.
    :param held_bytes: the most bytes of the bodies of all these.
    :param queue_tokens: the most tokens that wait on a device.
    :param deadline: seconds from a body's arrival to the answer.
    :param header_seconds: seconds for the headers of a request to arrive.
    :param body_seconds: seconds for a body to arrive.
    :param drain_seconds: seconds to finish what waits when the server is told to stop.
    """

    body_bytes: int = 16 * 1024 * 1024
    documents: int = 2000
    text_characters: int = 200_000
    requests: int = 512
    held_bytes: int = 256 * 1024 * 1024
    queue_tokens: int = 1_000_000
    deadline: float = 30.0
    header_seconds: float = 10.0
    body_seconds: float = 10.0
    drain_seconds: float = 20.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How to serve.

    :param host: the address to listen on.
    :param port: the port; 0 for a free one.
    :param keys: what clients must present, any of them; none for no check.
    :param limits: what requests may take.
    :param open: listen on an address that others can reach even without a key.
    """

    host: str = "127.0.0.1"
    port: int = 8787
    keys: tuple[bytes, ...] = field(default=(), repr=False)
    limits: Limits = field(default_factory=Limits)
    open: bool = False

    def check(self) -> None:
        """Refuse to serve anybody who comes, unless told to.

        :raises InputError: if others can reach the address and there is no key; the message says what to type.
        """
        if not self.keys and not self.open and not is_loopback(self.host):
            raise InputError(
                f"others can reach --host {self.host}, and there is no key. Set {KEYS_VARIABLE}, give --keys-file FILE "
                "with one key a line, or say --open to serve anybody"
            )

    def admits(self, authorization: str | None) -> bool:
        """Tell whether a request with this ``Authorization`` header may pass."""
        if not self.keys:
            return True
        scheme, _, given = (authorization or "").partition(" ")
        token = given.strip().encode("latin-1", "replace")
        # All keys are compared, each in constant time: the time tells nothing about any of them.
        matches = [hmac.compare_digest(token, key) for key in self.keys]
        return scheme.lower() == "bearer" and any(matches)


def read_keys(variable: str | None, file: Path | None) -> tuple[bytes, ...]:
    """Return the keys of an environment variable and of a file.

    :param variable: keys with commas between them; None or "" for none.
    :param file: one key a line; empty lines and those that begin with ``#`` are skipped.
    :returns: the keys.
    :raises InputError: if the file cannot be read, or a source was given and holds no key.
    """
    lines = (variable or "").split(",")
    if file is not None:
        try:
            lines += [line for line in file.read_text("utf-8").splitlines() if not line.lstrip().startswith("#")]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the keys file {file} cannot be read: {error}") from error
    keys = tuple(line.strip().encode() for line in lines if line.strip())
    given = [name for name, one in ((KEYS_VARIABLE, variable), (f"--keys-file {file}", file)) if one]
    if given and not keys:
        raise InputError(f"{' and '.join(given)}: there is no key in it; one key a line, or with commas between them")
    return keys

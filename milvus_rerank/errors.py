"""All errors that this package raises on purpose, in one tree.

RerankError
├── InputError               a query, a document or an option that cannot be used
│   ├── HitError             a Milvus hit without usable text
│   └── OptionError          an unknown or missing option of a registered reranker
├── ScoreError               a reranker returned NaN, an infinite score, or the wrong number of scores
├── ModelError               a model that cannot be found, read or used for reranking
├── WriteError              a file that cannot be written, or a lock that another process keeps
├── ForkError               a model that a forked process cannot use
├── DeviceError              a device that this machine does not have
├── OutOfMemoryError         a model's weights or a single pair do not fit the device's memory
├── MissingDependencyError   a package is not installed
├── RegistryError            an unknown reranker name, a name clash, or a plugin that does not load
├── SearchError              Milvus failed, or did not answer in time
├── ServiceError             a rerank service was unreachable, refused, or gave an unusable answer
│   └── ServiceTimeoutError  a rerank service did not answer in time
├── StageError               a stage of a cascade failed
├── FallbackError            all rerankers of a chain failed
├── OverloadedError          a server is overloaded
├── DeadlineError            a server did not finish in time
└── StoppedError             the work was stopped before its end

Each also derives from the builtin exception that callers would expect, so ``except ValueError`` keeps working.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


def install_command(*extras: str) -> str:
    """Return the command that installs milvus-rerank with extras; "" is no extra."""
    wanted = ",".join(sorted(set(extras) - {""}))
    return f'pip install "milvus-rerank[{wanted}]"' if wanted else "pip install milvus-rerank"


class RerankError(Exception):
    """Base class of all errors of this package."""


class InputError(RerankError, ValueError):
    """A query, a document or an option cannot be used."""


class HitError(InputError):
    """A Milvus hit has no usable text.

    :param problem: the hit, and the part that it lacks.
    :param advice: the action that a caller of the function can take; "" for none.
    """

    def __init__(self, problem: str, advice: str = "") -> None:
        super().__init__(f"{problem}. {advice}" if advice else problem)
        self.problem = problem
        self.advice = advice

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.problem, self.advice)


class OptionError(InputError, TypeError):
    """A registered reranker does not take an option, or needs one that is missing."""


class ScoreError(RerankError, ValueError):
    """A reranker returned NaN, an infinite score, or the wrong number of scores."""


class ModelError(RerankError, OSError):
    """A model cannot be found, read or used for reranking."""


class DeviceError(RerankError, RuntimeError):
    """The requested device is not available on this machine."""


class WriteError(RerankError, OSError):
    """A file cannot be written, as on a full or read-only disk, or another process keeps its lock."""


class ForkError(RerankError, RuntimeError):
    """A model was loaded before a fork, and the forked process cannot use it."""


class OutOfMemoryError(RerankError, MemoryError):
    """A batch does not fit the device's memory."""


class MissingDependencyError(RerankError, ImportError):
    """A package is not installed; the message has the command that installs it.

    :param packages: the missing packages.
    :param extras: the extras of milvus-rerank that install them; "" for packages that milvus-rerank always installs.
    :param purpose: the task that needs the packages.
    """

    def __init__(self, packages: Sequence[str], extras: Sequence[str], purpose: str) -> None:
        names = [repr(name.replace("_", "-")) for name in packages]
        listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
        noun, verb = ("package", "is") if len(names) == 1 else ("packages", "are")
        command = install_command(*extras)
        super().__init__(f"{purpose} needs the {noun} {listed}, which {verb} not installed. Type: {command}")
        self.packages = tuple(packages)
        self.extras = tuple(extras)
        self.purpose = purpose

    def __reduce__(self) -> tuple[type, tuple[tuple[str, ...], tuple[str, ...], str]]:
        return type(self), (self.packages, self.extras, self.purpose)


class RegistryError(RerankError, LookupError):
    """A reranker name is unknown or taken, or its target does not load."""


class SearchError(RerankError, RuntimeError):
    """The first stage failed: Milvus raised an error or did not answer in time."""


class ServiceError(RerankError, RuntimeError):
    """A rerank service was unreachable, refused, or gave an unusable answer.

    :param message: the service and the failure.
    :param status: the HTTP status of the answer; None without an answer.
    :param retry_after: the seconds that the service asks to wait before a retry; None if it does not say.
    """

    def __init__(self, message: str, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class ServiceTimeoutError(ServiceError, TimeoutError):
    """A rerank service did not answer in time, or reported a timeout (408, 504)."""


class StageError(RerankError, RuntimeError):
    """A stage of a cascade failed; ``__cause__`` is its exception."""


class FallbackError(RerankError, RuntimeError):
    """All rerankers of a chain of fallbacks failed; the message has the failure of each."""


class OverloadedError(RerankError):
    """A server is overloaded; after ``retry_after`` seconds a retry may succeed."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = max(1, math.ceil(retry_after))


class DeadlineError(RerankError, TimeoutError):
    """A server did not finish a request within its time limit."""


class StoppedError(RerankError):
    """The work was stopped before its end."""


@contextmanager
def write_errors(target: object, advice: str) -> Iterator[None]:
    """Convert the OSErrors of a block that writes.

    :param target: the file or folder.
    :param advice: the action that the user can take.
    :yields: None.
    :raises WriteError: instead of an OSError; it names both.
    """
    try:
        yield
    except RerankError:
        raise
    except OSError as error:
        raise WriteError(f"{target} cannot be written ({error}); {advice}") from error

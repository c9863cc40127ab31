"""Every error this package raises on purpose, in one tree.

RerankError
├── InputError               a query, a document or an option that cannot be used
│   ├── HitError             a Milvus hit that has no usable text
│   └── OptionError          an option that a registered reranker does not take
├── ScoreError               a reranker gave a score that cannot be ordered, or the wrong number of them
├── ModelError               a model that cannot be found, read or used for reranking
├── DeviceError              a device that this machine does not have
├── OutOfMemoryError         one pair alone does not fit the device's memory
├── MissingDependencyError   a package is not installed
├── RegistryError            an unknown reranker name, a clash of names, or a plugin that does not load
├── SearchError              Milvus failed, or did not answer in time
├── ServiceError             a rerank service was not reached, refused, or gave an answer that cannot be used
├── StageError               a stage of a cascade failed
├── OverloadedError          a server has too much to do already
├── DeadlineError            a server did not get done in time
└── StoppedError             the work was stopped from outside before its end

Each also derives from the builtin exception that callers would expect, so ``except ValueError`` keeps working.
"""

import math
from collections.abc import Sequence


def install_command(*extras: str) -> str:
    """Return the line to type that installs milvus-rerank with extras.

    :param *extras: names of extras; "" for none.
    :returns: such as ``pip install "milvus-rerank[eval,lite]"``.
    """
    wanted = ",".join(sorted(set(extras) - {""}))
    return f'pip install "milvus-rerank[{wanted}]"' if wanted else "pip install milvus-rerank"


class RerankError(Exception):
    """Base of every error of this package."""


class InputError(RerankError, ValueError):
    """A query, a document or an option cannot be used."""


class HitError(InputError):
    """A Milvus hit has no usable text.

    :param problem: which hit, and what it lacks.
    :param advice: what a caller of the function can do; "" for nothing.
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
    """The device that was asked for is not on this machine."""


class OutOfMemoryError(RerankError, MemoryError):
    """A batch does not fit the device's memory."""


class MissingDependencyError(RerankError, ImportError):
    """A package is not installed; the message says what to type.

    :param packages: the packages that are missing.
    :param extras: the extras of milvus-rerank that install them; "" for what milvus-rerank itself installs.
    :param purpose: what needs the packages.
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
    """A rerank service was not reached, refused, or gave an answer that cannot be used.

    :param message: which service, and what happened.
    :param status: the HTTP status of its answer; None if there was none.
    :param retry_after: after how many seconds it wants to be asked again; None if it did not say.
    """

    def __init__(self, message: str, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class StageError(RerankError, RuntimeError):
    """A stage of a cascade failed; ``__cause__`` is what it raised."""


class OverloadedError(RerankError):
    """A server has too much to do already.

    :param message: why it refused.
    :param retry_after: seconds after which it may be better.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = max(1, math.ceil(retry_after))


class DeadlineError(RerankError, TimeoutError):
    """A server did not get done with a request in the time it may take."""


class StoppedError(RerankError):
    """The work was stopped from outside before its end."""

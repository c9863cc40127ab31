import logging
import os
import re
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import of the hub client: no test may ask the network
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # tiny models: threads only get in each other's way
os.environ["MILVUS_RERANK_CACHE"] = tempfile.mkdtemp(prefix="milvus-rerank-tests-")  # never the user's own

from milvus_rerank.errors import MissingDependencyError
from milvus_rerank.requirements import PACKAGES, missing

# What tests may lack: each skips then, and says so. With `make test` nothing may be missing.
COMPLETE = "MILVUS_RERANK_TESTS_COMPLETE" in os.environ
OPTIONAL = {
    *(name.partition(".")[0] for name, extra in PACKAGES.items() if extra),
    "anyio", "cohere", "hatchling", "ipykernel", "langchain_cohere", "nbclient", "nbformat", "playwright",
    "schemathesis", "scipy", "sphinx", "starlette", "testcontainers", "voyageai", "yaml",
}  # fmt: skip


def absent(error: BaseException) -> list[str]:
    """Return the optional packages that are not installed here and that an error is about."""
    if isinstance(error, MissingDependencyError):
        names = error.packages
    elif isinstance(error, ModuleNotFoundError):
        names = ((error.name or "").partition(".")[0],)
    else:
        return []
    return [] if COMPLETE else [name for name in names if name.partition(".")[0] in OPTIONAL and missing(name)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Skip a test that needs a package that is not installed."""
    try:
        yield
    except (ModuleNotFoundError, MissingDependencyError) as error:
        if not (names := absent(error)):
            raise
        pytest.skip(f"needs {', '.join(names)}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Skip a test that says, or whose fixtures find, that it needs a package that is not installed."""
    names = missing(*(name for mark in item.iter_markers("needs") for name in mark.args))
    if names and not COMPLETE:
        pytest.skip(f"needs {', '.join(names)}")
    return (yield from pytest_runtest_call())


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Skip a file that imports a package that is not installed."""
    report = yield
    named = re.search(r"No module named '(\w+)", str(report.longrepr)) if report.failed else None
    if named and absent(ModuleNotFoundError(name=named[1])):
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 0, f"Skipped: needs {named[1]}")
    return report


@pytest.fixture(autouse=True)
def own_log() -> None:
    """Undo what a command run by an earlier test has set for this package's log lines."""
    logger = logging.getLogger("milvus_rerank")
    logger.propagate, logger.handlers = True, []
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session", autouse=True)
def graphs() -> Iterator[Path]:
    """The cache folder of the whole run: graphs that one test makes serve the others."""
    folder = Path(os.environ["MILVUS_RERANK_CACHE"])
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the tiny models, by architecture."""
    from tiny_models import ARCHITECTURES, save_tiny_model

    root = tmp_path_factory.mktemp("models")
    return {name: save_tiny_model(name, root / name) for name in ARCHITECTURES}

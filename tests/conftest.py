import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import of the hub client: no test may ask the network
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # tiny models: threads only get in each other's way
os.environ["MILVUS_RERANK_CACHE"] = tempfile.mkdtemp(prefix="milvus-rerank-tests-")  # never the user's own

from tiny_models import ARCHITECTURES, save_tiny_model


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
    root = tmp_path_factory.mktemp("models")
    return {name: save_tiny_model(name, root / name) for name in ARCHITECTURES}

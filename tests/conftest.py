import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import of the hub client: no test may ask the network
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # tiny models: threads only get in each other's way

from tiny_models import ARCHITECTURES, save_tiny_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the tiny models, by architecture."""
    root = tmp_path_factory.mktemp("models")
    return {name: save_tiny_model(name, root / name) for name in ARCHITECTURES}

"""Services that fail as they are told, and rerankers that ask them."""

from collections.abc import Iterator

import pytest
from fault_server import FaultServer, fault_server
from service_calls import Ask, in_a_loop, plainly
from service_factories import MAKERS, Make


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the keys of whoever runs the tests."""
    for name in ("CO", "COHERE", "JINA", "JINAAI", "VOYAGE", "SILICONFLOW", "DASHSCOPE"):
        monkeypatch.delenv(f"{name}_API_KEY", raising=False)


@pytest.fixture
def faults() -> Iterator[FaultServer]:
    with fault_server() as running:
        yield running


@pytest.fixture(params=list(MAKERS.values()), ids=list(MAKERS))
def make(request: pytest.FixtureRequest) -> Make:
    made: Make = request.param
    return made


@pytest.fixture(params=[plainly, in_a_loop])
def ask(request: pytest.FixtureRequest) -> Ask:
    asked: Ask = request.param
    return asked

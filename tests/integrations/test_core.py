"""The adapters' shared part, without any framework."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from adapting import ROOT

import milvus_rerank
from milvus_rerank import CrossEncoderRerankFunction, LexicalRerankFunction
from milvus_rerank.errors import InputError, MissingDependencyError
from milvus_rerank.integrations.core import ItemCall, open_reranker, require_framework, span_metadata
from milvus_rerank.results import RerankResult

ADAPTERS = {
    "langchain": ("the LangChain adapter", "langchain-core", "1.3"),
    "llamaindex": ("the LlamaIndex adapter", "llama-index-core", "0.13"),
    "haystack": ("the Haystack adapter", "haystack-ai", "3.0"),
    "mcp": ("milvus-rerank mcp", "mcp", "2.3"),
}
INTEGRATIONS = Path(milvus_rerank.__file__).parent / "integrations"


def texts_of(items: list[Any]) -> ItemCall[Any]:
    return ItemCall("milvus", items, lambda item: item.text, lambda item, result: (item, result))


def import_adapter(extra: str, version: str) -> str:
    """Import an adapter in a process whose packages have a version, or none, and return the error."""
    code = f"""
from importlib import metadata

def version(name):
    if not {version!r}:
        raise metadata.PackageNotFoundError(name)
    return {version!r}

metadata.version = version
from milvus_rerank.errors import InputError, MissingDependencyError
try:
    import milvus_rerank.integrations.{extra}
except (InputError, MissingDependencyError) as error:
    print(error)
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_a_framework_that_is_too_old_is_one_line_with_the_command() -> None:
    with pytest.raises(InputError) as caught:
        require_framework("the adapter", "pytest", "999.5", "langchain")
    assert str(caught.value) == (
        f"the adapter needs pytest 999.5 or newer, got {version('pytest')}. "
        'Type: pip install --upgrade "milvus-rerank[langchain]"'
    )
    require_framework("the adapter", "pytest", "7.10", "langchain")


def test_a_missing_framework_is_one_line_with_the_command() -> None:
    with pytest.raises(MissingDependencyError, match=r'Type: pip install "milvus-rerank\[langchain\]"'):
        require_framework("the adapter", "no-such-framework", "1.0", "langchain")


def test_a_reranker_is_opened_by_name_or_taken_as_it_is() -> None:
    reranker = LexicalRerankFunction()
    assert open_reranker(reranker) is reranker
    assert isinstance(open_reranker("lexical"), LexicalRerankFunction)
    assert isinstance(open_reranker("builtin/rerank", device="cpu"), CrossEncoderRerankFunction)
    lengths = SimpleNamespace(score=lambda query, texts: [len(text) for text in texts])
    assert open_reranker(lengths).score("q", ["a", "bbb"]) == [1.0, 3.0]
    with pytest.raises(InputError, match=r"options \['device'\] need a reranker's name"):
        open_reranker(reranker, device="cpu")
    with pytest.raises(InputError, match="got ABCMeta"):
        open_reranker(LexicalRerankFunction)  # type: ignore[arg-type]


def test_items_keep_their_identity_and_empty_texts_are_scored() -> None:
    items = [SimpleNamespace(text="bread"), SimpleNamespace(text=""), SimpleNamespace(text="milvus search")]
    pairs = texts_of(items).run(LexicalRerankFunction())
    assert [item for item, _ in pairs] == [items[2], items[0], items[1]]
    assert all(item is items[result.index] for item, result in pairs)


def test_an_item_without_text_is_named() -> None:
    items = [SimpleNamespace(id="a", text="bread"), SimpleNamespace(id="b", text=None)]
    with pytest.raises(InputError, match=r"documents\[1\] \(id 'b'\) has no text to rerank, got NoneType: None"):
        texts_of(items).run(LexicalRerankFunction())


def test_the_core_loads_no_framework() -> None:
    frameworks = ("haystack", "langchain", "llama_index", "mcp", "pydantic")
    code = f"import sys, milvus_rerank.integrations.core\nprint([m for m in sys.modules if m.startswith({frameworks})])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


@pytest.mark.parametrize("extra", ADAPTERS)
def test_an_adapter_without_its_framework_is_one_line_with_the_command(extra: str) -> None:
    purpose, package, _ = ADAPTERS[extra]
    assert import_adapter(extra, "") == (
        f"{purpose} needs the package '{package}', which is not installed. Type: "
        f'pip install "milvus-rerank[{extra}]"\n'
    )


@pytest.mark.parametrize("extra", ADAPTERS)
def test_an_adapter_with_an_old_framework_is_one_line_with_the_command(extra: str) -> None:
    purpose, package, oldest = ADAPTERS[extra]
    command = f'pip install --upgrade "milvus-rerank[{extra}]"'
    expected = f"{purpose} needs {package} {oldest} or newer, got 0.1.2. Type: {command}\n"
    assert import_adapter(extra, "0.1.2") == expected
    requirement = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'"{package}>={oldest}"' in requirement


def test_the_modules_of_adapters_are_thin() -> None:
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in INTEGRATIONS.rglob("*.py")}
    assert len(lines) > 10
    assert [path for path, count in lines.items() if count >= 80 and path.name != "core.py"] == []


@pytest.mark.parametrize(
    ("text", "content", "found"),
    [
        ("the whole text", "the whole text", (4, 9)),
        ("title\nthe whole text", "the whole text", (0, 3)),
        ("a title\nthe whole", "the whole", (0, 1)),
        ("a long title\nthe whole", "the whole", None),
        ("title\n  the text \nend", "  the text ", (2, 3)),
        ("a b  the whole", "  the whole  ", (2, 6)),
        ("something else", "the whole", None),
        ("the whole", "", None),
    ],
)
def test_a_span_is_that_of_the_content(text: str, content: str, found: tuple[int, int] | None) -> None:
    result = RerankResult(text, 1.0, 0, span=(4, 9))
    metadata = span_metadata(result, content)
    assert metadata == ({} if found is None else {"relevance_span": list(found)})
    if found is not None:
        start, end = found
        assert text[4:9].strip().endswith(content[start:end].strip())
        assert re.search(r"\S", content[start:end])


def test_a_whole_document_has_no_span() -> None:
    assert span_metadata(RerankResult("text", 1.0, 0), "text") == {}

"""The adapters' shared part, without any framework."""

import subprocess
import sys
from importlib.metadata import version
from types import SimpleNamespace

import pytest

from milvus_rerank import CrossEncoderRerankFunction, LexicalRerankFunction
from milvus_rerank.errors import InputError, MissingDependencyError
from milvus_rerank.integrations.core import open_reranker, require_framework, rerank_items


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
    pairs = rerank_items(LexicalRerankFunction(), "milvus", items, lambda item: item.text, None, None)
    assert [item for item, _ in pairs] == [items[2], items[0], items[1]]
    assert all(item is items[result.index] for item, result in pairs)


def test_an_item_without_text_is_named() -> None:
    items = [SimpleNamespace(id="a", text="bread"), SimpleNamespace(id="b", text=None)]
    with pytest.raises(InputError, match=r"documents\[1\] \(id 'b'\) has no text to rerank, got NoneType: None"):
        rerank_items(LexicalRerankFunction(), "milvus", items, lambda item: item.text, None, None)


def test_the_core_loads_no_framework() -> None:
    frameworks = ("haystack", "langchain", "llama_index", "mcp", "pydantic")
    code = f"import sys, milvus_rerank.integrations.core\nprint([m for m in sys.modules if m.startswith({frameworks})])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"

"""Texts to check exports on, and a model that int8 harms."""

from pathlib import Path

import pytest
from tiny_embedder import write_jsonl

TOPICS = ("vector search", "the moon", "a moth in a relay", "Unix", "the history of chess machines", "Turing's test")


@pytest.fixture
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of queries with 12 documents each."""
    documents = [f"{text} and what it is about" for text in (*TOPICS, *(f"{topic} again" for topic in TOPICS))]
    records = [{"query": f"who wrote about {topic}?", "documents": documents} for topic in TOPICS]
    return write_jsonl(tmp_path_factory.mktemp("texts") / "texts.jsonl", records)


@pytest.fixture
def close(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of queries with documents that score much alike."""
    firsts, seconds = ["old", "new", "red", "lazy", "quick", "brown"], ["fox", "dog", "moth", "test", "query", "relay"]
    documents = [f"the {first} {second} of the computer" for first in firsts for second in seconds]
    records = [{"query": f"{word} one", "documents": documents} for word in ("which", "who", "vector", "Turing")]
    return write_jsonl(tmp_path_factory.mktemp("close") / "close.jsonl", records)


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with weights so large that int8 has no steps left for the others: all its scores become equal."""
    from safetensors.numpy import load_file, save_file
    from tiny_models import save_tiny_model

    folder = save_tiny_model("distilbert", tmp_path_factory.mktemp("fragile") / "model")
    weights = load_file(folder / "model.safetensors")
    for name in ("weight", "bias"):  # what the large weights multiply, so that float32 does not notice them
        weights[f"distilbert.transformer.layer.1.output_layer_norm.{name}"][0] = 0
    weights["pre_classifier.weight"][:, 0] = 1e6
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder

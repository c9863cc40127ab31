"""The cards of known models: their facts are whole, names find them, and the page and the command print them."""

import importlib.util
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import milvus_rerank
from milvus_rerank.models.catalogue import (
    MULTILINGUAL,
    SERVICE,
    ModelCard,
    all_cards,
    families,
    find_card,
    recommendations,
)

REPO = Path(__file__).resolve().parents[2]
FUNCTIONS = {
    "cross-encoder": {"CrossEncoderRerankFunction", "BGERerankFunction"},
    "bge-llm": {"BGERerankFunction"},
    "bge-layerwise": {"BGERerankFunction"},
    "bge-lightweight": {"BGERerankFunction"},
    "causal": {"CrossEncoderRerankFunction"},
    "service": {"CohereRerankFunction", "VoyageRerankFunction", "JinaRerankFunction"},
}
EXTRAS = {"", "torch", "services"}
LICENCES = {"Apache-2.0", "MIT", "CC-BY-NC-4.0", "Gemma"}  # all SPDX but the last, which has no identifier there

every_card = pytest.mark.parametrize("card", all_cards(), ids=lambda card: card.name)


# the data


@every_card
def test_a_card_says_how_to_load_its_model(card: ModelCard) -> None:
    assert card.function in FUNCTIONS[card.family]
    assert card.extra in EXTRAS
    assert (card.extra == "services") == (card.family == SERVICE)
    inspect.signature(getattr(milvus_rerank, card.function)).bind(card.name, **dict(card.options))
    assert eval(card.code, {card.function: lambda *names, **options: (names, options)}) == (
        (card.name,),
        dict(card.options),
    )


@every_card
def test_a_cards_facts_are_of_the_right_kind_and_have_a_source(card: ModelCard) -> None:
    assert card.licence in LICENCES or (card.licence is None and card.family == SERVICE)
    assert card.scores in {None, "logit", "0 to 1"}
    assert card.languages == (MULTILINGUAL,) or all(re.fullmatch("[a-z]{2}", code) for code in card.languages)
    assert card.languages == tuple(sorted(card.languages)) != ()
    for number in (card.parameters, card.max_length, card.max_documents):
        assert number is None or (isinstance(number, int) and number >= 512)
    assert card.max_documents is None or card.family == SERVICE
    assert card.source
    assert all(source.startswith("https://") or (REPO / source).is_file() for source in card.source)
    assert card.note is None or card.note.endswith(".")


def test_published_quality_is_between_the_weakest_and_the_best_and_has_its_source() -> None:
    figures = {card.name: card.ndcg10 for card in all_cards() if card.ndcg10 is not None}
    assert len(figures) == 21
    assert min(figures.values()) == figures["mixedbread-ai/mxbai-rerank-base-v1"] == 0.4865
    assert max(figures.values()) == figures["Qwen/Qwen3-Reranker-4B"] == 0.6367
    assert all(any("ettin-reranker" in url for url in card.source) for card in all_cards() if card.ndcg10 is not None)


def test_every_recommended_model_has_a_card_and_no_need_comes_twice() -> None:
    entries = recommendations()
    assert all(find_card(entry.name) is not None for entry in entries)
    assert len({entry.need for entry in entries}) == len(entries) >= 8
    assert all("-NC" not in (card.licence or "") for entry in entries if (card := find_card(entry.name)))


def test_a_licence_that_forbids_commercial_use_is_said_in_words_too() -> None:
    found = [card for card in all_cards() if "-NC" in (card.licence or "")]
    assert [card.name for card in found] == ["jinaai/jina-reranker-v2-base-multilingual"]
    assert all("Not for commercial use" in (card.note or "") for card in found)


def test_names_are_told_apart_and_every_one_finds_its_own_card() -> None:
    names = [(name, card) for card in all_cards() for name in (card.name, *card.aliases)]
    for name, card in names:
        assert find_card(name) is card
        assert find_card(name.upper().replace("-", "_")) is card
    assert len({name.lower() for name, _ in names}) == len(names)


def test_families_are_in_the_order_of_their_cards_and_have_an_example() -> None:
    assert list(dict.fromkeys(card.family for card in all_cards())) == [family.name for family in families()]
    examples = [find_card(family.example) for family in families()]
    assert [card and (card.name, card.family) for card in examples] == [(one.example, one.name) for one in families()]


def test_the_built_in_reranker_has_a_card_that_agrees_with_its_files() -> None:
    card = find_card("builtin/rerank")
    assert card is not None
    folder = REPO / "milvus_rerank" / "models" / "rerank"
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert card.max_length == config["max_position_embeddings"]
    assert f"license: {(card.licence or '').lower()}\n" in (folder / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("parameters", "size"),
    [(4_386_049, "4.39M"), (22_713_601, "22.7M"), (278_000_000, "278M"), (2_510_000_000, "2.51B"), (None, None)],
)
def test_sizes_have_three_digits(parameters: int | None, size: str | None) -> None:
    assert ModelCard("a", "causal", "B", parameters=parameters).size == size


# find_card


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("cross-encoder/ms-marco-MiniLM-L-6-v2", "cross-encoder/ms-marco-MiniLM-L6-v2"),
        ("cross-encoder/ms-marco-TinyBERT-L-2-v2", "cross-encoder/ms-marco-TinyBERT-L2-v2"),
        ("baai/BGE-Reranker-V2-M3", "BAAI/bge-reranker-v2-m3"),
        (" BAAI/bge-reranker-base\n", "BAAI/bge-reranker-base"),
        ("bge-reranker-base", "BAAI/bge-reranker-base"),
        ("/models/ms-marco-MiniLM-L-12-v2/", "cross-encoder/ms-marco-MiniLM-L12-v2"),
        ("./bge-reranker-large", "BAAI/bge-reranker-large"),
        ("C:\\models\\mxbai-rerank-base-v2", "mixedbread-ai/mxbai-rerank-base-v2"),
        (Path("/hub/models--Qwen--Qwen3-Reranker-0.6B/snapshots/0a1b"), "Qwen/Qwen3-Reranker-0.6B"),
        ("jinaai/jina-reranker-v3", "jina-reranker-v3"),
        ("jina-reranker-v2-base-multilingual", "jina-reranker-v2-base-multilingual"),  # the service
        ("./jina-reranker-v2-base-multilingual", "jinaai/jina-reranker-v2-base-multilingual"),  # a folder is no service
        ("someone/bge-reranker-base", None),  # another owner's model
        ("/models/rerank", None),  # many folders are called so
        ("rerank-2-5", None),
        ("BAAI", None),
        ("", None),
        ("/", None),
        ("\0", None),
    ],
)
def test_a_name_or_folder_finds_its_card(given: str | Path, name: str | None) -> None:
    card = find_card(given)
    assert (card and card.name) == name


def test_a_folder_with_one_slash_is_told_from_a_hub_name_by_looking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_card("models/bge-reranker-base") is None
    (tmp_path / "models" / "bge-reranker-base").mkdir(parents=True)
    assert find_card("models/bge-reranker-base") == find_card("BAAI/bge-reranker-base")


def test_remote_code_is_known_of_a_card() -> None:
    needing = {card.name for card in all_cards() if card.trust_remote_code}
    assert needing == {
        "Alibaba-NLP/gte-multilingual-reranker-base",
        "jinaai/jina-reranker-v1-tiny-en",
        "jinaai/jina-reranker-v1-turbo-en",
        "jinaai/jina-reranker-v2-base-multilingual",
    }


def test_the_cards_are_read_without_a_heavy_import() -> None:
    code = "import sys, milvus_rerank.models.catalogue as c; c.all_cards(); print({'numpy', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# the page


@pytest.mark.skipif(not (REPO / "docs").is_dir(), reason="the docs are not part of this package")
def test_the_pages_are_what_the_cards_give() -> None:
    path = REPO / "docs" / "models.py"
    spec = importlib.util.spec_from_file_location("docs_models", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    made = script.page()
    assert path.with_suffix(".md").read_text("utf-8") == made, "run: python docs/models.py"
    assert path.with_name("choose-a-model.md").read_text("utf-8") == script.choices(), "run: python docs/models.py"
    assert f"lists all {len(all_cards())}." in script.choices()
    assert all(made.count(f"| `{card.name}` |") == 1 for card in all_cards())
    lengths = {line.count(" | ") for line in made.splitlines() if line.startswith("| `")}
    assert lengths == {10, 8}  # no cell holds a bar

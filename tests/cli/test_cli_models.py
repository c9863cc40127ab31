"""`milvus-rerank models`: the lists and the cards."""

import json
import sys
from typing import Any

import pytest
from commands import Cli

from milvus_rerank.models.catalogue import all_cards

pytestmark = pytest.mark.compat


def test_models_lists_rerankers_and_packages(cli: Cli) -> None:
    code, out, err = cli("models", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    problems = {one["name"]: one["problem"] for one in found["rerankers"]}
    assert {name: problems[name] for name in ("bge", "cross-encoder", "lexical")} == {
        "bge": None, "cross-encoder": None, "lexical": None,
    }  # fmt: skip
    assert {one["name"]: one["install"] for one in found["packages"]}["torch"] == 'pip install "milvus-rerank[torch]"'
    out = cli("models")[1]
    assert out.endswith(f"\n{len(all_cards())} models are known: milvus-rerank models --known\n")
    assert "Rerankers (--reranker)\n" in out
    assert "\ncross-encoder  milvus-rerank 0.1.0  yes" in out


def test_models_prints_what_to_type_for_a_missing_package_whole(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "site-packages" not in path])
    out = cli("models")[1]
    assert [" ".join(line.split()) for line in out.splitlines() if line.startswith("milvus-lite")] == [
        'milvus-lite missing Milvus in a file pip install "milvus-rerank[lite]"'
    ]


def test_models_known_lists_every_card_within_80_columns(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = cli("models", "--known")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    lines = [line.split() for line in out.splitlines()]
    assert ["cross-encoder/ms-marco-MiniLM-L6-v2", "22.7M", "512", "en", "Apache-2.0"] in lines
    assert ["cross-encoder/ms-marco-electra-base", "?", "?", "en", "Apache-2.0"] in lines
    assert ["rerank-2-lite", "8000", "1000", "many", "Voyage"] in lines
    assert all(card.name[:40] in out for card in all_cards())


def test_models_prints_one_card_in_full(cli: Cli) -> None:
    code, out, err = cli("models", "Alibaba-NLP/GTE-multilingual-reranker-base")
    assert (code, err) == (0, "")
    lines = [line.rstrip() for line in out.splitlines()]
    for line in (
        "name        Alibaba-NLP/gte-multilingual-reranker-base",
        "family      cross-encoder (Cross-encoders)",
        "languages   multilingual",
        "parameters  306M",
        "tokens      8192 of query and document",
        "licence     Apache-2.0",
        "scores      0 to 1",
        'install     pip install "milvus-rerank[torch]"',
        'load        CrossEncoderRerankFunction("Alibaba-NLP/gte-multilingual-reranker-base", trust_remote_code=True)',
    ):
        assert line in lines
    assert [line for line in lines if line.startswith("source      https://huggingface.co/Alibaba-NLP/")]


def test_models_says_unknown_where_a_card_does_not_know(cli: Cli) -> None:
    out = cli("models", "cross-encoder/ms-marco-electra-base")[1]
    assert "parameters  unknown\n" in out
    assert "tokens      unknown\n" in out


def test_models_prints_a_services_limits_and_no_licence(cli: Cli) -> None:
    out = cli("models", "rerank-2.5")[1]
    assert "documents   1000 a request\n" in out
    assert 'load        VoyageRerankFunction("rerank-2.5")\n' in out
    assert "licence" not in out
    assert "parameters" not in out


def test_an_unknown_model_is_no_error_and_the_answer_says_how_to_load_it(cli: Cli) -> None:
    code, out, err = cli("models", "org/[mine]")
    assert (code, err) == (0, "")
    assert out.startswith("org/[mine] has no card. It works if it is a cross-encoder or a language model")
    assert 'CrossEncoderRerankFunction("org/[mine]")' in out
    code, out, err = cli("models", "org/[mine]", "--json")
    assert (code, err, json.loads(out)) == (0, "", {"name": "org/[mine]", "card": None})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("",), "the name is empty; see: milvus-rerank models --known"),
        (("x", "--known"), "choose one of NAME, --load, --known and --recommend"),
        (("--known", "--load"), "choose one of NAME, --load, --known and --recommend"),
    ],
)
def test_wrong_usage_of_models_is_told(cli: Cli, arguments: Any, told: str) -> None:
    code, out, err = cli("models", *arguments)
    assert (code, out) == (2, "")
    assert told in " ".join(err.replace("│", " ").split())


def test_json_holds_the_cards_whole(cli: Cli) -> None:
    code, out, err = cli("models", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert set(found) == {"rerankers", "models", "packages", "known"}
    assert {"known": found["known"]} == json.loads(cli("models", "--known", "--json")[1])
    assert len(found["known"]) == len(all_cards())
    one = json.loads(cli("models", "cross-encoder/ms-marco-MiniLM-L-6-v2", "--json")[1])
    assert one["name"] == "cross-encoder/ms-marco-MiniLM-L-6-v2"
    assert one["card"] in found["known"]
    assert one["card"] | {"source": None} == {
        "name": "cross-encoder/ms-marco-MiniLM-L6-v2", "family": "cross-encoder",
        "function": "CrossEncoderRerankFunction", "options": {}, "extra": "", "languages": ["en"],
        "parameters": 22713601, "max_length": 512, "max_documents": None, "licence": "Apache-2.0", "scores": "logit",
        "ndcg10": 0.5082, "note": None, "source": None, "aliases": [],
        "code": 'CrossEncoderRerankFunction("cross-encoder/ms-marco-MiniLM-L6-v2")',
        "install": "pip install milvus-rerank",
    }  # fmt: skip


def test_models_recommend_names_a_model_for_each_need(cli: Cli) -> None:
    code, out, err = cli("models", "--recommend")
    assert (code, err) == (0, "")
    line = next(line for line in out.splitlines() if line.startswith("cross-encoder/ms-marco-MiniLM-L6-v2"))
    assert line.split()[1:] == ["English,", "CPU,", "fast", "22.7M", "en", "0.508"]
    code, out, _ = cli("models", "--recommend", "--json")
    first, second, *_ = json.loads(out)["recommended"]
    assert (first["need"], first["name"]) == ("first steps and tests, no download", "builtin/rerank")
    assert (second["ndcg10"], second["parameters"]) == (0.5082, 22713601)

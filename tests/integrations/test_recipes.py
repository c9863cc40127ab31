"""The recipes for frameworks without an adapter: each program of examples/ with the framework itself."""

import re
from pathlib import Path

import pytest
from adapting import ROOT, framework, run_example

PAGE = (ROOT / "docs" / "recipes.md").read_text("utf-8")


def test_dspy_answers_from_reranked_passages_and_its_agent_searches(tmp_path: Path) -> None:
    framework("dspy", "milvus_lite")
    assert run_example("dspy_answers.py", tmp_path).splitlines() == [
        "Ada Lovelace [1, 3]",
        "Grace Hopper wrote the first compiler, A-0, in 1952.",
    ]


def test_txtais_reranker_pipeline_takes_the_scores(tmp_path: Path) -> None:
    framework("txtai", "milvus_lite")
    assert re.match(
        r"\d\.\d\d  Ada Lovelace published the first program.*\n-\d\.\d\d  ", run_example("txtai_search.py", tmp_path)
    )


def test_pyterriers_experiment_prints_what_the_page_says(tmp_path: Path) -> None:
    framework("pyterrier", "milvus_lite")
    printed = run_example("pyterrier_experiment.py", tmp_path)
    [expected] = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert re.sub(r" +", " ", printed) == re.sub(r" +", " ", expected)


def test_mteb_and_beir_evaluate_the_same_reranking(tmp_path: Path) -> None:
    framework("mteb", "beir")
    [mteb] = re.findall(r"nDCG@10 (\d\.\d{3})", run_example("mteb_reranking.py", tmp_path))
    found = dict(re.findall(r"(\w+) nDCG@10 (\d\.\d{3})", run_example("beir_reranking.py", tmp_path)))
    assert found["reranked"] == mteb
    assert float(found["search"]) + 0.02 < float(mteb) < 0.8


@pytest.mark.parametrize("name", re.findall(r"examples/(\w+\.py)\)\s", PAGE))
def test_the_code_of_the_page_is_in_its_program(name: str) -> None:
    program = (ROOT / "examples" / name).read_text("utf-8")
    [code] = [
        code
        for code, after in re.findall(r"```python\n(.*?)```(.*?)(?=\n## |\Z)", PAGE, re.DOTALL)
        if f"examples/{name}" in after
    ]
    lines = [line.partition("  # ")[0].strip() for line in code.splitlines()]
    missing = [line for line in lines if line and line not in program]
    assert missing == []

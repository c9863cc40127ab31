"""``milvus-rerank size``: the table, JSON, prices, and what is refused."""

import json

from commands import Cli

ARGUMENTS = ("size", "--pairs-per-day", "1e9", "--tokens", "235", "--model", "BAAI/bge-reranker-v2-m3")


def test_json_has_the_machines_the_formula_and_the_sources(cli: Cli) -> None:
    code, out, _ = cli(*ARGUMENTS, "--price", "h200=3.5", "--json")
    report = json.loads(out)
    row = next(each for each in report["sizes"] if each["speed"]["kind"] == "h200")
    assert code == 0
    assert (row["machines"], row["cost_per_day"]) == (6, 6 * 24 * 3.5)  # 3077 x 0.7 x 86400 = 186.1 million a day
    assert row["speed"]["source"] == "benchmarks/results/gpu.json"
    assert report["formula"].startswith("machines = ceil(")


def test_the_table_has_the_cheapest_first_and_says_what_is_not_scaled(cli: Cli) -> None:
    code, out, err = cli(*ARGUMENTS, "--price", "h200=0.01")
    lines = out.splitlines()
    assert code == 0
    assert lines[1].split()[:4] == ["6", "h200", "bfloat16", "3,077"]
    assert any("1,569*" in line for line in lines)
    assert "machines = ceil(pairs_per_day" in err
    assert "* the source does not tell the tokens of a pair" in err


def test_a_speed_of_ones_own(cli: Cli) -> None:
    code, out, _ = cli("size", "--pairs-per-day", "1e8", "--pairs-per-second", "100", "--price", "own=1", "--json")
    (row,) = json.loads(out)["sizes"]
    assert (code, row["machines"], row["cost_per_day"]) == (0, 17, 17 * 24.0)  # 6.048 million a day each


def test_what_is_wrong_is_told(cli: Cli) -> None:
    assert "expected KIND=PRICE" in cli(*ARGUMENTS, "--price", "h200")[2]
    assert cli(*ARGUMENTS, "--price", "h200=cheap")[0] == 2
    code, _, err = cli("size", "--pairs-per-day", "1e9", "--model", "none")
    assert (code, "--pairs-per-second" in err) == (1, True)
    assert "utilisation must be a positive number of at most 1" in cli(*ARGUMENTS, "--utilisation", "7")[2]

"""Write docs/speed.md, the tables of results/speed.json, from the JSON alone: python benchmarks/tables.py."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent / "docs" / "speed.md"
Result = dict[str, Any]


def table(head: Sequence[str], lines: dict[str, list[str]]) -> list[str]:
    """Return a Markdown table, one line for each row."""
    rows = [["", *head], ["---", *("---:" for _ in head)], *([name, *cells] for name, cells in lines.items())]
    return [f"| {' | '.join(row)} |" for row in rows]


def cell(figures: Result, key: str, form: str) -> str:
    """Return a figure; why there is none, in short, where a row could not run; nothing where it took no part."""
    if "error" in figures:
        return "failed"
    return format(figures[key], form) if figures.get(key) is not None else ""


def of_cases(result: Result, key: str, form: str) -> list[str]:
    """Return one figure for all rows and those cases that have it."""
    cases = {name: case["rows"] for name, case in result["cases"].items()}
    names = [name for name, rows in cases.items() if any(key in figures for figures in rows.values())]
    return table(names, {row: [cell(cases[name].get(row, {}), key, form) for name in names] for row in result["rows"]})


def of_rows(result: Result, part: str, columns: dict[str, str]) -> list[str]:
    """Return several figures of all rows."""
    lines = {row: [cell(figures, key, form) for key, form in columns.items()] for row, figures in result[part].items()}
    return table([key.replace("_", " ") for key in columns], lines)


def page(result: Result) -> str:
    """Return the whole page."""
    machine = result["machine"]
    problems = [f"- `{name}`: {case['problem']}" for name, case in result["cases"].items() if case.get("problem")]
    result["cases"] = {name: case for name, case in result["cases"].items() if case["rounds"]}
    cases = [
        f"- `{name}`: {case['what']}; {case['mean_tokens']:.0f} tokens a pair, {case['rounds']} rounds"
        for name, case in result["cases"].items()
    ]
    peaks = {
        name: [f"{figures['gflops']:.0f}", figures["library"], figures["shape"]]
        for name, figures in result["floor"].items()
    }
    failed = sorted(
        {
            f"- {row}, `{name}`: {figures['error']}"
            for name, case in result["cases"].items()
            for row, figures in case["rows"].items()
            if "error" in figures
        }
        | set(problems)
    )
    parts = [
        [
            "# Speed",
            "`benchmarks/tables.py` writes this page from `benchmarks/results/speed.json`; `benchmarks/README.md` "
            "describes how to repeat the measurement.",
            f"{machine['cpu']}, {result['threads']} cores, {result['date']}, `{result['command']}`. "
            f"Texts: {result['texts']}; {result['max_length']} tokens at most.",
            "\n".join(cases),
        ],
        [f"## Speed over {result['baseline']}", "\n".join(of_cases(result, "times_baseline", ".2f"))],
        ["## Seconds, median", "\n".join(of_cases(result, "p50", ".3f"))],
        ["## Seconds, 99th percentile", "\n".join(of_cases(result, "p99", ".3f"))],
        ["## Milliseconds for each document", "\n".join(of_cases(result, "milliseconds_per_document", ".2f"))],
        [
            "## Share of the matrix peak, over true tokens",
            "\n".join(of_cases(result, "share_of_peak", ".2f")),
            "The peak of each precision, GFLOP/s:",
            "\n".join(table(["GFLOP/s", "library", "shape"], peaks)),
        ],
        ["## Most memory, MiB", "\n".join(of_cases(result, "peak_mib", ".0f"))],
        [
            "## First call, in a fresh process",
            "\n".join(of_rows(result, "first_call", {"seconds": ".2f", "load_seconds": ".2f", "peak_mib": ".0f"})),
        ],
        [
            "## Scores against float32",
            "\n".join(
                of_rows(
                    result,
                    "fidelity",
                    {
                        "queries": "d",
                        "largest_difference": ".2g",
                        "spearman": ".5f",
                        "top10_shared": ".2f",
                        "ndcg10": ".4f",
                        "ndcg10_change": "+.4f",
                    },
                )
            ),
        ],
        *([["## What failed", "\n".join(failed)]] if failed else []),
    ]
    return "\n\n".join("\n\n".join(part) for part in parts) + "\n"


def main() -> None:
    """Read, write."""
    TARGET.write_text(page(json.loads((HERE / "results" / "speed.json").read_text("utf-8"))), "utf-8")


if __name__ == "__main__":
    main()

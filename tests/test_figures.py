"""Figures in the README come from results files."""

import json
import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
RESULTS = REPO / "benchmarks" / "results"

pytestmark = pytest.mark.skipif(not RESULTS.is_dir(), reason="the benchmarks' results are not part of this package")

# What the README's table calls a row -> what results/speed.json does.
ROWS = {
    "the default, float32": "milvus-rerank",
    '`dtype="auto"`, bfloat16 here': 'milvus-rerank dtype="auto"',
    '`dtype="int8"`, exported': 'milvus-rerank dtype="int8"',
}


def test_the_table_of_speeds_is_that_of_the_results() -> None:
    speed = json.loads((RESULTS / "speed.json").read_text("utf-8"))
    text = (REPO / "README.md").read_text("utf-8")
    lines = {
        cells[1]: cells[2:-1]
        for cells in ([cell.strip() for cell in line.split("|")] for line in text.split("\n"))
        if len(cells) > 3 and cells[1] in ROWS
    }
    assert set(lines) == set(ROWS)
    for label, row in ROWS.items():
        own, near = speed["cases"]["throughput"]["rows"][row], speed["fidelity"][row]
        assert lines[label] == [
            f"{own['times_baseline']:.2f}",
            f"{own['peak_mib']:.0f} MiB",
            f"{speed['first_call'][row]['seconds']:.1f} s",
            f"{near['spearman']:.4f}",
            f"{near['top10_shared']:.2f}",
            f"{near['ndcg10_change']:+.4f}",
        ]


def test_other_figures_of_the_section_are_those_of_the_results() -> None:
    speed = json.loads((RESULTS / "speed.json").read_text("utf-8"))
    parts = json.loads((RESULTS / "parts.json").read_text("utf-8"))
    text = (REPO / "README.md").read_text("utf-8")
    section = re.sub(r"\s+", " ", text[text.index("## How fast") : text.index("## Coming from")])
    screen = parts["screen"]
    outside = parts["milliseconds of 100 short documents"]["outside tokenizer and model"]
    rows = speed["cases"]["throughput"]["rows"]
    for sentence in (
        f"{screen['times_plain']:.2f} times faster",
        f"{screen['same_top_10_in_the_same_order']} of {screen['queries']} queries",
        f"{outside:.1f} ms",
        f"{100 * rows['milvus-rerank']['share_of_peak']:.0f}%",
        f"{100 * rows['sentence-transformers predict']['share_of_peak']:.0f}%",
    ):
        assert sentence in section

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
    outside = parts["milliseconds of 100 short documents"]["outside tokenizer and model"]
    rows = speed["cases"]["throughput"]["rows"]
    for sentence in (
        f"{outside:.1f} ms",
        f"{100 * rows['milvus-rerank']['share_of_peak']:.0f}%",
        f"{100 * rows['sentence-transformers predict']['share_of_peak']:.0f}%",
    ):
        assert sentence in section


def test_the_table_of_cascades_is_that_of_the_results() -> None:
    found = json.loads((RESULTS / "cascade.json").read_text("utf-8"))
    text = (REPO / "docs" / "scores.md").read_text("utf-8")
    rows = {**found["trained"]["rows"], **found["strong"]["rows"]}
    assert len(rows) == 9
    alone, first = "builtin/rerank", f"builtin/rerank on the first {found['keep']}"
    span = "{:+.4f} ({:+.4f} to {:+.4f})".format
    for name, row in rows.items():
        changes = row.get("ndcg10_change_from_to", {})
        quality = f" {row['ndcg10']:.4f} |" if "ndcg10" in row else ""
        change = f" {span(*changes[alone])} " if alone in changes else " "
        assert f"| {name} | {row['seconds_per_query']:.1f} s | {row['times_faster']:.2f} |{quality}{change}|\n" in text
    lexical = found["trained"]["rows"][f"lexical {found['keep']}, {alone}"]
    assert span(*lexical["ndcg10_change_from_to"][first]) in " ".join(text.split())
    assert lexical["times_faster"] < found["trained"]["rows"][first]["times_faster"]
    assert f"nDCG@10 of the first stage is {found['trained']['first_stage_ndcg10']:.4f};" in text
    assert f"{found['trained']['queries']} queries of {found['texts']}, {found['documents']} candidates" in text


def test_what_sharing_a_beginning_brings_is_that_of_the_results() -> None:
    found = json.loads((RESULTS / "decoders.json").read_text("utf-8"))
    text = " ".join((REPO / "README.md").read_text("utf-8").split())
    faster = found["cases"]["short-20"]["times_baseline"]["shared"]
    assert f"of a query share runs once: {faster:.2f} times faster than sentence-transformers on 20 short" in text


def test_the_servers_figures_are_those_of_the_results() -> None:
    found = json.loads((RESULTS / "serving.json").read_text("utf-8"))
    text = (REPO / "docs" / "server.md").read_text("utf-8")
    section = text[text.index("## Figures") :]
    overload, steady = found["overload_4_times"], found["steady_at_80_percent"]
    for figure in (
        f"{found['overhead_short']['median_of_overheads_ms']:+.1f} ms to",
        f"{found['overhead_mixed']['median_of_overheads_ms']:+.1f} ms to",
        f"{100 * found['throughput_short']['share_of_in_process']:.0f}% of its speed for short",
        f"{100 * found['throughput_mixed']['share_of_in_process']:.0f}% for mixed",
        f"80% of that speed for {steady['seconds'] / 60:.0f} minutes",
        f"p99 {steady['milliseconds']['200']['p99']:.0f} ms",
        f"{steady['resident_mib']['after_a_tenth']:.0f} MiB after a tenth of it, ",
        f"{steady['resident_mib']['last']:.0f} at the end",
        f"{overload['statuses']['200']} of {sum(overload['statuses'].values())} answered",
        f"{overload['statuses']['429']} refused",
        f"99% within {overload['milliseconds']['429']['p99']:.0f} ms",
        f"{overload['statuses'].get('504', 0)} late",
    ):
        assert figure in section


def test_the_gpus_figures_are_those_of_the_results() -> None:
    results = json.loads((RESULTS / "gpu.json").read_text("utf-8"))
    text = (REPO / "docs" / "gpu.md").read_text("utf-8")
    names = {
        "bge-v2-m3": "bge-reranker-v2-m3",
        "minilm-l6": "ms-marco-MiniLM-L6",
        "modernbert-base": "gte-reranker-modernbert-base",
    }
    peer = "sentence-transformers, 512"
    assert results["machine"]["gpu"] in text
    assert set(results["models"]) == set(names)
    for model, name in names.items():
        case = results["models"][model]
        speed, times = case["pairs_per_second"], case["milliseconds_of_100_documents"]
        assert (
            f"| {name} | {speed['packed']} | {speed[peer]} | {speed['packed'] / speed[peer]:.2f} "
            f"| {times['packed']:.0f} ms | {times[peer]:.0f} ms |\n"
        ) in text
        near = [case["against_float32"][way] for way in ("packed, float16", "packed", peer)]
        cells = " | ".join(f"{way['largest_difference']:.4f}, {way['spearman']:.4f}" for way in near)
        assert f"| {name} | {cells} |\n" in text

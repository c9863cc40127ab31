"""From the workers' reports to the figures: medians, ratios, fidelity, shares of the peak."""

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from statistics import median
from typing import Any

import numpy as np
from cases import Case
from floor import flops
from models import MAX_LENGTH, MODELS
from peers import BASELINE, Row
from scipy.stats import spearmanr
from texts import Request, Texts, token_counts

from milvus_rerank.evaluation import ndcg

Report = dict[str, Any]
WRONG = 1e-3  # a score that differs by more from the same call's in one thread is another score


def summarize(
    cases: list[Case],
    rows: list[Row],
    texts: Texts,
    bench: Report,
    first_calls: list[dict[str, Report]],
    head: Report,
) -> Report:
    """Put everything into one JSON-safe value."""
    widest = "bfloat16" if any("bf16" in flag for flag in head["machine"]["flags"]) else "float32"
    precision = {row.name: widest if row.precision == "auto" else row.precision for row in rows}
    peaks = {row: bench["floor"][name] for row, name in precision.items()}
    alone = next((case.reports for case in cases if case.threads == 1), {})
    throughput = next((case for case in cases if case.name == "throughput"), None)
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        **head,
        "texts": texts.source,
        "max_length": MAX_LENGTH,
        "baseline": BASELINE,
        "rows": {row.name: {"precision": precision[row.name], "ours": row.ours} for row in rows},
        "floor": bench["floor"],
        "first_call": {row.name: first_call([reports[row.name] for reports in first_calls]) for row in rows},
        "cases": {case.name: case_figures(case, rows, peaks, alone) for case in cases if case.reports or case.problem},
        "fidelity": fidelity(throughput, rows, texts.judgments) if throughput else {},
        "idle_cpu_seconds": bench["idle_cpu_seconds"],
        "versions": bench["versions"],
    }


def first_call(reports: Sequence[Report]) -> Report:
    """Loading and the first 20 documents, in a fresh process; the first start is left out where there are others."""
    reports = reports[1:3] or reports
    if not reports:
        return {}
    if "error" in reports[-1]:
        return {"error": reports[-1]["error"]}
    return {key: round(median(report[key] for report in reports), 3) for key in ("seconds", "load_seconds", "peak_mib")}


def case_figures(case: Case, rows: list[Row], peaks: Report, alone: dict[str, list[Report]]) -> Report:
    """All rows' figures of one case."""
    if case.problem:
        return {"what": case.what, "rounds": 0, "problem": case.problem, "rows": {}}
    config = json.loads((MODELS / case.model / "hf" / "config.json").read_text("utf-8"))
    ran = max((len(reports) for reports in case.reports.values()), default=0)
    lengths = [token_counts(MODELS / case.model / "hf", requests, MAX_LENGTH) for requests in case.rounds[:ran]]
    work = [flops(config, counts) for counts in lengths]
    base = case.reports.get(BASELINE, [])
    figures = {}
    for row in rows:
        reports = case.reports.get(row.name, [])
        if reports and "error" in reports[-1]:
            figures[row.name] = {"error": reports[-1]["error"]}
        elif reports:
            result = figures[row.name] = row_figures(reports, base, work, peaks[row.name], row)
            times = [1000 * report["seconds"] / len(counts) for report, counts in zip(reports, lengths, strict=False)]
            result["milliseconds_per_document"] = round(median(times), 4)
            if case.threads and row.name in alone:
                result["wrong_calls"] = wrong_calls(reports, alone[row.name])
    return {
        "what": case.what,
        "model": case.model,
        "rounds": ran,
        "pairs_per_round": len(lengths[0]) if lengths else 0,
        "mean_tokens": round(float(np.mean([count for counts in lengths for count in counts])), 1) if lengths else 0,
        "gflop_per_round": round(float(np.mean(work)) * 1e-9, 1) if work else 0,
        "rows": figures,
    }


def row_figures(reports: list[Report], base: list[Report], work: list[float], peak: Report, row: Row) -> Report:
    """Times, ratios and memory of one row; the ratio is the median of the rounds' own, each over the same pairs."""
    seconds = [report["seconds"] for report in reports]
    result = {
        "rounds": len(seconds),
        "p50": round(median(seconds), 4),
        "p99": round(float(np.percentile(seconds, 99)), 4),
        "cpu_seconds": round(median(report["cpu_seconds"] for report in reports), 4),
        "peak_mib": max(report["peak_mib"] for report in reports),
        "seconds": [round(value, 4) for value in seconds],
    }
    if base and "error" not in base[-1]:
        ratios = [other["seconds"] / value for other, value in zip(base, seconds, strict=False)]
        differences = [
            np.abs(np.subtract(logits(report, row), np.concatenate(other["scores"]))).max()
            for report, other in zip(reports, base, strict=False)
        ]
        result["times_baseline"] = round(median(ratios), 3)
        result["times_baseline_from_to"] = [round(min(ratios), 3), round(max(ratios), 3)]
        result["largest_difference"] = float(f"{max(differences):.2g}")
    result["gflops"] = round(median(count * 1e-9 / value for count, value in zip(work, seconds, strict=False)), 1)
    result["share_of_peak"] = round(result["gflops"] / peak["gflops"], 3)
    return result


def logits(report: Report, row: Row) -> np.ndarray:
    """All scores of a report as logits; float32 sigmoids near 1 come back with an error of 6e-8 / (1 - score)."""
    scores = np.concatenate([np.asarray(row_scores, dtype=np.float64) for row_scores in report["scores"]])
    if not row.sigmoid:
        return scores
    scores = np.clip(scores, 1e-12, 1 - 2.0**-25)
    return np.log(scores) - np.log1p(-scores)


def wrong_calls(reports: list[Report], alone: list[Report]) -> int | None:
    """How many calls gave other scores than in one thread."""
    if not alone or "error" in alone[0]:
        return None
    pairs = [pair for report in reports for pair in zip(report["scores"], alone[0]["scores"], strict=True)]
    return sum(bool(np.abs(np.subtract(scores, other)).max() > WRONG) for scores, other in pairs)


def fidelity(case: Case, rows: list[Row], judgments: dict[str, dict[str, int]]) -> Report:
    """How near each row's scores and orders are to the baseline's float32 ones, and what the judgments say."""
    base = case.reports.get(BASELINE, [])
    result = {}
    for row in rows:
        reports = case.reports.get(row.name, [])
        if not reports or not base or "error" in (*reports[-1], *base[-1]):
            continue
        requests = [request for requests in case.rounds[: len(reports)] for request in requests]
        sizes = np.cumsum([len(request.documents) for request in requests])[:-1]
        scores = np.split(np.concatenate([logits(report, row) for report in reports]), sizes)
        exact = [np.asarray(values) for report in base[: len(reports)] for values in report["scores"]]
        pairs = list(zip(scores, exact, strict=True))
        gained, before = (mean_ndcg(requests, values, judgments) for values in (scores, exact))
        result[row.name] = {
            "queries": len(requests),
            "largest_difference": float(f"{max(np.abs(a - b).max() for a, b in pairs):.2g}"),
            "spearman": round(float(np.mean([spearmanr(a, b).statistic for a, b in pairs])), 6),
            "top10_shared": round(float(np.mean([len(top(a) & top(b)) for a, b in pairs])), 3),
            "ndcg10": round(gained, 4),
            "ndcg10_change": round(gained - before, 5),
        }
    return result


def top(scores: np.ndarray) -> set[int]:
    """The indices of the ten best."""
    return set(np.argsort(-scores, kind="stable")[:10].tolist())


def mean_ndcg(requests: list[Request], scores: list[np.ndarray], judgments: dict[str, dict[str, int]]) -> float:
    """nDCG@10 of the candidates reordered by these scores."""
    run = {
        request.key: [request.ids[index] for index in np.argsort(-values, kind="stable")]
        for request, values in zip(requests, scores, strict=True)
    }
    return float(np.mean(list(ndcg(run, {key: judgments[key] for key in run}).values())))


def print_tables(result: Report) -> None:
    """Print what the rows took in all cases, and how near their scores are."""
    for key in ("times_baseline", "milliseconds_per_document", "share_of_peak", "peak_mib"):
        names = [
            name for name, case in result["cases"].items() if any(key in figures for figures in case["rows"].values())
        ]
        lines = {
            row: [_cell(result["cases"][name]["rows"].get(row, {}), key) for name in names] for row in result["rows"]
        }
        _table(key.replace("_", " "), names, lines)
    keys = ("seconds", "load_seconds", "peak_mib")
    first = {row: [_cell(figures, key) for key in keys] for row, figures in result["first_call"].items()}
    _table("first call", [key.replace("_", " ") for key in keys], first)
    keys = ("queries", "largest_difference", "spearman", "top10_shared", "ndcg10", "ndcg10_change")
    near = {row: [_cell(figures, key) for key in keys] for row, figures in result["fidelity"].items()}
    _table("fidelity", [key.replace("_", " ") for key in keys], near)


def _cell(figures: Report, key: str) -> str:
    return "error" if "error" in figures else str(figures.get(key, ""))


def _table(title: str, head: Sequence[str], lines: dict[str, list[str]]) -> None:
    width = max(map(len, lines), default=0)
    widths = [max(len(name), 8) for name in head]
    print(f"\n{title}\n{'':{width}}  " + "  ".join(f"{name:>{size}}" for name, size in zip(head, widths, strict=True)))
    for row, cells in lines.items():
        print(f"{row:{width}}  " + "  ".join(f"{cell:>{size}}" for cell, size in zip(cells, widths, strict=True)))

"""Figures in the README and the docs come from results files."""

import json
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
RESULTS = REPO / "benchmarks" / "results"

pytestmark = pytest.mark.skipif(not RESULTS.is_dir(), reason="the benchmarks' results are not part of this package")


def test_the_readmes_figures_are_those_of_the_results() -> None:
    speed = json.loads((RESULTS / "speed.json").read_text("utf-8"))
    gpu = json.loads((RESULTS / "gpu.json").read_text("utf-8"))
    text = " ".join((REPO / "README.md").read_text("utf-8").split())
    rows = speed["cases"]["throughput"]["rows"]
    default, auto, int8 = (rows[f"milvus-rerank{option}"] for option in ("", ' dtype="auto"', ' dtype="int8"'))
    for figure in (
        f"{default['times_baseline']:.2f} times sentence-transformers",
        f"{auto['times_baseline']:.2f} times in bfloat16",
        f"{int8['times_baseline']:.2f} times in int8",
        f"with {default['peak_mib']:.0f} MiB at the peak",
    ):
        assert figure in text
    cases = [case["pairs_per_second"] for case in gpu["models"].values()]
    times = [case["packed"] / case["sentence-transformers, 512"] for case in cases]
    assert f"On a GPU {min(times):.1f} to {max(times):.1f} times" in text


def test_the_figures_for_choosing_a_model_are_those_of_the_results() -> None:
    speed = json.loads((RESULTS / "speed.json").read_text("utf-8"))
    gpu = json.loads((RESULTS / "gpu.json").read_text("utf-8"))
    quality = json.loads((RESULTS / "quality.json").read_text("utf-8"))["collections"]
    text = " ".join((REPO / "docs" / "choose-a-model.md").read_text("utf-8").split())
    case = speed["cases"]["throughput"]
    default, auto = (case["rows"][f"milvus-rerank{option}"] for option in ("", ' dtype="auto"'))
    packed = {name: model["pairs_per_second"]["packed"] for name, model in gpu["models"].items()}
    history, cisi = quality["history"], quality["cisi"]
    for figure in (
        f"takes {default['milliseconds_per_document']:.0f} ms for a pair of {case['mean_tokens']:.0f} tokens",
        f"and {auto['milliseconds_per_document']:.0f} ms in bfloat16",
        f"scores {packed['bge-v2-m3']} pairs",
        f"MiniLM-L6 {packed['minilm-l6']:,}",
        f"from {history['ndcg_before']:.3f} to {history['ndcg_after']:.3f}",
        f"from {cisi['ndcg_before']:.3f} to {cisi['ndcg_after']:.3f}",
    ):
        assert figure in text


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
    text = " ".join((REPO / "docs" / "concepts.md").read_text("utf-8").split())
    faster = found["cases"]["short-20"]["times_baseline"]["shared"]
    assert f"of a query share runs once: {faster:.2f} times faster than sentence-transformers on 20 short" in text


def test_the_cost_of_traces_is_that_of_the_results() -> None:
    states = json.loads((RESULTS / "traces.json").read_text("utf-8"))["microseconds"]
    text = " ".join((REPO / "docs" / "traces.md").read_text("utf-8").split())
    costs = {
        state: [row[call] - row[f"{call}, without traces"] for call in ("1 text", "100 hits")]
        for state, row in states.items()
    }
    assert f"takes {costs['not imported'][0]:.1f} µs longer" in text
    assert f"and {costs['imported, no provider'][0]:.0f} µs if OpenTelemetry is imported" in text
    assert "one text costs {:.0f} µs and 100 hits cost {:.0f} µs".format(*costs["providers"]) in text


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
    packed = "packed, torch's operations"
    plain = [results["models"][name]["pairs_per_second"][packed] for name in ("bge-v2-m3", "modernbert-base")]
    assert "kernels it scores {} pairs/s, ModernBERT {}".format(*plain) in " ".join(text.split())
    shares = results["models"]["bge-v2-m3"]["tokens_of_pairs_at_10_50_90_100_percent"]
    assert f"a tenth has {shares[0]} or fewer, a tenth {shares[2]} or more, none more than {shares[3]}" in " ".join(
        text.split()
    )
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


def test_the_soaks_figures_are_those_of_the_results() -> None:
    found = json.loads((RESULTS / "soak.json").read_text("utf-8"))
    text = " ".join((REPO / "docs" / "server.md").read_text("utf-8").split())
    seen, health, memory = found["seen_by_clients"], found["health_ms"], found["resident_mib"]
    assert found["minutes"] > 10
    assert all(found["agree"].values())
    assert found["unexpected"] == {}
    for figure in (
        " good ones, ".join(map(str, [found["clients"]["good"], found["clients"]["bad"]])) + " that send nonsense",
        f"{seen['good']['ok']} good ones answered; {seen['bad']['invalid_request']} of nonsense refused",
        f"{seen['slow']['ok']} slow ones answered, {seen['slow']['invalid_request']} refused",
        f"{seen['leaving']['asked']} left; {seen['unreading']['asked']} unread",
        f"asked {health['probes']} times",
        f"p50 {health['p50']:.1f} ms, p99 {health['p99']:.1f} ms, at most {health['most']:.0f} ms",
        f"{memory['first_minute_median']:.0f} MiB in the first minute, {memory['last_minute_median']:.0f} in the last",
    ):
        assert figure in text


def test_the_table_of_loads_is_that_of_the_results() -> None:
    found = json.loads((RESULTS / "replicas.json").read_text("utf-8"))["models"]
    text = (REPO / "docs" / "troubleshooting.md").read_text("utf-8")
    names = {"sentence-transformers": "sentence-transformers", "milvus-rerank": "milvus-rerank"}
    names |= {f'milvus-rerank engine="{engine}"': f'`engine="{engine}"`' for engine in ("onnx", "openvino")}
    for model, results in found.items():
        for row, label in names.items():
            first, later = results["rows"][row]["first"], results["rows"][row]["later"]
            seconds = f"{first['load_seconds']:.1f} s | {later['load_seconds']:.1f} s"
            memory = f"{later['load_peak_mib']:,} MiB | {later['peak_mib']:,} MiB"
            assert f"| {model} | {label} | {seconds} | {memory} |" in text


def test_the_table_of_calibrations_is_that_of_the_results() -> None:
    results = json.loads((RESULTS / "calibration.json").read_text("utf-8"))
    text = (REPO / "docs" / "calibrate.md").read_text("utf-8")
    for name in ("cacm", "cisi", "cranfield"):
        row = results[name]
        numbers = [f"{row[key]:.3f}" for key in ("ece_before", "ece_after", "brier_before", "brier_after")]
        share = f"{100 * row['relevant'] / row['pairs']:.0f}%"
        assert f"| {name} | {row['queries']} | {share} | {' | '.join(numbers)} |" in text
        assert row["ece_after"] <= row["ece_before"] / 2

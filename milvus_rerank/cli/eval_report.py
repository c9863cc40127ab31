"""Terminal output of an evaluation."""

from milvus_rerank.cli import output
from milvus_rerank.evaluation import EvaluationReport, System
from milvus_rerank.evaluation.systems import duration

_DIFFERING = 5
"""Queries that the output names where there are no judgments."""


def show_evaluation(report: EvaluationReport) -> None:
    """Print the summary, the tables and the notes of an evaluation."""
    output.console().print(report.summary(), markup=False)
    print()
    if report.judgments:
        _show_quality(report)
    else:
        _show_agreement(report)
    print()
    _show_speed(report)
    if not report.judgments:
        _show_differing(report)
    for text in report.notes:
        output.note(text)


def _show_quality(report: EvaluationReport) -> None:
    metrics = list(report.systems[0].measures)
    rows = [[system.name, *(f"{system.mean(metric):.4f}" for metric in metrics)] for system in report.systems]
    for system, row in zip(report.systems, rows, strict=True):
        row.append(f"{report.ceilings[system.first_stage]:.4f}")
    output.print_table(["system", *metrics, "ceiling"], rows)
    gains = []
    for gain in filter(None, (report.gain(system.name) for system in report.systems)):
        ends = gain.interval
        between = "too few queries" if ends is None else f"{ends[0]:+.3f} to {ends[1]:+.3f}"
        counts = f"{gain.wins} / {gain.ties} / {gain.losses}"
        gains.append([gain.system, f"{gain.gain:+.4f}", between, f"{gain.p_value:.2g}", counts])
    if gains:
        print()
        output.print_table(["over its first stage", "gain", "95% interval", "p", "win / tie / loss"], gains)


def _show_agreement(report: EvaluationReport) -> None:
    rows = []
    for system in report.systems:
        agreement = report.agreement(system.name)
        cells = ["the reference", "", ""]
        if agreement is not None:
            cells = [f"{agreement.overlap:.3f}", f"{agreement.rbo:.3f}", f"{agreement.same_first:.3f}"]
        rows.append([system.name, *cells])
    output.print_table(["system", f"overlap@{report.k}", "RBO", "same first"], rows)
    others = [item for item in report.agreements if report.referred.name not in (item.system, item.other)]
    if others:
        print()
        between = [
            [f"{item.system} / {item.other}", f"{item.overlap:.3f}", f"{item.rbo:.3f}", f"{item.same_first:.3f}"]
            for item in others
        ]
        output.print_table(["between the others", f"overlap@{report.k}", "RBO", "same first"], between)


def _show_speed(report: EvaluationReport) -> None:
    with_cost = any(system.cost is not None for system in report.systems)
    columns = ["system", "embed", "search", "rerank", "p50", "p95", "pairs/s", "tokens"]
    rows = [[*_speed(system), *([_number(system.cost)] if with_cost else [])] for system in report.systems]
    output.print_table([*columns, *(["cost/1000"] if with_cost else [])], rows)


def _speed(system: System) -> list[str]:
    stages = [duration(system.seconds(50, stage)) for stage in ("embed", "search")]
    reranked = system.reranker is not None
    return [
        system.name,
        *stages,
        duration(system.seconds(50, "rerank")) if reranked else "",
        duration(system.seconds(50)),
        duration(system.seconds(95)),
        "" if system.pairs_per_second is None else f"{system.pairs_per_second:,.0f}",
        "" if system.tokens is None else f"{system.tokens:,}",
    ]


def _show_differing(report: EvaluationReport) -> None:
    pair = report.headline()
    if pair is None:
        return
    print()
    names = report.moved(*pair, count=_DIFFERING)
    rows = [[f"{1 - report.change(name, *pair):.3f}", name, report.queries[name]] for name in names]
    print(f"{pair[0].name} and {pair[1].name} differ most on:")
    output.print_table(["RBO", "id", "text"], rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"

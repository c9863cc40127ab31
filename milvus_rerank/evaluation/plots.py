"""Plots of an evaluation as SVG, drawn by matplotlib in colours that the page sets."""

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from milvus_rerank.evaluation.comparisons import differences, is_gain
from milvus_rerank.evaluation.systems import System

if TYPE_CHECKING:
    from milvus_rerank.evaluation.evaluation_report import EvaluationReport

_MOST = 6
"""Systems of a plot that has a curve or a panel for each."""
_COLOURS = {"#010203": "ink", "#010204": "faint", "#010205": "good", "#010206": "bad", "#010207": "accent"}
"""Colours in matplotlib, and the page's variables that replace them, so that the plots are readable in dark mode."""
_INK, _FAINT, _GOOD, _BAD, _ACCENT = _COLOURS
_STYLE = {
    "axes.edgecolor": _FAINT,
    "axes.facecolor": "none",
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "figure.facecolor": "none",
    "font.size": 9,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "milvus-rerank",
    "text.color": _INK,
    "text.parse_math": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


def quality_against_latency(report: "EvaluationReport") -> str:
    """Draw the mean nDCG of each system with its interval against the median time of a query."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for system in report.systems:
            x, y = max(system.seconds(50) * 1000, 0.01), system.mean(report.metric)
            low, high = system.interval(report.metric) or (y, y)
            colour = _FAINT if system.reranker is None else _ACCENT
            axes.errorbar(x, y, yerr=[[max(0, y - low)], [max(0, high - y)]], fmt="o", color=colour, capsize=3, ms=6)
            axes.annotate(_short(system.name), (x, y), xytext=(7, 5), textcoords="offset points", fontsize=8)
        best = max(system.mean(report.metric) for system in report.systems if system.reranker is None)
        axes.axhline(best, color=_FAINT, linestyle="--", linewidth=1)
        _show_milliseconds(axes)
        axes.margins(x=0.25)
        axes.set_ylabel(report.metric)

    return _svg("latency", draw, 3.6)


def gain_per_query(report: "EvaluationReport", system: System, baseline: System) -> str:
    """Draw the gain of each query over the first stage in falling order; those of other systems as lines."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        gains = sorted(differences(system, baseline, report.metric), reverse=True)
        colours = [_GOOD if gain > 0 else _BAD for gain in gains]
        axes.bar(range(1, len(gains) + 1), gains, width=1.0 if len(gains) > 60 else 0.8, color=colours, linewidth=0)
        others = [item for item in _best(report) if item.name != system.name]
        for other, dashes in zip(others, ((5, 2), (1, 1), (3, 1, 1, 1), (8, 2), (2, 4)), strict=False):
            first_stage = report[other.first_stage]
            values = sorted(differences(other, first_stage, report.metric), reverse=True)
            axes.plot(
                range(1, len(values) + 1), values, dashes=dashes, color=_INK, linewidth=1, label=_short(other.name)
            )
        axes.axhline(0, color=_FAINT, linewidth=1)
        axes.set_xlabel("queries, the greatest gain first")
        axes.set_ylabel(f"gain in {report.metric}")
        if others:
            axes.legend(fontsize=8, title="other rerankers", title_fontsize=8)

    return _svg("gains", draw, 3.0)


def score_distributions(report: "EvaluationReport") -> str:
    """Draw how the scores of relevant documents and those of all other documents are distributed."""
    systems = _best(report)

    def draw(figure: Any) -> None:
        panels = figure.subplots((len(systems) + 1) // 2, min(2, len(systems)), squeeze=False)
        for axes, system in zip(panels.flat, systems, strict=False):
            groups = _scores(report, system)
            ends = [score for scores in groups for score in scores]
            low, high = min(ends, default=0.0), max(ends, default=1.0)
            for scores, colour, label in zip(groups, (_GOOD, _FAINT), ("relevant", "others"), strict=True):
                if scores:
                    weights = [1 / len(scores)] * len(scores)
                    style = {"range": (low, high if high > low else low + 1), "bins": 30, "weights": weights}
                    axes.hist(scores, **style, color=colour, alpha=0.55, label=f"{label} ({len(scores)})")
            axes.set_title(_short(system.name, 40))
            axes.set_xlabel("score")
            axes.set_ylabel("share of documents")
            axes.legend(fontsize=8)
        for axes in list(panels.flat)[len(systems) :]:
            axes.set_visible(False)

    return _svg("scores", draw, 2.4 * ((len(systems) + 1) // 2))


def agreement_against_latency(report: "EvaluationReport") -> str:
    """Draw the rank-biased overlap of each system with the reference against the median time of a query."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for system in report.systems:
            agreement = report.agreement(system.name)
            x, y = max(system.seconds(50) * 1000, 0.01), 1.0 if agreement is None else agreement.rbo
            axes.plot([x], [y], "o", color=_FAINT if system.reranker is None else _ACCENT, ms=6)
            axes.annotate(_short(system.name), (x, y), xytext=(7, 5), textcoords="offset points", fontsize=8)
        _show_milliseconds(axes)
        axes.margins(x=0.25, y=0.15)
        axes.set_ylabel(f"RBO with {_short(report.referred.name)}")

    return _svg("agreement", draw, 3.2)


def _show_milliseconds(axes: Any) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "25" else "")
    axes.set_xlabel("milliseconds of a query, median (logarithmic)")


def _best(report: "EvaluationReport") -> list[System]:
    """Return the reranked systems with the highest mean, no more than a plot has room for."""
    reranked = [system for system in report.systems if is_gain(system, report[system.first_stage])]
    return sorted(reranked, key=lambda system: -system.mean(report.metric))[:_MOST]


def _scores(report: "EvaluationReport", system: System) -> tuple[list[float], list[float]]:
    relevant: list[float] = []
    others: list[float] = []
    for query, grades in report.judgments.items():
        ranking = system.rankings[query]
        for name, score in zip(ranking.ids, ranking.scores, strict=True):
            (relevant if grades.get(name, 0) > 0 else others).append(score)
    return relevant, others


def _short(name: str, most: int = 32) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _svg(name: str, draw: Callable[[Any], None], height: float) -> str:
    """Return a plot as an SVG element whose colours are variables and whose ids begin with its name."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE, "backend": "svg"}):
        figure = Figure(figsize=(9, height), layout="constrained")
        draw(figure)
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing, transparent=True)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, variable in _COLOURS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'xlink:href="#|\bhref="#', f'href="#{name}-', svg)
    return svg.replace("url(#", f"url(#{name}-").replace("<svg ", '<svg aria-hidden="true" ', 1)


Plots = Sequence[tuple[str, str, str]]
"""For each plot its title, a sentence about what it shows, and the SVG."""


def draw_plots(report: "EvaluationReport") -> Plots:
    """Draw the plots that a report has data for.

    :param report: the report.
    :returns: the plots.
    """
    pair = report.headline()
    if not report.judgments:
        text = f"How much the ranking of each system agrees with that of {report.referred.name}: 1 is the same ranking."
        return [("Agreement against latency", text, agreement_against_latency(report))] if pair else []
    text = "Up is better, left is faster. Bars are 95% bootstrap intervals; the dashed line is the best first stage."
    plots = [("Quality against latency", text, quality_against_latency(report))]
    if pair is not None and is_gain(*pair):
        system, baseline = pair
        text = f"{system.name} against {baseline.name}: above the line the reranker helps, below it hurts."
        plots.append(("Gain per query", text, gain_per_query(report, *pair)))
        text = "The further right the relevant documents are of the others, the better a reranker tells them apart."
        plots.append(("Scores of relevant and other documents", text, score_distributions(report)))
    return plots

"""The HTML page of an evaluation: one file without scripts, which needs no network."""

from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from milvus_rerank.evaluation.systems import System, duration
from milvus_rerank.requirements import require

if TYPE_CHECKING:
    from milvus_rerank.evaluation.evaluation_report import EvaluationReport


@dataclass(frozen=True, slots=True)
class PageHit:
    """A hit of a query on the page.

    :param id: the document's id.
    :param text: the beginning of its text.
    :param score: the score, or the first stage's distance.
    :param grade: the relevance in the judgments; None if the document is not judged.
    :param move: the ranks that the document rose over the baseline; negative if it fell, None if the baseline lacks it.
    """

    id: str
    text: str
    score: float
    grade: int | None
    move: int | None


@dataclass(frozen=True, slots=True)
class PageQuery:
    """A query on the page, with the hits of two systems.

    :param id: the query's id.
    :param text: the query's text.
    :param values: the nDCG of the baseline and of the system; None without judgments.
    :param change: the gain of nDCG; without judgments, 1 minus the rank-biased overlap.
    :param before: the hits of the baseline.
    :param after: the hits of the system.
    """

    id: str
    text: str
    values: tuple[float, float] | None
    change: float
    before: list[PageHit]
    after: list[PageHit]


def render(report: "EvaluationReport") -> str:
    """Return the page of a report.

    :param report: the report.
    :returns: the page; all texts are escaped.
    :raises MissingDependencyError: without jinja2 and matplotlib.
    """
    require("the page of an evaluation", "jinja2", "matplotlib")
    import jinja2
    import markupsafe

    from milvus_rerank.evaluation.plots import draw_plots

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["duration"] = duration
    template = environment.from_string(files(__package__).joinpath("page.html.jinja").read_text("utf-8"))
    pair = report.headline()
    return template.render(
        report=report,
        metrics=list(report.systems[0].measures),
        best=report.best(),
        pair=pair,
        costs=any(system.cost is not None for system in report.systems),
        plots=[(title, text, markupsafe.Markup(svg)) for title, text, svg in draw_plots(report)],  # noqa: S704
        queries=[_query(report, name, *pair) for name in report.moved(*pair)] if pair else [],
    )


def _query(report: "EvaluationReport", name: str, system: System, baseline: System) -> PageQuery:
    values = None
    if report.judgments:
        values = baseline.measures[report.metric][name], system.measures[report.metric][name]
    return PageQuery(
        name,
        report.queries[name],
        values,
        report.change(name, system, baseline),
        _hits(report, name, baseline, baseline),
        _hits(report, name, system, baseline),
    )


def _hits(report: "EvaluationReport", query: str, system: System, baseline: System) -> list[PageHit]:
    ranking, grades = system.rankings[query], report.judgments.get(query, {})
    ranks = {name: rank for rank, name in enumerate(baseline.rankings[query].ids)}
    return [
        PageHit(
            name,
            report.texts.get(name, ""),
            score,
            grades.get(name),
            ranks[name] - rank if name in ranks else None,
        )
        for rank, (name, score) in enumerate(zip(ranking.ids[: report.k], ranking.scores, strict=False))
    ]

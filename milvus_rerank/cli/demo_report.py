"""Terminal output of the demo: some queries before and after reranking, and the metrics of all queries."""

from rich.console import Console, Group
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from milvus_rerank.cli.output import NARROW, milliseconds
from milvus_rerank.evaluation import ComparisonReport, DemoReport, QueryReport, RankedDocument

ROWS = 5
BAR = 40
MARKS = {0: "", 1: "★", 2: "★★"}


def show_demo(console: Console, report: DemoReport, queries: int) -> None:
    """Print the demo's report, with this number of queries in full."""
    comparison = report.comparison
    console.print(
        Text.assemble(
            (f"{report.passages} passages", "bold"),
            f" in Milvus Lite, embedded by {report.embedder}; each query's top {comparison.candidates} reranked by ",
            (report.reranker, "bold"),
        )
    )
    shown = pick(comparison, queries)
    if shown:
        legend = "★★ answers the query, ★ is related. The queries that changed the most"
        console.print(Text(f"{legend}, {len(shown)} of {len(comparison.queries)}:", "dim"))
    for query in shown:
        console.print()
        console.print(_query(query, console.width))
    console.print()
    console.print(_figures(report, console.width))


def pick(comparison: ComparisonReport, count: int) -> list[QueryReport]:
    """Return the queries with the greatest gains, the greatest first, and the one with the greatest loss, if any."""
    ordered = sorted(comparison.queries, key=lambda query: query.ndcg_before - query.ndcg_after)
    if count >= len(ordered) or count < 2:
        return ordered[:count]
    lost = ordered[-1].ndcg_after < ordered[-1].ndcg_before
    return [*ordered[: count - 1], ordered[-1] if lost else ordered[count - 1]]


def _query(query: QueryReport, width: int) -> Group:
    """Return the first documents before and after; in a narrow terminal only after."""
    title = Text.assemble(
        ("“" + query.query + "”", "bold"),
        "  nDCG@10 ",
        f"{query.ndcg_before:.2f} → ",
        (f"{query.ndcg_after:.2f}", _color(query.ndcg_after - query.ndcg_before)),
    )
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    table.add_column("#", justify="right", style="dim", width=2)
    both = width >= NARROW
    if both:
        table.add_column("vector search", ratio=1, no_wrap=True, overflow="ellipsis")
        table.add_column("", width=2, style="yellow")
    table.add_column("reranked", ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("", width=2, style="yellow")
    table.add_column("move", justify="right", width=4)
    if both:
        table.add_column("score", justify="right", style="cyan", width=8)
    before = sorted(query.documents, key=lambda document: document.before)
    for old, new in list(zip(before, query.documents, strict=True))[:ROWS]:
        before_cells, score = (_cells(old), (f"{new.score:.3f}",)) if both else ((), ())
        table.add_row(str(new.after), *before_cells, *_cells(new), _move(new), *score)
    return Group(title, table)


def _cells(document: RankedDocument) -> tuple[Text, str]:
    style = "bold" if document.relevance > 1 else "" if document.relevance else "dim"
    return Text(document.title or document.id, style), MARKS.get(document.relevance, "★★")


def _move(document: RankedDocument) -> Text:
    steps = document.before - document.after
    if steps == 0:
        return Text("=", "dim")
    return Text(f"↑{steps}", "green") if steps > 0 else Text(f"↓{-steps}", "red")


def _figures(report: DemoReport, width: int) -> Panel:
    comparison = report.comparison
    gain = comparison.ndcg_after - comparison.ndcg_before
    better, equal, worse = comparison.changes
    times = {stage: milliseconds(seconds) for stage, seconds in comparison.median_seconds.items()}
    length = max(1, min(BAR, width - 34))  # 34 columns hold the border, the names and the figures
    bars = Table.grid(padding=(0, 2))
    bars.add_row("vector search", _bar(comparison.ndcg_before, length, "blue"), f"{comparison.ndcg_before:.3f}")
    after = Text.assemble((f"{comparison.ndcg_after:.3f}", "bold"), "  ", (f"{gain:+.3f}", _color(gain)))
    bars.add_row("reranked", _bar(comparison.ndcg_after, length, "green"), after)
    lines = (
        f"{better} queries better, {equal} equal, {worse} worse",
        f"indexing {milliseconds(report.index_seconds)} · all queries {milliseconds(report.search_seconds)} · median "
        f"query: embed {times['embed']}, search {times['search']}, rerank {times['rerank']}",
    )
    title = f"nDCG@10 over {len(comparison.queries)} judged queries"
    return Panel(
        Group(bars, Rule(style="dim"), *(Text(line, "dim") for line in lines)), title=title, title_align="left"
    )


def _bar(value: float, length: int, style: str) -> Text:
    full = round(value * length)
    return Text.assemble(("█" * full, style), ("░" * (length - full), "dim"))


def _color(gain: float) -> str:
    return "green" if gain > 0 else "red" if gain < 0 else "dim"

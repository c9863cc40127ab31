"""HTML that notebooks show for results."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from milvus_rerank.results import RerankResult

ROWS = 50
"""The most results in a table."""
CHARACTERS = 300
"""The most characters of a text in a table; longer texts are cut."""
CONTEXT = 80
"""The characters of a long text before and after its matched span."""

_LEFT = ' style="text-align: left"'


def results_html(results: Sequence[RerankResult[Any]]) -> str:
    """Return results as a table: rank, rank in the input, score, id, text with its matched span marked.

    :param results: the results, best first.
    :returns: HTML without scripts, styles of its own or links; all text is escaped. Columns that no result has are left
        out.
    """
    if not results:
        return "<em>No results</em>"
    shown = results[:ROWS]
    columns: dict[str, list[str]] = {"#": [str(rank) for rank in range(1, len(shown) + 1)]}
    if any(result.score is not None for result in shown):
        columns["was"] = [str(result.index + 1) for result in shown]
        columns["score"] = [_number(result.score) for result in shown]
    for name in ("stage", "distance"):
        values = [getattr(result, name) for result in shown]
        if any(value is not None for value in values):
            columns[name] = [_number(value) for value in values]
    if any(result.id is not None for result in shown):
        columns["id"] = [escape(_cut(str(result.id))) for result in shown]
    columns["text"] = [_text(result) for result in shown]
    head = "".join(f"<th{_style(name)}>{name}</th>" for name in columns)
    rows = (
        "".join(f"<td{_style(name)}>{cell}</td>" for name, cell in zip(columns, cells, strict=True))
        for cells in zip(*columns.values(), strict=True)
    )
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    more = len(results) - len(shown)
    rest = f"\n<p>… and {more} more</p>" if more else ""
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>{rest}"


def answer_html(
    query: str, results: Sequence[RerankResult[Any]], seconds: Mapping[str, float], error: Exception | None
) -> str:
    """Return the answer of a search: its query, the reranker's error if there is one, the results, and the timings.

    :param query: the query.
    :param results: the results, best first.
    :param seconds: the duration of each stage by its name.
    :param error: the reranker's exception; the results are then in the first stage's order.
    :returns: HTML, as :func:`results_html` does.
    """
    parts = [f"<p><strong>{escape(_cut(query))}</strong></p>"]
    if error is not None:
        message = escape(_cut(f"{type(error).__name__}: {error}"))
        parts.append(f"<p>Not reranked, in the first stage's order: {message}</p>")
    timings = " · ".join(f"{stage} {1000 * duration:.1f} ms" for stage, duration in seconds.items())
    return "\n".join([*parts, results_html(results), f"<p>{timings}</p>"])


def _style(column: str) -> str:
    return f'{_LEFT} dir="auto"' if column == "text" else _LEFT


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _cut(text: str) -> str:
    return text if len(text) <= CHARACTERS else text[: CHARACTERS - 1] + "…"


def _text(result: RerankResult[Any]) -> str:
    """Return a result's text, cut around its matched span."""
    text = result.text
    if result.span is None:
        return escape(_cut(text))
    start, end = result.span
    first, last = max(0, start - CONTEXT), min(len(text), end + CONTEXT)
    before = ("…" if first else "") + text[first:start]
    after = text[end:last] + ("…" if last < len(text) else "")
    if end - start > CHARACTERS:
        after = ""
    return f"{escape(before)}<mark>{escape(_cut(text[start:end]))}</mark>{escape(after)}"

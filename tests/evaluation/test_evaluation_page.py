"""The HTML page of an evaluation: all that it shows is escaped, it runs no script, and it needs no network."""

import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path

import pytest

from milvus_rerank.errors import WriteError
from milvus_rerank.evaluation import EvaluationReport, System
from milvus_rerank.evaluation.systems import Ranking
from milvus_rerank.search import Timings

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

EVIL = "<script>alert('pwned')</script><img src=x onerror=alert(1)>"
QUERIES = {f"q{number}": f"query {number} {EVIL}" for number in range(12)}
METRICS = ("nDCG@10", "RR@10")


def system(name: str, reranker: str | None, values: Mapping[str, float], order: tuple[str, ...]) -> System:
    rankings = {query: Ranking(order, tuple(-float(rank) for rank in range(len(order)))) for query in QUERIES}
    timings = {query: Timings(0.001, 0.002, 0.004 if reranker else 0.0) for query in QUERIES}
    measures = dict.fromkeys(METRICS, values) if values else {}
    return System(name, "dense", reranker, rankings, timings, 36 if reranker else 0, None, measures)


def make_report(*, judged: bool = True, rerankers: int = 1) -> EvaluationReport:
    names = [f"r{number} $x$ {EVIL}" for number in range(rerankers)]
    before = {query: 0.2 + number / 100 for number, query in enumerate(QUERIES)}
    after = {query: value + (0.3 if query != "q3" else -0.1) for query, value in before.items()}
    systems = [system("dense", None, before if judged else {}, ("d1", "d2", "d3"))]
    systems += [system(name, name, after if judged else {}, ("d3", "d1", "d2")) for name in names]
    return EvaluationReport(
        name=f"my {EVIL}",
        k=10,
        candidates=3,
        queries=QUERIES,
        judgments={query: {"d3": 2, "d2": 0} for query in QUERIES} if judged else {},
        systems=tuple(systems),
        ceilings={"dense": 1.0} if judged else {},
        texts={"d1": f"first {EVIL}", "d2": "second", "d3": "third & last"},
        notes=(f"a note {EVIL}",),
        details={"machine": f"here {EVIL}", "calls": {"made": 1, "from the cache": 2}, "versions": {"torch": "2"}},
    )


class Page(HTMLParser):
    """The elements of a page, its attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.mark.parametrize("judged", [True, False])
def test_texts_names_and_notes_are_escaped_and_the_page_needs_no_network(judged: bool) -> None:
    html = make_report(judged=judged, rerankers=2).to_html()
    page = Page(html)
    assert not {"script", "img", "iframe", "object", "embed", "link", "base", "form"} & set(page.tags)
    assert EVIL in page.text  # as text, from the document, the query, the note and the names
    assert page.text.count("alert('pwned')") > 5
    names = {name for name, _ in page.attributes}
    assert not any(name.startswith("on") for name in names)
    addresses = [value for name, value in page.attributes if name in ("href", "src", "xlink:href", "action", "style")]
    assert not [value for value in addresses if re.search(r"https?:|//", value)]
    assert all(value.startswith("#") for name, value in page.attributes if name in ("href", "xlink:href"))
    [policy] = [value for name, value in page.attributes if value.startswith("default-src")]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_the_page_has_the_figures_of_the_report() -> None:
    report = make_report()
    page = Page(report.to_html())
    assert report.summary() in page.text
    reranked = report.systems[1]
    gain = report.gain(reranked.name)
    assert gain is not None
    assert f"{reranked.mean('nDCG@10'):.4f}" in page.text
    assert f"{gain.gain:+.4f}" in page.text
    assert "11 / 0 / 1" in page.text
    assert "7.0 ms" in page.text
    assert page.tags.count("svg") == 3
    assert page.tags.count("details") == 10


def test_hits_stand_side_by_side_with_their_grades_and_moves() -> None:
    page = Page(make_report().to_html())
    start = page.text.index("queries that moved most")
    section = page.text[start:]
    assert "★ 2 d3" in section.replace("★2", "★ 2")
    assert "· ↑2" in section
    assert "· ↓1" in section
    assert "d1 -0 · not judged" in section.replace("d1 0 ", "d1 -0 ")  # on the left there are no arrows
    assert "d1 -1 · ↓1 · not judged" in section
    assert "third & last" in section


def test_without_judgments_the_page_shows_agreement() -> None:
    page = Page(make_report(judged=False).to_html())
    assert "overlap@10" in page.text
    assert "the reference" in page.text
    assert "rank-biased overlap" in page.text
    assert page.tags.count("svg") == 1


@pytest.mark.parametrize("judged", [True, False])
def test_plots_show_plain_numbers_and_names(judged: bool) -> None:
    page = Page(make_report(judged=judged, rerankers=2).to_html())
    assert "mathdefault" not in page.text
    assert "r1 $x$" in page.text
    assert "milliseconds of a query" in page.text


def test_ids_in_the_page_are_unique() -> None:
    page = Page(make_report(rerankers=3).to_html())
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    wanted = {value[1:] for name, value in page.attributes if name == "href"}
    assert wanted <= set(ids)


def test_the_same_report_is_the_same_page() -> None:
    assert make_report().to_html() == make_report().to_html()


def test_the_page_is_written_or_the_error_names_the_file(tmp_path: Path) -> None:
    page = make_report().to_html(tmp_path / "out.html")
    assert (tmp_path / "out.html").read_text("utf-8") == page
    with pytest.raises(WriteError, match=r"absent.out\.html cannot be written"):
        make_report().to_html(tmp_path / "absent" / "out.html")


def test_one_system_alone_has_a_page() -> None:
    page = Page(make_report(rerankers=0).to_html())
    assert page.tags.count("svg") == 1
    assert "details" not in page.tags

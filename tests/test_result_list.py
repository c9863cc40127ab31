"""RerankResults: a list, a table in a notebook, a data frame."""

import copy
import os
import pickle
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numbered_hits import A, B, C

import milvus_rerank
from milvus_rerank import (
    LexicalRerankFunction,
    RerankResult,
    RerankResults,
    SearchAnswer,
    above,
    diversify,
    fuse,
    normalize,
)
from milvus_rerank.notebook import CHARACTERS, ROWS
from milvus_rerank.search import Timings

lexical = LexicalRerankFunction()
HITS = [
    {"id": 7, "distance": 0.9, "entity": {"text": "a <b>cat</b>", "year": 1950}},
    {"id": 8, "distance": 0.5, "entity": {"text": "a dog & a cat", "year": 1956}},
    {"id": 9, "distance": 0.1, "entity": {"text": None}},
]


class Table(HTMLParser):
    """Rows of cells of a table, and every tag; unescaped text only."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "mark":
            self.rows[-1][-1] += "["

    def handle_endtag(self, tag: str) -> None:
        if tag == "mark":
            self.rows[-1][-1] += "]"

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1] and data != "\n":
            self.rows[-1][-1] += data


def table(html: str) -> list[list[str]]:
    return Table(html).rows


def test_every_call_returns_a_list_whose_slices_keep_its_class() -> None:
    texts = ["a cat", "a dog", "a dog and a cat"]
    found = lexical("dog", texts)
    assert isinstance(found, list)
    assert found == [found[0], found[1], found[2]]
    assert found == lexical.rerank("dog", texts)
    assert lexical.rerank("dog", texts, 2, 1.0) == lexical("dog", texts, top_k=2, threshold=1.0)
    every = [
        found,
        found[:2],
        copy.deepcopy(found),
        pickle.loads(pickle.dumps(found)),
        lexical.rerank_many(["dog"], [texts])[0],
        lexical.rerank_hits("dog", HITS, missing="last"),
        lexical.rerank_search_result(["dog"], [HITS], missing="skip")[0],
        normalize(found, "rank"),
        above(found, 1.0),
        fuse([A, B, C], metric="IP"),
        diversify([A, B, C], [[1.0], [2.0], [3.0]]),
        diversify([A, B, C], [[1.0], [2.0], [3.0]], trade_off=1),
    ]
    assert [type(results) for results in every] == [RerankResults] * len(every)
    assert every[2] == every[3] == found
    assert (found[-1].index, found[1:][0]) == (0, found[1])


def test_the_table_has_rank_place_score_id_and_text_and_escapes_it() -> None:
    html = lexical.rerank_hits("dog cat", HITS, missing="last")._repr_html_()
    assert table(html) == [
        ["#", "was", "score", "distance", "id", "text"],
        ["1", "2", "1", "0.5", "8", "a dog & a cat"],
        ["2", "1", "0.5", "0.9", "7", "a <b>cat</b>"],
        ["3", "3", "", "0.1", "9", ""],
    ]
    assert "a &lt;b&gt;cat&lt;/b&gt;" in html
    evil = [RerankResult("x", 1.0, 0, id="<script>alert(1)</script>", entity={})]
    assert not {"script", "b"} & set(Table(RerankResults(evil)._repr_html_()).tags)


def test_columns_that_no_result_has_are_left_out() -> None:
    assert table(lexical("dog", ["a dog"])._repr_html_()) == [["#", "was", "score", "text"], ["1", "1", "1", "a dog"]]
    staged = RerankResults([RerankResult("x", -12.3456, 4, stage=1), RerankResult("y", 1e-7, 0, stage=0)])
    assert table(staged._repr_html_())[1:] == [["1", "5", "-12.35", "1", "x"], ["2", "1", "1e-07", "0", "y"]]
    assert RerankResults()._repr_html_() == "<em>No results</em>"


@pytest.mark.parametrize(
    ("text", "span", "shown"),
    [
        ("one two three", (4, 7), "one [two] three"),
        ("x" * CHARACTERS, None, "x" * CHARACTERS),
        ("x" * (CHARACTERS + 1), None, "x" * (CHARACTERS - 1) + "…"),
        ("a" * 200 + "<two>" + "b" * 200, (200, 205), "…" + "a" * 80 + "[<two>]" + "b" * 80 + "…"),
        ("a" * 50 + "b" * 900, (50, 950), "a" * 50 + "[" + "b" * (CHARACTERS - 1) + "…]"),
    ],
)
def test_long_texts_are_cut_around_the_span_that_is_marked(text: str, span: tuple[int, int] | None, shown: str) -> None:
    html = RerankResults([RerankResult(text, 1.0, 0, span=span)])._repr_html_()
    assert table(html)[1][-1] == shown


def test_long_lists_are_cut() -> None:
    html = RerankResults(RerankResult("x", 1.0, index) for index in range(ROWS + 7))._repr_html_()
    assert len(table(html)) == ROWS + 1
    assert html.endswith("<p>… and 7 more</p>")


def test_an_answer_shows_query_timings_and_the_error_of_a_failed_reranker() -> None:
    timings = Timings(0.001, 0.0025, 0.02)
    answer = SearchAnswer("cats & dogs", (RerankResult("a cat", 0.5, 1),), True, None, timings)
    html = answer._repr_html_()
    assert "<strong>cats &amp; dogs</strong>" in html
    assert "embed 1.0 ms · search 2.5 ms · rerank 20.0 ms" in html
    assert table(html)[1] == ["1", "2", "0.5", "a cat" + "embed 1.0 ms · search 2.5 ms · rerank 20.0 ms"]
    failed = SearchAnswer("q", (RerankResult("a cat", None, 0),), False, OSError("a < b"), timings)
    assert "Not reranked, in the first stage's order: OSError: a &lt; b" in failed._repr_html_()
    assert table(failed._repr_html_())[0] == ["#", "text"]
    assert type(answer[:1]) is RerankResults
    assert answer[:1] == [answer[0]]


def test_a_data_frame_has_a_row_per_result_and_a_column_per_field() -> None:
    pandas = pytest.importorskip("pandas")
    hits = [*HITS, {"id": 10, "distance": 0.0, "entity": {"text": "dog", "score": "high", "vector": np.ones(2)}}]
    frame = lexical.rerank_hits("dog cat", hits, missing="last").to_pandas()
    assert list(frame.columns) == [
        "rank", "index", "score", "id", "distance", "text", "entity.text", "year", "entity.score", "vector"
    ]  # fmt: skip
    assert frame["rank"].tolist() == [1, 2, 3, 4]
    assert frame["index"].tolist() == [1, 0, 3, 2]
    assert frame["score"].dtype == "float64"
    assert frame["score"].tolist()[:3] == [1.0, 0.5, 0.5]
    assert pandas.isna(frame["score"][3])
    assert frame["id"].tolist() == [8, 7, 10, 9]
    assert frame["year"].tolist()[:2] == [1956, 1950]
    assert frame["entity.score"][2] == "high"
    assert frame["vector"][2].tolist() == [1.0, 1.0]


def test_the_data_frame_of_texts_is_small_and_that_of_an_answer_the_same() -> None:
    pytest.importorskip("pandas")
    found = lexical.rerank_hits("dog cat", HITS[:2])
    frame = found.to_pandas()
    assert list(frame.columns) == ["rank", "index", "score", "id", "distance", "text", "year"]
    answer = SearchAnswer("dog cat", tuple(found), True, None, Timings(0, 0, 0))
    assert answer.to_pandas().equals(frame)
    assert list(lexical("dog", ["a dog"]).to_pandas().columns) == ["rank", "index", "score", "text"]
    assert lexical("dog", []).to_pandas().empty


def test_without_pandas_one_line_says_what_to_type() -> None:
    code = """
import sys
sys.modules["pandas"] = None
from milvus_rerank import LexicalRerankFunction
from milvus_rerank.errors import MissingDependencyError
try:
    LexicalRerankFunction()("dog", ["a dog"]).to_pandas()
except MissingDependencyError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == (
        "to_pandas() needs the package 'pandas', which is not installed. Type: pip install milvus-rerank\n"
    )


def test_to_a_type_checker_scores_are_floats_unless_hits_without_a_score_may_come(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    lines = {
        'good(ce("q", ["t"])[0])': "bool",
        'good(ce.rerank("q", ["t"])[:1][0])': "bool",
        'good(ce.rerank_many(["q"], [["t"]])[0][0])': "bool",
        'ce.rerank_hits("q", hits)[0].score': "float",
        'ce.rerank_hits("q", hits, missing="skip", top_k=3)[0].score': "float",
        'ce.rerank_hits("q", hits)[0].entity["year"] > 1950': "Any",
        'ce.rerank_hits("q", hits)[0].distance > 0.5': "bool | Any",
        'ce.rerank_hits("q", hits, missing="last")[0].score': "float | None",
        'ce.rerank_search_result(["q"], [hits], missing="last")[0][0].score': "float | None",
        'TwoStageSearch(client, "c", reranker=ce)("q")[0].score': "float",
        'TwoStageSearch(client, "c", reranker=ce, missing="skip")(["q"])[0][0].score': "float",
        'TwoStageSearch(client, "c", reranker=ce, missing="last")("q")[0].score': "float | None",
        'TwoStageSearch(client, "c", reranker=ce, on_rerank_error="first_stage")("q")[0].score': "float | None",
        'normalize(ce("q", ["t"]), "sigmoid")[0].score': "float",
        'above(ce.rerank_hits("q", hits, missing="last"), 0.5)[0].score': "float",
    }
    header = """from typing import Any
from milvus_rerank import CrossEncoderRerankFunction, RerankResult, TwoStageSearch, above, normalize
def good(result: RerankResult) -> bool:
    return result.score > 0.5
def texts(search: TwoStageSearch, results: list[RerankResult]) -> list[str]:
    return [result.text for result in (*search("q"), *results)]
async def first(ce: CrossEncoderRerankFunction) -> float:
    return (await ce.arerank_hits("q", []))[0].score
def check(ce: CrossEncoderRerankFunction, client: Any, hits: list[Any]) -> None:
    texts(TwoStageSearch(client, "c", reranker=ce), ce("q", ["t"]))
"""
    path = tmp_path / "calls.py"
    path.write_text(header + "\n".join(f"    reveal_type({line})" for line in lines))
    command = [sys.executable, "-m", "mypy", "--config-file", "", "--strict", "--follow-imports", "silent"]
    ran = subprocess.run(
        [*command, "--no-pretty", "--cache-dir", str(tmp_path / "cache"), str(path)],
        env={**os.environ, "MYPYPATH": str(Path(milvus_rerank.__file__).parents[1])}, capture_output=True, text=True,
    )  # fmt: skip
    found = [line for line in ran.stdout.splitlines() if "calls.py:" in line]
    assert [line for line in found if "error" in line] == []
    assert [re.search(r'is "(?:builtins\.)?(.*?)"', line)[1] for line in found] == list(lines.values())  # type: ignore[index]

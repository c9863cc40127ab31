"""The playground in a real browser: keyboard, phone width, movements, and a Milvus collection."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import serving, wait_for

from milvus_rerank import CrossEncoderRerankFunction, LexicalRerankFunction

CHROMIUM = os.environ.get("MILVUS_RERANK_CHROMIUM") or next(
    (found for name in ("chromium", "chromium-headless-shell", "google-chrome") if (found := shutil.which(name))), None
)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@pytest.fixture(scope="module")
def reranker() -> CrossEncoderRerankFunction:
    return CrossEncoderRerankFunction("builtin/rerank", device="cpu", threads=1)


@pytest.fixture(scope="module")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from milvus_rerank.embedding import StaticEmbedder
    from milvus_rerank.indexing import index_passages, open_client
    from milvus_rerank.indexing.corpus import Passage
    from milvus_rerank.server.playground import Milvus

    texts = ["A dog barks.", "A cat purrs.", "The stock market fell.", "Rain in Spain.", "Wolves howl at night."]
    embedder = StaticEmbedder("builtin/embed")
    with open_client(str(tmp_path_factory.mktemp("milvus") / "x.db")) as client:
        index_passages(client, "animals", [Passage(str(place), "", text) for place, text in enumerate(texts)], embedder)
        yield Milvus(client, embedder, allowed=("ani*",))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as tool:
        made = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    page.problems = []
    page.requested = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda line: page.problems.append(line.text) if line.type in ("error", "warning") else None)
    page.on("request", lambda request: page.requested.append(request.url))
    yield page
    page.close()


def test_the_page_may_load_nothing_from_elsewhere(reranker: CrossEncoderRerankFunction) -> None:
    with serving({"m": lambda: reranker}) as server:
        answer = httpx.get(f"{server.address}/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert len(re.findall(r"'sha256-[A-Za-z0-9+/]{43}='", policy)) == 2
    assert not re.search(r"(src|href)=\"[^\"]*//", answer.text)


@needs_browser
def test_pasted_documents_are_reranked_with_their_movements(page: Any, reranker: CrossEncoderRerankFunction) -> None:
    with serving({"m": lambda: reranker}) as server:
        page.goto(server.address)
        for _ in range(2):  # all from the keyboard: past the link, the query comes first
            page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "query"
        page.keyboard.press("Control+A")
        page.keyboard.type("Which animal barks?")
        for _ in range(5):  # past the queries to try
            page.keyboard.press("Tab")
        page.keyboard.press("Control+A")
        page.keyboard.insert_text("A cat purrs.\nThe market fell.\n\nA dog is an animal that barks.")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#after li")
        texts = ["A cat purrs.", "The market fell.", "A dog is an animal that barks."]
        assert page.locator("#before li p").all_inner_texts() == texts
        here = reranker("Which animal barks?", texts, top_k=0)
        assert page.locator("#after li p").all_inner_texts() == [one.text for one in here]
        scores = [float(line.split()[0]) for line in page.locator("#after .score").all_inner_texts()]
        assert scores == pytest.approx([one.score for one in here], abs=1e-3)
        arrows = [line.split()[1] for line in page.locator("#after .score").all_inner_texts()]
        assert arrows[0] == "▲2"
        assert [arrow[0] for arrow in arrows[1:]] == ["▼", "▼"]
        widths = [float(bar.evaluate("bar => bar.style.width").rstrip("%")) for bar in page.locator(".bar span").all()]
        assert widths[0] == 100
        assert widths[-1] == 4
        assert re.search(r"rerank \d+ ms · 3 documents · \d+ tokens", page.locator("#times").inner_text())
        page.mouse.move(0, 0)
        page.locator("#after").focus()
        assert page.locator("#before li.lit p").all_inner_texts() == [texts[2]]
        assert page.problems == []
        assert all(url.startswith((server.address, "data:")) for url in page.requested)


@needs_browser
def test_a_collection_is_searched_and_its_hits_are_reranked(
    page: Any, reranker: CrossEncoderRerankFunction, milvus: Any
) -> None:
    with serving({"m": lambda: reranker}, milvus=milvus) as server:
        page.goto(server.address)
        page.locator("#sources").wait_for()
        page.get_by_label("A Milvus collection").check()
        assert page.locator("#collection option").all_inner_texts() == ["animals"]
        page.fill("#query", "Which animal barks?")
        page.click("#go")
        page.wait_for_selector("#after li")
        assert page.locator("#before li").count() == 5
        assert page.locator("#after li p").first.inner_text() == "A dog barks."
        assert re.search(r"search \d+ ms · rerank \d+ ms · 5 documents", page.locator("#times").inner_text())
        distances = [float(one) for one in page.locator("#before .score").all_inner_texts()]
        assert distances == sorted(distances, reverse=True)
        page.locator("#mode").select_option("bm25")
        page.click("#go")
        playwright.expect(page.locator("#before li")).to_have_count(1)
        assert page.locator("#before li p").first.inner_text() == "A dog barks."
        assert page.problems == []


@needs_browser
def test_it_fits_a_phone_and_asks_for_a_key(
    browser: Any, page: Any, reranker: CrossEncoderRerankFunction, tmp_path: Path
) -> None:
    with serving({"m": lambda: reranker}, keys=[b"k"]) as server:
        page.set_viewport_size({"width": 360, "height": 740})
        page.goto(server.address)
        page.locator("#key").wait_for()
        assert "no key" in page.locator("#error").inner_text()
        page.fill("#key", "k")
        page.click("#go")
        page.wait_for_selector("#after li")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        tops = [page.locator(f"#{name}").bounding_box()["y"] for name in ("after", "before")]
        assert tops[0] < tops[1]  # the better order first
        assert page.locator("#error").inner_text() == ""


@needs_browser
def test_errors_are_shown(page: Any, reranker: CrossEncoderRerankFunction) -> None:
    with serving({"m": lambda: reranker}, documents=2) as server:
        page.goto(server.address)
        page.click("#go")
        playwright.expect(page.locator("#error")).to_have_text(
            "got 4 documents; this server takes at most 2 in a request"
        )


@needs_browser
def test_queries_to_try_find_their_documents(page: Any, reranker: CrossEncoderRerankFunction) -> None:
    with serving({"m": lambda: reranker}) as server:
        page.goto(server.address)
        buttons = page.locator("#samples button")
        playwright.expect(buttons).to_have_count(4)
        found = {}
        for number in range(4):
            buttons.nth(number).click()
            page.wait_for_function("number => document.querySelector('#go').disabled === false", arg=number)
            playwright.expect(page.locator("#query")).to_have_value(buttons.nth(number).inner_text())
            found[number] = page.locator("#after li p").first.inner_text()
        documents = page.locator("#documents").input_value().splitlines()
        assert [documents.index(found[number]) for number in range(4)] == [1, 0, 2, 3]
        assert page.problems == []


@needs_browser
def test_a_link_brings_the_settings_back_without_the_key(
    page: Any, reranker: CrossEncoderRerankFunction, milvus: Any
) -> None:
    with serving({"m": lambda: reranker}, milvus=milvus, keys=[b"secret"]) as server:
        page.goto(server.address)
        page.fill("#key", "secret")
        page.locator("#go").click()
        page.locator("#sources").wait_for()
        page.get_by_label("A Milvus collection").check()
        page.fill("#query", "Which animal barks?")
        page.fill("#candidates", "3")
        page.click("#more summary")
        page.fill("#top", "2")
        page.click("#go")
        playwright.expect(page.locator("#after li")).to_have_count(2)
        page.click("#link")
        link = page.locator("#code").inner_text()
        assert link.startswith(f"{server.address}/#")
        assert "secret" not in link
    with serving({"m": lambda: reranker}, milvus=milvus) as server:
        page.goto(f"{server.address}/#{link.partition('#')[2]}")
        playwright.expect(page.locator("#after li")).to_have_count(2)
        playwright.expect(page.locator("#before li")).to_have_count(3)
        assert page.locator("#query").input_value() == "Which animal barks?"
        assert page.locator("#after li p").first.inner_text() == "A dog barks."


@needs_browser
@pytest.mark.parametrize("source", ["paste", "milvus"])
def test_the_copies_make_the_same_search(
    page: Any, reranker: CrossEncoderRerankFunction, milvus: Any, source: str, tmp_path: Path
) -> None:
    with serving({"m": lambda: reranker}, milvus=milvus, keys=[b"k'1"]) as server:
        page.goto(server.address)
        page.fill("#key", "k'1")
        page.click("#go")
        page.locator("#sources").wait_for()
        page.locator(f"[value={source}]").check()
        page.fill("#query", 'Which animal\'s voice "barks" \\ 🐕?')
        if source == "paste":
            page.fill("#documents", 'A dog\'s bark \\n is "loud" 🐕.\nA cat purrs.')
        page.click("#go")
        playwright.expect(page.locator("#after li")).to_have_count(2 if source == "paste" else 5)
        scores = [float(line.split()[0]) for line in page.locator("#after .score").all_inner_texts()]
        texts = page.locator("#after li p").all_inner_texts()
        environment = {**os.environ, "MILVUS_RERANK_KEY": "k'1"}
        page.click("#python")
        (tmp_path / "copied.py").write_text(page.locator("#code").inner_text())
        done = subprocess.run(
            [sys.executable, str(tmp_path / "copied.py")], capture_output=True, text=True, env=environment, timeout=60
        )
        lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
        assert [text for _, text in lines] == texts, done.stderr
        assert [float(score) for score, _ in lines] == pytest.approx(scores, abs=2e-3)
        if shutil.which("curl"):
            page.click("#curl")
            answered = subprocess.run(
                ["sh", "-c", page.locator("#code").inner_text()], capture_output=True, env=environment, timeout=60
            )
            results = json.loads(answered.stdout)["results"]
            assert [row["relevance_score"] for row in results] == pytest.approx(scores, abs=2e-3)


@needs_browser
def test_the_part_of_a_long_document_that_has_the_score_is_marked(page: Any) -> None:
    chunked = CrossEncoderRerankFunction("builtin/rerank", device="cpu", threads=1, long="chunk", max_length=48)
    text = "Nothing of note happened. " * 20 + "A dog is an animal that barks. " + "Rain fell again and again. " * 20
    with serving({"m": lambda: chunked}) as server:
        page.goto(server.address)
        page.fill("#query", "Which animal barks?")
        page.fill("#documents", f"A cat purrs.\n{text}")
        page.click("#go")
        page.wait_for_selector("#after li mark")
        [span] = [result.span for result in chunked("Which animal barks?", [text.strip()])]
        assert span is not None
        assert page.locator("mark").all_text_contents() == [text.strip()[slice(*span)]]
        assert "dog" in page.locator("mark").inner_text()


@needs_browser
def test_a_running_search_can_be_cancelled(page: Any, reranker: CrossEncoderRerankFunction) -> None:
    entered, leave = threading.Event(), threading.Event()

    class Slow(LexicalRerankFunction):
        def score_requests(self, requests: Any, stop: threading.Event) -> list[list[float]]:
            entered.set()
            assert leave.wait(30)
            return super().score_requests(requests, stop)

    with serving({"m": Slow}) as server:
        page.goto(server.address)
        page.click("#go")
        assert entered.wait(30)
        playwright.expect(page.locator("#cancel")).to_be_visible()
        playwright.expect(page.locator("#form")).to_have_attribute("aria-busy", "true")
        page.click("#cancel")
        playwright.expect(page.locator("#times")).to_have_text("Cancelled.")
        playwright.expect(page.locator("#cancel")).to_be_hidden()
        wait_for(lambda: server.outcomes().get("client_disconnected") == 1)
        leave.set()


@needs_browser
def test_the_lists_take_one_tab_stop_and_arrows_go_through_them(
    page: Any, reranker: CrossEncoderRerankFunction
) -> None:
    with serving({"m": lambda: reranker}) as server:
        page.goto(server.address)
        page.click("#go")
        page.wait_for_selector("#after li")
        page.mouse.move(0, 0)
        page.locator("#before").focus()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "after"
        for key, place in (("ArrowDown", 1), ("End", 3), ("ArrowUp", 2), ("Home", 0)):
            page.keyboard.press(key)
            assert [line.get_attribute("class") for line in page.locator("#after li").all()].index("lit") == place


@needs_browser
def test_empty_input_says_what_to_do(page: Any, reranker: CrossEncoderRerankFunction) -> None:
    with serving({"m": lambda: reranker}) as server:
        page.goto(server.address)
        page.fill("#query", "  ")
        page.click("#go")
        playwright.expect(page.locator("#error")).to_contain_text("The query is empty: type what you look for")
        page.fill("#query", "q")
        page.fill("#documents", "\n \n")
        page.click("#go")
        playwright.expect(page.locator("#error")).to_have_text("There are no documents: paste some, one a line.")


@needs_browser
def test_the_page_of_the_api_shows_every_route_and_loads_nothing_from_elsewhere(
    page: Any, reranker: CrossEncoderRerankFunction
) -> None:
    with serving({"m": lambda: reranker}, keys=[b"k"]) as server:
        page.goto(f"{server.address}/docs")
        page.locator("#keys").wait_for()
        page.fill("#key", "k")
        page.keyboard.press("Enter")
        page.locator("details").first.wait_for()
        paths = httpx.get(f"{server.address}/openapi.json", headers={"authorization": "Bearer k"}).json()["paths"]
        assert set(page.locator("summary code").all_inner_texts()) == set(paths)
        page.get_by_text("/v1/rerank", exact=True).click()
        shown = page.locator("details[open]").inner_text()
        for word in ("query *", "documents *", "instruction", "relevance_score *", "Errors: "):
            assert word in shown, shown
        assert all(url.startswith((server.address, "data:")) for url in page.requested)

"""The playground in a real browser: keyboard, phone width, movements, and a Milvus collection."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import serving

from milvus_rerank import CrossEncoderRerankFunction

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
    assert not re.search(r"(src|href)=\"(?!data:)", answer.text)


@needs_browser
def test_pasted_documents_are_reranked_with_their_movements(page: Any, reranker: CrossEncoderRerankFunction) -> None:
    with serving({"m": lambda: reranker}) as server:
        page.goto(server.address)
        page.keyboard.press("Tab")  # all from the keyboard: the query comes first
        assert page.evaluate("document.activeElement.id") == "query"
        page.keyboard.press("Control+A")
        page.keyboard.type("Which animal barks?")
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
        page.locator("#after li").first.focus()
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

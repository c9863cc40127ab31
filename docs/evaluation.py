"""Draw evaluation.png: python docs/evaluation.py. Needs Chromium, and what the tests need."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).resolve().parent
HISTORY = HERE.parent / "milvus_rerank" / "data" / "history"
RERANKERS = ("builtin/rerank", "lexical", 'cascade=cascade?stages=[["lexical",15],["builtin/rerank",null]]')


def main() -> None:
    """Evaluate rerankers on the history collection, open the page, and take the picture."""
    chromium = os.environ.get("MILVUS_RERANK_CHROMIUM") or shutil.which("chromium-headless-shell")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as tool:
        command = [sys.executable, "-m", "milvus_rerank", "eval", "--judged", str(HISTORY), "--candidates", "30"]
        command += ["--first-stage", "dense", "--first-stage", "bm25", "--report", f"{folder}/out.html"]
        for name in RERANKERS:
            command += ["--reranker", name]
        subprocess.run(command, check=True)
        browser = tool.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1260, "height": 1700})
        page.goto(f"file://{folder}/out.html")
        page.screenshot(path=HERE / "evaluation.png")
        browser.close()


if __name__ == "__main__":
    main()

"""Draw playground.png: python docs/screenshot.py. Needs Chromium, and what the tests need."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).resolve().parent
PROGRAM = str(Path(sys.executable).with_name("milvus-rerank"))
QUERY = "UK cuts money for artificial intelligence in the 1970s"


def main() -> None:
    """Index the history collection, serve it, ask, and take the picture."""
    chromium = os.environ.get("MILVUS_RERANK_CHROMIUM") or shutil.which("chromium-headless-shell")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as tool:
        uri = f"{folder}/history.db"
        history = HERE.parent / "milvus_rerank" / "data" / "history"
        subprocess.run([PROGRAM, "index", str(history), "--uri", uri], check=True)
        command = [PROGRAM, "serve", "--port", "0", "--milvus-uri", uri, "--collection", "*"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            assert server.stderr is not None
            address = next(json.loads(line)["address"] for line in server.stderr if '"listening"' in line)
            browser = tool.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1080, "height": 860}, device_scale_factor=1.25)
            page.goto(address)
            page.get_by_label("A Milvus collection").check()
            page.fill("#query", QUERY)
            page.fill("#candidates", "20")
            for _ in range(2):  # the second time shows the times of a warm server
                page.click("#go")
                page.locator("#go:not([disabled])").wait_for()
                page.locator("#after li").first.wait_for()
            page.locator("#after li").first.hover()
            page.screenshot(path=HERE / "playground.png")
            browser.close()
            server.terminate()


if __name__ == "__main__":
    main()

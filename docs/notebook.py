"""Run examples/notebook.ipynb, keep its outputs, and draw notebook.png: python docs/notebook.py. Needs Chromium."""

import os
import shutil
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from playwright.sync_api import sync_playwright

HERE = Path(__file__).resolve().parent
NOTEBOOK = HERE.parent / "examples" / "notebook.ipynb"
SHOWN = ("## Search in two stages", "## Find the place")  # each with the cell that follows


def main() -> None:
    """Run all cells, write the notebook, and take a picture of some of them."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, record_timing=False).execute()
    notebook.metadata.language_info = {"name": "python"}  # without the version that ran it
    for cell in notebook.cells:
        if cell.cell_type == "code":  # warnings name folders of this machine
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(notebook, NOTEBOOK)
    texts = enumerate(cell.source for cell in notebook.cells)
    starts = [index for index, text in texts if text.startswith(SHOWN)]
    notebook.cells = [cell for start in starts for cell in notebook.cells[start : start + 2]]
    html, _ = HTMLExporter(exclude_input_prompt=False).from_notebook_node(notebook)
    chromium = os.environ.get("MILVUS_RERANK_CHROMIUM") or shutil.which("chromium-headless-shell")
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": 1080, "height": 400}, device_scale_factor=1.25, java_script_enabled=False
        )
        page.set_content(html)
        page.locator("main").screenshot(path=HERE / "notebook.png")
        browser.close()


if __name__ == "__main__":
    main()

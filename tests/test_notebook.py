"""The notebook in examples/ runs, and shows what was committed."""

import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parent.parent / "examples" / "notebook.ipynb"
NUMBER = re.compile(r"-?\d+\.\d+")


def shown(cell: Any) -> str:
    """Return what a cell has printed, and its value: as HTML if it is one of this package's, else as text."""
    parts = []
    for output in cell.get("outputs", []):
        if output.get("name") == "stderr":  # warnings of other packages
            continue
        data = output.get("data", {})
        html = data.get("text/html", "")
        ours = html if "dataframe" not in html else ""
        parts.append("".join(output.get("text", "")) or "".join(ours or data["text/plain"]))
    return re.sub(r"[\d.]+ ms", "0 ms", "\n".join(parts))


@pytest.mark.needs("ipykernel", "milvus_lite", "nbclient", "nbformat")
@pytest.mark.filterwarnings("default")  # of the packages that run notebooks
def test_the_notebook_shows_what_was_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    committed = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(committed)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    codes = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in codes] == list(range(1, len(codes) + 1))
    for before, after in zip(committed.cells, notebook.cells, strict=True):
        expected, found = shown(before), shown(after)
        assert NUMBER.sub("0.0", found).split() == NUMBER.sub("0.0", expected).split()
        numbers = [float(number) for number in NUMBER.findall(found)]
        assert numbers == pytest.approx([float(number) for number in NUMBER.findall(expected)], abs=0.011)
    page = "\n".join(map(shown, codes))
    assert ">lighthill-report<" in page
    assert re.search(r"<mark>.*first message on the ARPANET was LO.*</mark>", page, re.DOTALL)


def test_the_notebook_names_no_folder_of_the_machine_that_ran_it() -> None:
    text = NOTEBOOK.read_text("utf-8")
    assert not re.search(r"site-packages|/home/|/tmp/|/root/|Users\\", text)
    assert '"stderr"' not in text

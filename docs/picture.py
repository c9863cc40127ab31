"""Draw docs/demo.svg, the picture in the README, from a real run of the demo: python docs/picture.py."""

import io
import re
import tempfile
from pathlib import Path

from rich.console import Console

from milvus_rerank import CrossEncoderRerankFunction, StaticEmbedder
from milvus_rerank.cli.demo_report import show_demo
from milvus_rerank.evaluation import demo_folder, load_judged, run_demo

PICTURE = Path(__file__).with_name("demo.svg")


def main() -> None:
    """Run the demo and save its screen."""
    with tempfile.TemporaryDirectory() as folder:
        report = run_demo(
            load_judged(demo_folder()),
            Path(folder) / "demo.db",
            StaticEmbedder(),
            CrossEncoderRerankFunction(device="cpu"),
            reranker_name="builtin/rerank",
            candidates=30,
        )
    console = Console(record=True, width=112, file=io.StringIO(), force_terminal=True)
    show_demo(console, report, queries=3)
    svg = console.export_svg(title="milvus-rerank demo")
    # No font from elsewhere: a picture must not load anything.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    PICTURE.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

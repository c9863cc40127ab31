"""Draw the diagrams of the docs as SVG files that follow the reader's light or dark theme: python docs/diagrams.py."""

import math
from html import escape
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
STYLE = """<style>
text { font: 14px system-ui, sans-serif; fill: #24292f; text-anchor: middle; }
.small { font-size: 12px; fill: #57606a; }
.left { text-anchor: start; }
.box { fill: #eef2ff; stroke: #4f5bd5; stroke-width: 1.5; }
.plain { fill: #f6f8fa; stroke: #8c959f; stroke-width: 1.5; }
.token { fill: #4f5bd5; }
.padding { fill: none; stroke: #8c959f; stroke-dasharray: 2 2; }
.line { fill: none; stroke: #57606a; stroke-width: 1.5; }
.curve { fill: none; stroke: #4f5bd5; stroke-width: 2.5; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .small { fill: #9198a1; }
  .box { fill: #1c2148; stroke: #8b94f0; } .plain { fill: #21262d; stroke: #6e7681; }
  .token { fill: #8b94f0; } .padding { stroke: #6e7681; } .line { stroke: #9198a1; } .curve { stroke: #8b94f0; }
}
</style>
<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0 8 4 0 8z" fill="#8c959f"/></marker></defs>"""


def svg(name: str, width: int, height: int, title: str, parts: list[str]) -> None:
    """Write a drawing."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">'
    text = "\n".join([head, f"<title>{escape(title)}</title>", STYLE, *parts, "</svg>", ""])
    (FOLDER / f"{name}.svg").write_text(text, "utf-8")


def box(x: float, y: float, width: float, label: str, note: str = "", style: str = "box", height: float = 48) -> str:
    """Return a box with a label and a note below it, given its upper left corner."""
    middle, down = x + width / 2, y + height / 2
    parts = [f'<rect class="{style}" x="{x}" y="{y}" width="{width}" height="{height}" rx="8"/>']
    parts += [f'<text x="{middle}" y="{down + (5 if not note else -3)}">{escape(label)}</text>']
    parts += [f'<text class="small" x="{middle}" y="{down + 15}">{escape(note)}</text>'] if note else []
    return "".join(parts)


def arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    """Return an arrow."""
    return f'<path class="line" marker-end="url(#arrow)" d="M{x} {y} L{to_x} {to_y}"/>'


def note(x: float, y: float, text: str, style: str = "small") -> str:
    """Return a line of text."""
    return f'<text class="{style}" x="{x}" y="{y}">{escape(text)}</text>'


def two_stages() -> None:
    """Draw retrieval and reranking."""
    parts = [
        box(10, 30, 110, "query", "", "plain"),
        arrow(120, 54, 158, 54),
        box(160, 30, 150, "vector search", "Milvus"),
        arrow(310, 54, 388, 54),
        box(390, 30, 150, "cross-encoder", "reads each hit"),
        arrow(540, 54, 598, 54),
        box(600, 30, 110, "results", "", "plain"),
        note(235, 102, "reads an index of all vectors"),
        note(349, 44, "100"),
        note(465, 102, "one forward pass for each pair"),
        note(569, 44, "10"),
    ]
    svg("two-stages", 720, 120, "Milvus finds 100 candidates, the cross-encoder orders them, 10 remain", parts)


def encoders() -> None:
    """Draw a bi-encoder and a cross-encoder side by side."""
    parts = [
        note(160, 20, "bi-encoder", ""),
        box(20, 170, 120, "query", "", "plain", 40),
        box(180, 170, 120, "document", "", "plain", 40),
        arrow(80, 170, 80, 142),
        arrow(240, 170, 240, 142),
        box(20, 100, 120, "encoder", "", "box", 40),
        box(180, 100, 120, "encoder", "", "box", 40),
        arrow(80, 100, 140, 72),
        arrow(240, 100, 180, 72),
        box(95, 32, 130, "cosine", "of two vectors", "plain", 40),
        note(160, 232, "documents are encoded once, before any query"),
        note(530, 20, "cross-encoder", ""),
        box(420, 170, 220, "query [SEP] document", "", "plain", 40),
        arrow(530, 170, 530, 142),
        box(420, 100, 220, "encoder", "every word sees every word", "box", 40),
        arrow(530, 100, 530, 74),
        box(465, 32, 130, "one score", "", "plain", 40),
        note(530, 232, "one forward pass for each pair, at query time"),
    ]
    svg("encoders", 690, 245, "A bi-encoder compares two vectors; a cross-encoder reads both texts together", parts)


def batches() -> None:
    """Draw pairs in input order and sorted by length."""
    lengths = [3, 11, 4, 12, 2, 10, 5, 11]
    parts = []
    for left, rows, title in ((10, lengths, "in input order"), (370, sorted(lengths), "sorted by length")):
        parts.append(f'<text class="left" x="{left}" y="18">{title}</text>')
        for start in (0, 4):
            width = max(rows[start : start + 4])
            for number, length in enumerate(rows[start : start + 4]):
                y = 30 + start * 26 + number * 20 + (8 if start else 0)
                for place in range(width):
                    style = "token" if place < length else "padding"
                    parts.append(
                        f'<rect class="{style}" x="{left + place * 26}" y="{y}" width="22" height="14" rx="3"/>'
                    )
    padding = [
        sum(max(rows[s : s + 4]) * 4 - sum(rows[s : s + 4]) for s in (0, 4)) for rows in (lengths, sorted(lengths))
    ]
    parts += [note(165, 236, f"{padding[0]} cells of padding"), note(525, 236, f"{padding[1]} cells of padding")]
    svg("batches", 700, 250, "Two batches of four pairs: sorting by length leaves little padding", parts)


def sigmoid() -> None:
    """Draw the sigmoid of a logit."""

    def at(logit: float) -> tuple[float, float]:
        return 60 + (logit + 8) * 36, 190 - 160 / (1 + math.exp(-logit))

    points = " ".join("{:.1f},{:.1f}".format(*at(step / 10 - 8)) for step in range(161))
    parts = ['<path class="line" d="M60 190 H640 M60 190 V24"/>', f'<polyline class="curve" points="{points}"/>']
    for logit in (-8, -4, 0, 4, 8):
        x, y = at(logit)
        parts.append(note(x, 208, f"{logit:+d}" if logit else "0"))
        parts.append(f'<circle class="token" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        parts.append(note(x + (26 if logit < 4 else -4), y - 10, f"{1 / (1 + math.exp(-logit)):.2f}"))
    parts += [note(348, 230, "logit: any number, larger is better"), note(120, 30, "sigmoid: 0 to 1")]
    svg("sigmoid", 680, 240, "A logit from -8 to 8 and its sigmoid", parts)


if __name__ == "__main__":
    for draw in (two_stages, encoders, batches, sigmoid):
        draw()

"""Draw docs/speed.svg from results/speed.json alone: python benchmarks/plot.py [RESULTS] [PICTURE].

Runs in the harness' environment: benchmarks/.venvs/harness/bin/python benchmarks/plot.py
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
CASE = "throughput"
# Each stands out from white and from GitHub's dark #0d1117; the ground stays transparent.
INK, OURS, PEERS = "#747c88", "#1a9f76", "#a3abb6"
BAR = 0.34  # inches


def bars(result: dict[str, Any], *, exact: bool) -> list[tuple[str, float, bool, str]]:
    """The rows of one panel, fastest first: name, times the baseline, whether ours, a note."""
    panel = []
    for name, row in result["rows"].items():
        figures = result["cases"][CASE]["rows"].get(name, {})
        if (row["precision"] == "float32") == exact and "times_baseline" in figures:
            label = name.replace("milvus-rerank dtype=", "milvus-rerank, dtype=")
            panel.append(
                (label, figures["times_baseline"], row["ours"], scores_note(result["fidelity"].get(name), exact=exact))
            )
    return sorted(panel, key=lambda bar: -bar[1])


def scores_note(near: dict[str, Any] | None, *, exact: bool) -> str:
    """Return how near a row's scores are to the baseline's, as text next to its bar."""
    if not near:
        return ""
    if exact:
        return f"scores within {near['largest_difference']:.0e}" if near["largest_difference"] else "the same scores"
    return (
        f"Spearman {near['spearman']:.4f}, {near['top10_shared']:.1f} of the top 10, "
        f"nDCG@10 {near['ndcg10_change']:+.4f}"
    )


def draw(axes: Axes, panel: list[tuple[str, float, bool, str]], title: str, longest: float) -> None:
    """One panel of horizontal bars, the best on top."""
    positions = range(len(panel))
    colours = [OURS if ours else PEERS for _, _, ours, _ in panel]
    axes.barh(positions, [times for _, times, _, _ in panel], color=colours, height=0.72)
    for position, (_, times, ours, text) in zip(positions, panel, strict=True):
        weight = "bold" if ours else "normal"
        axes.text(times + longest * 0.01, position, f"{times:.2f}x", va="center", color=INK, size=9, weight=weight)
        axes.text(longest * 1.16, position, text, va="center", color=INK, size=8)
    axes.set_yticks(positions, [name for name, _, _, _ in panel], color=INK, size=9)
    for label, (_, _, ours, _) in zip(axes.get_yticklabels(), panel, strict=True):
        label.set_color(OURS if ours else INK)
        label.set_weight("bold" if ours else "normal")
    axes.set_title(title, loc="left", color=INK, size=10, weight="bold", pad=6)
    axes.set_xlim(0, longest * 2.1)
    axes.invert_yaxis()
    axes.axvline(1.0, color=INK, linewidth=0.8, linestyle=(0, (3, 3)), zorder=0)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.set_frame_on(False)


def picture(result: dict[str, Any]) -> Figure:
    """The whole picture."""
    titles = {True: "float32, the default", False: "reduced precision"}
    panels = [(titles[exact], bars(result, exact=exact)) for exact in (True, False)]
    panels = [(title, panel) for title, panel in panels if panel]
    longest = max(times for _, panel in panels for _, times, _, _ in panel)
    heights = [len(panel) for _, panel in panels]
    height = sum(heights) * BAR + 0.55 * len(panels) + 0.9
    figure = Figure(figsize=(11.0, height))
    grid = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)
    for (axes,), (title, panel) in zip(grid, panels, strict=True):
        draw(axes, panel, title, longest)
    case, machine = result["cases"][CASE], result["machine"]
    figure.suptitle(
        f"Speed relative to {result['baseline']}, same weights, same pairs",
        x=0.015,
        ha="left",
        color=INK,
        size=12,
        weight="bold",
    )
    footer = (
        f"{case['what']} of {result['texts']}, {case['mean_tokens']:.0f} tokens a pair; 6 layers, 384 wide; "
        f"{machine['cpu']}, {result['threads']} cores; {result['date']}. "
    )
    figure.text(0.015, 0.12 / height, footer, color=INK, size=7.5)
    figure.subplots_adjust(
        left=0.36, right=0.99, top=1 - 0.72 / height, bottom=0.42 / height, hspace=0.5 * len(panels) / sum(heights) * 2
    )
    return figure


def main() -> None:
    """Read, draw, save."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results" / "speed.json"
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else HERE.parent / "docs" / "speed.svg"
    # Text stays text, and two runs on one file give one picture.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "speed", "font.family": "sans-serif"})
    mpl.rcParams["font.sans-serif"] = ["DejaVu Sans", "Verdana", "Arial"]
    figure = picture(json.loads(source.read_text("utf-8")))
    figure.savefig(target, transparent=True, metadata={"Date": None} if target.suffix == ".svg" else None)


if __name__ == "__main__":
    main()

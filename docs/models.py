"""Write docs/models.md, the page of known models, from their cards: python docs/models.py."""

from pathlib import Path

from milvus_rerank.models.catalogue import SERVICE, Family, ModelCard, all_cards, families, looked_up

PAGE = Path(__file__).with_name("models.md")
UNKNOWN = "unknown"


def cells(card: ModelCard) -> list[str]:
    """Return a model's line of a table."""
    if card.family == SERVICE:
        middle = [str(card.max_documents or UNKNOWN)]
    else:
        middle = [card.size or UNKNOWN, licence(card), f"`{card.extra}`" if card.extra else "none"]
    links = " ".join(f"[{place}]({link(url)})" for place, url in enumerate(card.source, 1))
    return [
        f"`{card.name}`",
        ", ".join(card.languages) or UNKNOWN,
        str(card.max_length or UNKNOWN),
        *middle,
        card.scores or UNKNOWN,
        ", ".join([f"`{card.function}`", *(f"`{name}={value!r}`" for name, value in card.options)]),
        card.note or "",
        links,
    ]


def licence(card: ModelCard) -> str:
    """Return a licence, bold if it forbids commercial use."""
    name = card.licence or UNKNOWN
    return f"**{name}**" if "-NC" in name else name


def link(source: str) -> str:
    """Return where a source is, seen from this folder."""
    return source if source.startswith("https://") else f"../{source}"


def table(family: Family) -> str:
    """Return a family's table."""
    middle = ["documents"] if family.name == SERVICE else ["size", "licence", "extra"]
    head = ["model", "languages", "tokens", *middle, "scores", "class", "note", "source"]
    rows = [head, ["---"] * len(head), *(cells(card) for card in all_cards() if card.family == family.name)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def section(family: Family) -> str:
    """Return a family's part of the page."""
    example = next(card for card in all_cards() if card.name == family.example)
    return "\n\n".join([f"## {family.title}", family.text, f"```python\nreranker = {example.code}\n```", table(family)])


def page() -> str:
    """Return the whole page."""
    opening = [
        "# Known models",
        "Made by `docs/models.py` from `milvus_rerank/models/catalogue.json`; `milvus-rerank models --known` prints "
        "it, `milvus-rerank models NAME` one card.",
        "A model that is not here works all the same, if it is a cross-encoder or says yes or no: give its name on the "
        "model hub, or its folder, to `CrossEncoderRerankFunction`.",
        "Tokens are the most of a query and a document together. The extra is what surely runs a model on a CPU: "
        '`pip install "milvus-rerank[torch]"`. Scores are what the class returns by default: raw logits, or '
        f"numbers from 0 to 1. Facts were looked up in {looked_up()}, each in a source that the last column links; "
        "where none was found, it says unknown. Read a model's licence yourself before you rely on it.",
    ]
    return "\n\n".join([*opening, *(section(family) for family in families())]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")

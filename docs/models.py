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
    links = " ".join(f"[{number}]({link(url)})" for number, url in enumerate(card.source, 1))
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
        "`docs/models.py` writes this page from `milvus_rerank/models/catalogue.json`. `milvus-rerank models --known` "
        "prints the list, and `milvus-rerank models NAME` a model's card.",
        "Models that are not listed also work if they are cross-encoders or language models that answer yes or no: "
        "pass the name on the model hub, or the folder, to `CrossEncoderRerankFunction`.",
        "`tokens` is the limit of a query and a document together. `extra` is the extra that runs the model on a CPU, "
        'as in `pip install "milvus-rerank[torch]"`. `scores` is the default range of the class: raw logits, '
        f"or numbers from 0 to 1. The facts are from {looked_up()}; the last column links their sources, and unknown "
        "means that no source was found. Check a model's licence before you rely on it.",
    ]
    return "\n\n".join([*opening, *(section(family) for family in families())]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")

"""Write the pages of known and of recommended models from their cards: python docs/models.py."""

from pathlib import Path

from milvus_rerank.models.catalogue import (
    SERVICE,
    Family,
    ModelCard,
    all_cards,
    families,
    find_card,
    looked_up,
    recommendations,
)

PAGE = Path(__file__).with_name("models.md")
CHOICES = Path(__file__).with_name("choose-a-model.md")
TEMPLATE = Path(__file__).with_name("choose-a-model.in.md")
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
        f"{card.ndcg10:.4f}" if card.ndcg10 else UNKNOWN,
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
    head = ["model", "languages", "tokens", *middle, "nDCG@10", "scores", "class", "note", "source"]
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
        'as in `pip install "milvus-rerank[torch]"`. `nDCG@10` is published: the mean over the English retrieval '
        "tasks of MTEB with the first 100 hits of six embedders. `scores` is the default range of the class: raw "
        f"logits, or numbers from 0 to 1. The facts are from {looked_up()}; the last column links their sources, and "
        "unknown means that no source was found. Check a model's licence before you rely on it.",
    ]
    return "\n\n".join([*opening, *(section(family) for family in families())]) + "\n"


def choices() -> str:
    """Return the page that helps to choose a model."""
    head = ["for", "model", "size", "languages", "tokens", "licence", "extra", "nDCG@10"]
    rows = [head, ["---"] * len(head)]
    for entry in recommendations():
        card = find_card(entry.name)
        assert card is not None  # a test holds each to its card
        rows.append(
            [
                entry.need,
                f"`{card.name}`",
                card.size or "",
                ", ".join(card.languages),
                str(card.max_length or "up to 8K"),
                "a service" if card.family == SERVICE else licence(card),
                f"`{card.extra}`" if card.extra else "none",
                f"{card.ndcg10:.3f}" if card.ndcg10 else "",
            ]
        )
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return TEMPLATE.read_text("utf-8").replace("TABLE", lines)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    CHOICES.write_text(choices(), "utf-8")

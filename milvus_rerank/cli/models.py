"""``milvus-rerank models``: list the rerankers and models on this machine, and known models."""

from typing import TYPE_CHECKING, Annotated

import typer

from milvus_rerank.cli import options, output

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.text import Text

    from milvus_rerank.inventory import Inventory
    from milvus_rerank.models.catalogue import ModelCard

UNKNOWN = "unknown"


def models(
    name: Annotated[
        str | None, typer.Argument(help="Print the card of this model, and nothing else.", show_default=False)
    ] = None,
    load: Annotated[
        bool, typer.Option("--load", help="Load every model, instead of only looking at its files.")
    ] = False,
    known: Annotated[
        bool, typer.Option("--known", help="List the known models, installed or not, and nothing else.")
    ] = False,
    recommend: Annotated[
        bool, typer.Option("--recommend", help="Name a model for each usual need, and nothing else.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """List the rerankers, the models on this machine and the optional packages; or the known models."""
    if (name is not None) + load + known + recommend > 1:
        raise typer.BadParameter("choose one of NAME, --load, --known and --recommend")
    if name is not None:
        _show_card(name, as_json)
    elif recommend:
        _show_recommendations(as_json)
    elif known:
        _show_known(as_json)
    else:
        _show_inventory(load, as_json)


def _show_inventory(load: bool, as_json: bool) -> None:
    from milvus_rerank.inventory import load_model, take_inventory
    from milvus_rerank.models.catalogue import all_cards

    with output.spinner("Looking around"):
        inventory = take_inventory(load_model if load else None)
    cards = all_cards()
    if as_json:
        output.print_json({**inventory.to_dict(), "known": [card.to_dict() for card in cards]})
        return
    _print(inventory)
    _print_line(f"{len(cards)} models are known: milvus-rerank models --known")


def _print(inventory: "Inventory") -> None:
    from rich.filesize import decimal

    rerankers = [(entry.name, entry.origin, _state(entry.problem)) for entry in inventory.rerankers]
    _print_table("Rerankers (--reranker)", ("name", "from", "loads"), rerankers)
    models = [
        (model.name, model.kind, model.origin, decimal(model.size), _state(model.problem)) for model in inventory.models
    ]
    _print_table("Models here (--model, --embedder)", ("name", "kind", "from", "size", "usable"), models)
    packages = [
        (package.name, package.version or "missing", package.purpose, "" if package.version else package.install)
        for package in inventory.packages
    ]
    _print_table("Optional packages", ("name", "version", "for", "to install"), packages)


def _show_known(as_json: bool) -> None:
    from milvus_rerank.models.catalogue import SERVICE, all_cards, families

    cards = all_cards()
    if as_json:
        output.print_json({"known": [card.to_dict() for card in cards]})
        return
    for family in families():
        members = [card for card in cards if card.family == family.name]
        if family.name == SERVICE:
            _print_table(family.title, ("name", "tokens", "documents", "reads", "from"), map(_service_row, members))
        else:
            _print_table(family.title, ("name", "size", "tokens", "reads", "licence"), map(_model_row, members))
    _print_line("?: unknown. To see all of a model's card, type: milvus-rerank models NAME")
    _print_line("Other cross-encoders and language models that answer yes or no work, too.")


def _show_recommendations(as_json: bool) -> None:
    from milvus_rerank.models.catalogue import find_card, recommendations

    pairs = [(entry.need, card) for entry in recommendations() if (card := find_card(entry.name))]
    if as_json:
        output.print_json({"recommended": [{"need": need, **card.to_dict()} for need, card in pairs]})
        return
    rows = [
        (card.name, need, card.size or "?", _languages(card), "" if card.ndcg10 is None else f"{card.ndcg10:.3f}")
        for need, card in pairs
    ]
    _print_table("Recommended", ("name", "for", "size", "reads", "nDCG@10"), rows)
    _print_line("nDCG@10: published, English retrieval tasks of MTEB; milvus-rerank models NAME has the source.")
    _print_line("Then compare two of them on queries of your own: their order differs from collection to collection.")


def _model_row(card: "ModelCard") -> "Sequence[str]":
    return (card.name, card.size or "?", _number(card.max_length), _languages(card), card.licence or "?")


def _service_row(card: "ModelCard") -> "Sequence[str]":
    owner = card.function.removesuffix("RerankFunction")
    return (card.name, _number(card.max_length), _number(card.max_documents), _languages(card), owner)


def _languages(card: "ModelCard") -> str:
    from milvus_rerank.models.catalogue import MULTILINGUAL

    return " ".join("many" if language == MULTILINGUAL else language for language in card.languages) or "?"


def _number(number: int | None) -> str:
    return "?" if number is None else str(number)


def _show_card(name: str, as_json: bool) -> None:
    from milvus_rerank.models.catalogue import find_card

    if not name.strip():
        raise typer.BadParameter("the name is empty; see: milvus-rerank models --known", param_hint="NAME")
    card = find_card(options.check_text(name))
    if as_json:
        output.print_json({"name": name, "card": None if card is None else card.to_dict()})
    elif card is None:
        _print_line(
            f"{name} has no card. It works if it is a cross-encoder or a language model that answers yes or no, on the "
            f'hub or in a folder: CrossEncoderRerankFunction("{name}"), or --model on the command line. '
            "If it comes with Python code, add trust_remote_code=True."
        )
    else:
        _print_card(card)


def _print_card(card: "ModelCard") -> None:
    from milvus_rerank.models.catalogue import SERVICE, families

    titles = {family.name: family.title for family in families()}
    service = card.family == SERVICE
    lines = {
        "name": card.name,
        "also": ", ".join(card.aliases),
        "family": f"{card.family} ({titles[card.family]})",
        "languages": ", ".join(card.languages) or UNKNOWN,
        "parameters": "" if service else card.size or UNKNOWN,
        "tokens": f"{card.max_length} of query and document" if card.max_length else UNKNOWN,
        "documents": f"{_number(card.max_documents)} a request" if service and card.max_documents else "",
        "licence": "" if service else card.licence or UNKNOWN,
        "scores": card.scores or UNKNOWN,
        "nDCG@10": "" if card.ndcg10 is None else f"{card.ndcg10:.4f} on MTEB(eng, v2) Retrieval, published",
        "install": card.install or "",
        "load": card.code,
        "note": card.note or "",
    }
    for label, value in lines.items():
        if value:
            _print_line(value, label)
    for index, url in enumerate(card.source):
        _print_line(url, "" if index else "source")


def _print_line(text: str, label: str | None = None) -> None:
    """Print a line, with a dim label if any, and let the terminal wrap it so that its text can be copied."""
    from rich.text import Text

    line = Text(text) if label is None else Text.assemble((f"{label:11} ", "dim"), text)
    output.console().print(line, soft_wrap=True)


def _print_table(title: str, columns: "Sequence[str]", rows: "Iterable[Sequence[str | Text]]") -> None:
    from rich.text import Text

    console, cells = output.console(), list(rows)
    console.print(Text(title, "bold"))
    if cells:
        output.print_table(columns, cells, header_style="dim")
    else:
        console.print(Text("none", "dim"))
    console.print()


def _state(problem: str | None) -> "Text":
    from rich.text import Text

    return Text("yes", "green") if problem is None else Text(f"no: {problem}", "red")

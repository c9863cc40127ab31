"""What to ask a language model that answers yes or no, by its chat template."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from milvus_rerank.errors import ModelError


@dataclass(frozen=True, slots=True)
class Manner:
    """What a family of models was trained to be told, for chat templates that know no query and document.

    :param system: the system's message.
    :param told: the user's message with an instruction, and with the places ``query`` and ``document``.
    :param asked: the same without an instruction.
    :param answers: the tokens that say yes and no.
    """

    system: str
    told: str
    asked: str
    answers: tuple[str, str]


INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
_QWEN = "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
QWEN = Manner(
    system="Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".',
    told=_QWEN,
    asked=_QWEN.replace("{instruction}", INSTRUCTION),
    answers=("yes", "no"),
)
"""Qwen3-Reranker's, as its model card has it."""

_MXBAI = (
    "query: {query}\ndocument: {document}\nYou are a search relevance expert who evaluates how well documents match "
    "search queries. For each query-document pair, carefully analyze the semantic relationship between them, then "
    "provide your binary relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:"
)
MXBAI = Manner(
    system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    told="instruction: {instruction}\n" + _MXBAI,
    asked=_MXBAI,
    answers=("1", "0"),
)
"""mxbai-rerank v2's, as mixedbread-ai/mxbai-rerank has it (mxbai_rerank/mxbai_rerank_v2.py at 93a0be81)."""

_PARTS = ("content[0]", ".type", "'type'", '"type"', "item.type", "message.content[")
"""In a template that wants contents as lists of parts, as sentence-transformers tells it."""


def manner_of(name: str) -> Manner:
    """Return what to tell a model.

    :param name: the model's name, or its folder's.
    :returns: its family's manner; Qwen3-Reranker's for all that are not known.
    """
    return MXBAI if "mxbai-rerank" in name.casefold() else QWEN


def answer_tokens(tokenizer: Any, name: str) -> tuple[int, int]:
    """Return the tokens that say yes and no.

    :param tokenizer: a transformers tokenizer.
    :param name: the model's name.
    :returns: their ids.
    :raises ModelError: if the vocabulary lacks one.
    """
    vocabulary = tokenizer.get_vocab()
    yes, no = manner_of(name).answers
    found = [vocabulary.get(word) for word in (yes, no)]
    if None in found:
        raise ModelError(
            f"model {name!r} is a language model whose vocabulary lacks the tokens {yes!r} and {no!r}; expected a "
            "reranker such as Qwen/Qwen3-Reranker-0.6B, or a modules.json with a LogitScore that names its tokens"
        )
    return found[0], found[1]


def chat_prompt(tokenizer: Any, name: str, instruction: str | None) -> Callable[[str, str], str] | None:
    """Return what makes a prompt of a query and a document.

    A template that knows the roles ``query`` and ``document`` gets them, and the instruction as ``system``. Any other
    gets one message of a user, in the manner of the model's family.

    :param tokenizer: a transformers tokenizer.
    :param name: the model's name.
    :param instruction: what to tell the model; None for the template's own.
    :returns: a function; None if there is no chat template.
    :raises ModelError: if the template cannot be rendered with either.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return None
    in_parts = isinstance(template, str) and any(part in template for part in _PARTS)

    def message(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text}] if in_parts else text}

    def by_roles(query: str, document: str) -> str:
        told = [message("system", instruction)] if instruction else []
        messages = [*told, message("query", query), message("document", document)]
        return str(tokenizer.apply_chat_template(messages, tokenize=False))

    manner = manner_of(name)
    form = manner.told if instruction else manner.asked

    def by_user(query: str, document: str) -> str:
        asked = form.format(query=query, document=document, instruction=instruction)
        messages = [message("system", manner.system), message("user", asked)]
        return str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        )

    for render in (by_roles, by_user):
        if _carries(render):
            return render
    raise ModelError(
        "the model's chat template renders neither the roles 'query' and 'document' nor a user's message with both; "
        "give the model one that does, as chat_template.jinja in its folder"
    )


def _carries(render: Callable[[str, str], str]) -> bool:
    """Tell whether both texts reach the prompt."""
    try:
        base, other_query, other_document = render("q 1", "d 1"), render("q 2", "d 1"), render("q 1", "d 2")
    except Exception:  # a template may raise anything, jinja's own errors among it, for roles it does not know
        return False
    return base != other_query and base != other_document

"""What to ask a language model that answers yes or no, by its chat template."""

from collections.abc import Callable
from typing import Any

from milvus_rerank.errors import ModelError

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
_SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
"""What Qwen3-Reranker was trained to be told, as its model card says; for templates that know no query and document."""

_PARTS = ("content[0]", ".type", "'type'", '"type"', "item.type", "message.content[")
"""In a template that wants contents as lists of parts, as sentence-transformers tells it."""


def answer_tokens(tokenizer: Any, name: str) -> tuple[int, int]:
    """Return the tokens ``yes`` and ``no``.

    :param tokenizer: a transformers tokenizer.
    :param name: the model's name, for the message.
    :returns: their ids.
    :raises ModelError: if the vocabulary lacks one.
    """
    vocabulary = tokenizer.get_vocab()
    found = [vocabulary.get(word) for word in ("yes", "no")]
    if None in found:
        raise ModelError(
            f"model {name!r} is a language model whose vocabulary lacks the tokens 'yes' and 'no'; expected a reranker "
            "such as Qwen/Qwen3-Reranker-0.6B, or a modules.json with a LogitScore that names its tokens"
        )
    return found[0], found[1]


def chat_prompt(tokenizer: Any, instruction: str | None) -> Callable[[str, str], str] | None:
    """Return what makes a prompt of a query and a document.

    A template that knows the roles ``query`` and ``document`` gets them, and the instruction as ``system``. Any other
    gets one message of a user, worded as Qwen3-Reranker's.

    :param tokenizer: a transformers tokenizer.
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

    def by_user(query: str, document: str) -> str:
        asked = f"<Instruct>: {instruction or INSTRUCTION}\n<Query>: {query}\n<Document>: {document}"
        messages = [message("system", _SYSTEM), message("user", asked)]
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

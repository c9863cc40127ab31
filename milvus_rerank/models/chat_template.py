"""What to ask a language model that answers yes or no, by its chat template."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from milvus_rerank.errors import ModelError
from milvus_rerank.models.catalogue import find_card
from milvus_rerank.models.model_type import Settings

logger = logging.getLogger(__name__)


INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
ASKED = "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
"""What Qwen3-Reranker was trained to be told, as its model card says; for templates that know no query and document."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What stands around the texts of a pair in a prompt whose parts are tokenised each alone.

    :param before: before the query.
    :param task: after the document and a line's end.
    :param after: after the task.
    :param most: the most tokens of it all.
    """

    before: str
    task: str
    after: str
    most: int


MXBAI_PARTS = Parts(
    before="<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n",
    task="You are a search relevance expert who evaluates how well documents match search queries. For each "
    "query-document pair, carefully analyze the semantic relationship between them, then provide your binary relevance "
    "judgment (0 for not relevant, 1 for relevant).\nRelevance:",
    after="<|im_end|>\n<|im_start|>assistant\n",
    most=8192,
)
"""mxbai-rerank v2's, as mixedbread-ai/mxbai-rerank has it (mxbai_rerank/mxbai_rerank_v2.py at 03324ea9)."""

_MXBAI = ("mixedbread-ai/mxbai-rerank-base-v2", "mixedbread-ai/mxbai-rerank-large-v2")

_PARTS = ("content[0]", ".type", "'type'", '"type"', "item.type", "message.content[")
"""In a template that wants contents as lists of parts, as sentence-transformers tells it."""


def is_mxbai(name: str) -> bool:
    """Tell whether a language model is of mxbai-rerank's second version, which its files do not say.

    :param name: the model's name.
    :returns: True if the model catalogue knows it as one of them.
    """
    card = find_card(name)
    return card is not None and card.name in _MXBAI


def answer_tokens(tokenizer: Any, name: str) -> tuple[int, int]:
    """Return the tokens that say yes and no.

    :param tokenizer: a transformers tokenizer.
    :param name: the model's name.
    :returns: their ids.
    :raises ModelError: if the vocabulary lacks one.
    """
    vocabulary = tokenizer.get_vocab()
    yes, no = ("1", "0") if is_mxbai(name) else ("yes", "no")
    found = [vocabulary.get(word) for word in (yes, no)]
    if None in found:
        raise ModelError(
            f"model {name!r} is a language model whose vocabulary lacks the tokens {yes!r} and {no!r}; expected a "
            "reranker such as Qwen/Qwen3-Reranker-0.6B, or a modules.json with a LogitScore that names its tokens"
        )
    return found[0], found[1]


def chat_prompt(
    tokenizer: Any, name: str, instruction: str | None, settings: Settings, *, by_user: bool = True
) -> Callable[[str, str], str] | None:
    """Return what makes a prompt of a query and a document.

    A template that knows the roles ``query`` and ``document`` gets them, and the instruction as ``system``. Any other
    gets one message of a user, worded as Qwen3-Reranker's.

    :param tokenizer: a transformers tokenizer.
    :param name: the model's name.
    :param instruction: what to tell the model; None for the template's own.
    :param settings: what sentence-transformers wrote beside the model.
    :param by_user: whether a user's message will do where the roles are not known.
    :returns: a function; None if there is no chat template, or it does not know the roles and nothing else will do.
    :raises ModelError: if the template cannot be rendered with either.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return None
    in_parts = settings.in_parts
    if in_parts is None:
        in_parts = isinstance(template, str) and any(part in template for part in _PARTS)

    def message(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text}] if in_parts else text}

    def with_roles(query: str, document: str) -> str:
        told = [message("system", instruction)] if instruction else []
        messages = [*told, message("query", query), message("document", document)]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **settings.chat_options))

    def as_user(query: str, document: str) -> str:
        asked = ASKED.format(query=query, document=document, instruction=instruction or INSTRUCTION)
        messages = [message("system", SYSTEM), message("user", asked)]
        options = {"add_generation_prompt": True, "enable_thinking": False, **settings.chat_options}
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))

    if _carries(with_roles):
        return with_roles
    if not by_user:
        return None
    if not _carries(as_user):
        raise ModelError(
            "the model's chat template renders neither the roles 'query' and 'document' nor a user's message: "
            "give it one that does, as chat_template.jinja in its folder"
        )
    if find_card(name) is None:
        logger.warning("model %s does not say how it is to be asked; it is asked as Qwen3-Reranker is", name)
    return as_user


def _carries(render: Callable[[str, str], str]) -> bool:
    """Tell whether both texts reach the prompt."""
    try:
        base, other_query, other_document = render("q 1", "d 1"), render("q 2", "d 1"), render("q 1", "d 2")
    except Exception:  # a template may raise anything, jinja's own errors among it, for roles it does not know
        return False
    return base != other_query and base != other_document

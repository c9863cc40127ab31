"""Prompts for language models that answer yes or no, made by their chat templates."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from milvus_rerank.errors import ModelError
from milvus_rerank.models.catalogue import find_card
from milvus_rerank.models.model_type import SavedSettings

logger = logging.getLogger(__name__)

_LONGEST_RENDERING = 5.0  # seconds for a few words; a usual template takes milliseconds

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
ASKED = "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
"""Prompt that Qwen3-Reranker was trained on, from its model card; for templates without query and document roles."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Texts around a query and a document, in a prompt whose parts are tokenised separately.

    :param before: the text before the query.
    :param task: the text after the document and a line break.
    :param after: the text after the task.
    :param most: the most tokens of the whole prompt.
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
"""Parts of mxbai-rerank v2's prompt, from mixedbread-ai/mxbai-rerank (mxbai_rerank/mxbai_rerank_v2.py at 03324ea9)."""

_MXBAI = ("mixedbread-ai/mxbai-rerank-base-v2", "mixedbread-ai/mxbai-rerank-large-v2")

_PARTS = ("content[0]", ".type", "'type'", '"type"', "item.type", "message.content[")
"""Signs of a template that expects contents as lists of parts; sentence-transformers looks for the same."""


def is_mxbai(name: str) -> bool:
    """Tell whether the model catalogue lists a model as mxbai-rerank v2, which its files do not say."""
    card = find_card(name)
    return card is not None and card.name in _MXBAI


def answer_tokens(tokenizer: Any, name: str) -> tuple[int, int]:
    """Return the ids of the tokens that mean yes and no, for a tokenizer of transformers and a model's name."""
    vocabulary = tokenizer.get_vocab()
    yes, no = ("1", "0") if is_mxbai(name) else ("yes", "no")
    tokens = vocabulary.get(yes), vocabulary.get(no)
    if None in tokens:
        raise ModelError(
            f"model {name!r} is a language model whose vocabulary lacks the tokens {yes!r} and {no!r}; expected a "
            "reranker such as Qwen/Qwen3-Reranker-0.6B, or a modules.json with a LogitScore that names its tokens"
        )
    return tokens


class Render(Protocol):
    """Function from a query, a document and an instruction to the whole prompt."""

    def __call__(self, query: str, document: str, instruction: str | None) -> str:
        """Return the prompt; None is the model's default instruction, "" is none."""
        ...


def chat_prompt(tokenizer: Any, name: str, settings: SavedSettings, *, by_user: bool = True) -> Render | None:
    """Return a function that makes a prompt from a query, a document and an instruction.

    A template that knows the roles ``query`` and ``document`` gets them, with the instruction as ``system``. Any other
    template gets Qwen3-Reranker's system and user messages.

    :param tokenizer: a transformers tokenizer.
    :param name: the model's name.
    :param settings: the settings that sentence-transformers saved with the model.
    :param by_user: whether a user message is allowed where the template does not know the roles.
    :returns: the function; None without a chat template, or if it does not know the roles and ``by_user`` is false.
    :raises ModelError: if the template renders neither the roles nor a user message.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return None
    in_parts = settings.in_parts
    if in_parts is None:
        in_parts = isinstance(template, str) and any(part in template for part in _PARTS)

    def message(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text}] if in_parts else text}

    def with_roles(query: str, document: str, instruction: str | None) -> str:
        system = [message("system", instruction)] if instruction else []
        messages = [*system, message("query", query), message("document", document)]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **settings.chat_options))

    def as_user(query: str, document: str, instruction: str | None) -> str:
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


def carries_instruction(render: Render) -> bool:
    """Tell whether an instruction reaches the prompt."""
    return render("q", "d", "i 1") != render("q", "d", "i 2")


def _carries(render: Render) -> bool:
    """Tell whether both texts reach the prompt."""
    try:
        with _time_limit(_LONGEST_RENDERING):
            base, other_query, other_document = (
                render(query, document, None) for query, document in (("q 1", "d 1"), ("q 2", "d 1"), ("q 1", "d 2"))
            )
    except ModelError:
        raise
    except Exception:  # noqa: BLE001  for unknown roles a template may raise any error, jinja's among them
        return False
    return base != other_query and base != other_document


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise ModelError from code that this thread calls in the block and that runs for longer, a template's too."""
    end, before = time.monotonic() + seconds, sys.gettrace()

    def watch(frame: Any, event: str, argument: Any) -> Any:
        if time.monotonic() > end:
            raise ModelError(f"the model's chat template does not end within {seconds:g} s; give it one that does")
        return watch

    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(before)

"""A reranker as a value: its name and options travel to the workers, and each worker loads its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from milvus_rerank.registry import find_loader
from milvus_rerank.reranker.base import BaseRerankFunction

_SECRETS = ("key", "password", "secret", "token", "client", "headers")


@dataclass(frozen=True, slots=True)
class RerankerSpec:
    """A reranker by its name.

    :param name: a registered name, such as ``lexical``; None for the right one for ``model``.
    :param model: a model's name or folder; None for the reranker's default.
    :param options: options of the reranker, which must be picklable.
    :param instruction: says what is relevant, for a reranker that takes instructions.
    """

    name: str | None = None
    model: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    instruction: str | None = None

    def load(self) -> BaseRerankFunction:
        """Load the reranker."""
        reranker = find_loader(self.name, self.model)(**self.options)
        return reranker if self.instruction is None else reranker.with_instruction(self.instruction)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them, for the record of a job; secrets are left out."""
        options = {
            key: value if isinstance(value, (str, int, float, bool)) else str(value)
            for key, value in sorted(self.options.items())
            if not any(word in key for word in _SECRETS)
        }
        named = {} if self.instruction is None else {"instruction": self.instruction}
        return {"name": self.name, "model": self.model, "options": options, **named}

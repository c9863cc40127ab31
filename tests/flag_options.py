"""Options of FlagEmbedding, which stored scores keep flat, as BGERerankFunction takes them."""

from dataclasses import fields
from typing import Any

from milvus_rerank import FlagOptions

NAMES = {field.name for field in fields(FlagOptions)}


def grouped(options: dict[str, Any]) -> dict[str, Any]:
    """Return options with those of FlagEmbedding in one FlagOptions."""
    flag = {name: value for name, value in options.items() if name in NAMES}
    flat = {name: value for name, value in options.items() if name not in NAMES}
    return {**flat, "flag": FlagOptions(**flag)} if flag else flat

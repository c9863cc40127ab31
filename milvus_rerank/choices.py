"""Words that options take, limits and defaults: importing them needs no other package."""

from typing import Literal, TypeAlias

EngineName = Literal["auto", "torch", "onnx", "openvino"]
"""Names of engines; ``auto`` takes the fastest installed engine that can run the model."""

Dtype = Literal["float32", "bfloat16", "float16", "int8", "auto"]
"""Precisions of a model; ``auto`` takes the fastest precision that keeps the order of documents."""

Device: TypeAlias = str | list[str] | tuple[str, ...] | None
"""One device, or several that run the model together; None takes a GPU if there is one."""

Mode = Literal["dense", "bm25", "hybrid"]
"""First stages of a search: by vectors, by BM25, or by both."""

MAX_CANDIDATES = 16384
"""The most hits per query that Milvus returns."""

DEFAULT_URI = "./milvus.db"
"""The Milvus of commands and config files that name none."""

DEFAULT_CANDIDATES = 50
"""The hits that commands and config files rerank unless they say how many."""

DEFAULT_TOP_K = 10
"""The results of a search."""

Loss = Literal["binary", "lambda"]
"""Losses of a training on judgments."""

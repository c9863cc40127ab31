"""Functions that make the reranker of each service."""

from collections.abc import Callable

from milvus_rerank import (
    CohereRerankFunction,
    HTTPRerankFunction,
    JinaRerankFunction,
    TEIRerankFunction,
    VoyageRerankFunction,
)
from milvus_rerank.reranker.remote.function import RemoteRerankFunction

Make = Callable[..., RemoteRerankFunction]

MAKERS: dict[str, Make] = {
    "cohere": lambda address, **options: CohereRerankFunction("any", base_url=address, **options),
    "jina": lambda address, **options: JinaRerankFunction("any", base_url=address, **options),
    "voyage": lambda address, **options: VoyageRerankFunction("any", base_url=f"{address}/voyage", **options),
    "tei": lambda address, **options: TEIRerankFunction(address, **options),
    "http auto": lambda address, **options: HTTPRerankFunction(address, **options),
    "http vllm": lambda address, **options: HTTPRerankFunction(f"{address}/rerank", dialect="vllm", **options),
    "http cohere": lambda address, **options: HTTPRerankFunction(f"{address}/v2/rerank", **options),
    "http dashscope": lambda address, **options: HTTPRerankFunction(address, dialect="dashscope", **options),
}

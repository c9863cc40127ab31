"""Packages that a task needs, and the extra of milvus-rerank that installs each."""

import importlib.util

from milvus_rerank.errors import MissingDependencyError

PACKAGES = {
    "cachetools": "",
    "filelock": "",
    "grpc": "",
    "huggingface_hub": "",
    "ml_dtypes": "",
    "model2vec": "",
    "numpy": "",
    "onnx": "",
    "onnxruntime": "",
    "pandas": "",
    "platformdirs": "",
    "pydantic": "",
    "pymilvus": "",
    "rich": "",
    "tokenizers": "",
    "tomlkit": "",
    "typer": "",
    "typing_extensions": "",
    "openvino": "openvino",
    "sentence_transformers": "torch",
    "torch": "torch",
    "transformers": "torch",
    "milvus_lite": "lite",
    "anyio": "server",
    "fastapi": "server",
    "h11": "server",
    "opentelemetry.exporter.otlp.proto.http": "server",
    "opentelemetry.instrumentation.asgi": "server",
    "opentelemetry.sdk": "server",
    "prometheus_client": "server",
    "pydantic_core": "server",
    "starlette": "server",
    "structlog": "server",
    "uvicorn": "server",
    "httpx": "services",
    "bs4": "index",
    "pyarrow": "index",
    "pypdf": "index",
    "semantic_text_splitter": "index",
    "nncf": "export",
    "onnxscript": "export",
    "ir_measures": "eval",
    "jinja2": "eval",
    "markupsafe": "eval",
    "matplotlib": "eval",
    "scipy": "eval",
    "accelerate": "train",
    "datasets": "train",
    "fsspec": "ray",
    "ray": "ray",
    "langchain_core": "langchain",
    "llama_index": "llamaindex",
    "haystack": "haystack",
    "mcp": "mcp",
}
"""The extra that installs each package, by import name; "" for packages that milvus-rerank always installs."""

EXTRAS = {
    "openvino": "the fastest engine on a CPU",
    "torch": "GPUs, and models that only torch runs",
    "lite": "Milvus in a file",
    "server": "milvus-rerank serve",
    "services": "rerank services over HTTP",
    "index": "Parquet, HTML and PDF files, and splitting of texts, for milvus-rerank index",
    "export": "int8, and graphs that torch traces",
    "eval": "nDCG and other metrics, and the page of an evaluation",
    "train": "milvus-rerank train",
    "ray": "milvus-rerank batch and serve, on many machines",
    "langchain": "the LangChain adapter",
    "llamaindex": "the LlamaIndex adapter",
    "haystack": "the Haystack adapter",
    "mcp": "milvus-rerank mcp",
}
"""The purpose of each extra. The extra ``all`` installs all of them but ``ray`` and those of frameworks."""

_FILES = ("tokenizers", "huggingface_hub")
_GRAPHS = ("onnx", "ml_dtypes", "filelock", "platformdirs")
ENGINES = {
    "torch": ("torch", "transformers", *_FILES),
    "onnx": ("onnxruntime", *_FILES, *_GRAPHS),
    "openvino": ("openvino", *_FILES, *_GRAPHS),
}
"""The packages of each engine. The graph engines read a model's files and build graphs without torch."""
SERVER = ("fastapi", "prometheus_client", "structlog", "uvicorn")
"""The packages of ``milvus-rerank serve``, in addition to those of an engine."""
TRACES = ("opentelemetry.exporter.otlp.proto.http", "opentelemetry.instrumentation.asgi", "opentelemetry.sdk")
"""The packages of ``milvus-rerank serve --traces``."""


def missing(*packages: str) -> list[str]:
    """Return the packages that are not installed, without importing any.

    :param *packages: import names of packages.
    :returns: the missing packages, in input order.
    """
    absent = []
    for name in packages:
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError:  # the parent package of a dotted name
            spec = None
        if spec is None:
            absent.append(name)
    return absent


def require(purpose: str, *packages: str) -> None:
    """Raise if a package is not installed. Call it before work begins, with all packages that the work needs.

    :param purpose: the task that needs the packages, such as ``the demo``.
    :param *packages: import names of packages, from :data:`PACKAGES`.
    :raises MissingDependencyError: with a single pip command that installs all missing packages.
    """
    absent = missing(*packages)
    if absent:
        raise MissingDependencyError(absent, [PACKAGES[name] for name in absent], purpose)

"""Steps after the reranker as a field of a pydantic model, for LangChain and LlamaIndex."""

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from milvus_rerank.integrations.steps import as_pipeline
from milvus_rerank.steps import Pipeline

StepsField = Annotated[Any, BeforeValidator(as_pipeline), PlainSerializer(Pipeline.to_list)]
"""A :class:`milvus_rerank.Pipeline`; it is written as the tables of a config file, and read from them."""

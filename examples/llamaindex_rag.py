"""LlamaIndex over an embedded Milvus: a query engine retrieves 20 nodes, reranks them, and answers from the best two.

pip install "milvus-rerank[llamaindex]" llama-index-vector-stores-milvus "setuptools<81"
"""

import tempfile
from pathlib import Path

from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.llms import MockLLM
from llama_index.core.schema import TextNode
from llama_index.vector_stores.milvus import MilvusVectorStore

from milvus_rerank import StaticEmbedder
from milvus_rerank.integrations.llamaindex import RerankPostprocessor

TEXTS = {
    "babbage": "Babbage planned a general calculating machine driven by punched cards.",
    "lovelace": "Ada Lovelace published the first program, for Babbage's analytical engine.",
    "eniac": "Six women set up the cables and switches of ENIAC.",
    "arpanet": "The ARPANET joined separate networks by packet switching.",
    "compiler": "Grace Hopper wrote the first compiler, A-0, in 1952.",
}
embedder = StaticEmbedder()


class BuiltinEmbedding(BaseEmbedding):
    """The built-in embedder, which works offline; any other LlamaIndex embedding does, too."""

    def _get_text_embedding(self, text):
        return embedder.encode_documents([text])[0].tolist()

    def _get_query_embedding(self, query):
        return embedder.encode_queries([query])[0].tolist()

    async def _aget_query_embedding(self, query):
        return self._get_query_embedding(query)


store = MilvusVectorStore(uri=str(Path(tempfile.mkdtemp()) / "llamaindex.db"), dim=embedder.dim, overwrite=True)
index = VectorStoreIndex(
    [TextNode(id_=name, text=text) for name, text in TEXTS.items()],
    storage_context=StorageContext.from_defaults(vector_store=store),
    embed_model=BuiltinEmbedding(),
)
engine = index.as_query_engine(
    similarity_top_k=20,
    node_postprocessors=[RerankPostprocessor(reranker="builtin/rerank", top_n=2, keep_retrieval_score=True)],
    llm=MockLLM(),  # repeats its prompt; any LlamaIndex language model goes here
)
for node in engine.query("who published the first program").source_nodes:
    print(f"{node.score:.2f}  {node.node.node_id}  was at {node.node.metadata['retrieval_score']:.2f}")

"""LangChain over an embedded Milvus: retrieve 20 documents by vectors and BM25, rerank them, keep the best two.

pip install "milvus-rerank[langchain,lite]" langchain-classic langchain-milvus
"""

import tempfile
from pathlib import Path

from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import RunnableLambda
from langchain_milvus import BM25BuiltInFunction, Milvus

from milvus_rerank import StaticEmbedder
from milvus_rerank.integrations.langchain import RerankCompressor, candidate_retriever

TEXTS = {
    "babbage": "Babbage planned a general calculating machine driven by punched cards.",
    "lovelace": "Ada Lovelace published the first program, for Babbage's analytical engine.",
    "eniac": "Six women set up the cables and switches of ENIAC.",
    "arpanet": "The ARPANET joined separate networks by packet switching.",
    "compiler": "Grace Hopper wrote the first compiler, A-0, in 1952.",
}


class BuiltinEmbeddings(Embeddings):
    """The built-in embedder, which works offline; any other LangChain embedding does, too."""

    def __init__(self):
        self.embedder = StaticEmbedder()

    def embed_documents(self, texts):
        return self.embedder.encode_documents(texts).tolist()

    def embed_query(self, text):
        return self.embedder.encode_queries([text])[0].tolist()


store = Milvus(
    BuiltinEmbeddings(),
    connection_args={"uri": str(Path(tempfile.mkdtemp()) / "langchain.db")},
    builtin_function=BM25BuiltInFunction(output_field_names="sparse"),
    vector_field=["dense", "sparse"],
    index_params=[
        {"index_type": "FLAT", "metric_type": "COSINE"},
        {"index_type": "SPARSE_INVERTED_INDEX", "metric_type": "BM25"},
    ],
    search_params=[{"metric_type": "COSINE"}, {"metric_type": "BM25"}],  # Milvus Lite refuses langchain-milvus' own
)
store.add_documents([Document(text, metadata={"name": name}) for name, text in TEXTS.items()])

retriever = ContextualCompressionRetriever(
    base_retriever=candidate_retriever(store, 20),
    base_compressor=RerankCompressor(reranker="builtin/rerank", top_n=2),
)
chain = retriever | RunnableLambda(
    lambda documents: [
        f"{document.metadata['relevance_score']:.2f}  {document.metadata['name']}" for document in documents
    ]
)
print("\n".join(chain.invoke("who published the first program")))

"""LangChain over an embedded Milvus: retrieve 20 documents with langchain-milvus, rerank them, keep the best two."""

import tempfile
from pathlib import Path

from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import RunnableLambda
from langchain_milvus import Milvus

from milvus_rerank import StaticEmbedder
from milvus_rerank.integrations.langchain import RerankCompressor

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
    index_params={"index_type": "FLAT", "metric_type": "COSINE"},
)
store.add_documents([Document(text, metadata={"name": name}) for name, text in TEXTS.items()])

# k is the number of candidates to rerank. A hybrid store also needs fetch_k, whose default is 4.
retriever = ContextualCompressionRetriever(
    base_retriever=store.as_retriever(search_kwargs={"k": 20, "fetch_k": 20}),
    base_compressor=RerankCompressor(reranker="builtin/rerank", top_n=2),
)
chain = retriever | RunnableLambda(
    lambda documents: [
        f"{document.metadata['relevance_score']:.2f}  {document.metadata['name']}" for document in documents
    ]
)
print("\n".join(chain.invoke("who published the first program")))

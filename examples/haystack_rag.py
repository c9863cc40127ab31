"""Haystack over an embedded Milvus: a pipeline retrieves 20 documents with milvus-haystack and reranks them.

pip install "milvus-rerank[haystack,lite]" milvus-haystack
"""

import tempfile
from pathlib import Path

from haystack import Document, Pipeline, component
from milvus_haystack import MilvusDocumentStore
from milvus_haystack.milvus_embedding_retriever import MilvusEmbeddingRetriever

from milvus_rerank import StaticEmbedder
from milvus_rerank.integrations.haystack import MilvusRerankRanker

TEXTS = {
    "babbage": "Babbage planned a general calculating machine driven by punched cards.",
    "lovelace": "Ada Lovelace published the first program, for Babbage's analytical engine.",
    "eniac": "Six women set up the cables and switches of ENIAC.",
    "arpanet": "The ARPANET joined separate networks by packet switching.",
    "compiler": "Grace Hopper wrote the first compiler, A-0, in 1952.",
}
embedder = StaticEmbedder()


@component
class BuiltinTextEmbedder:
    """The built-in embedder, which works offline; any other Haystack text embedder does, too."""

    @component.output_types(embedding=list[float])
    def run(self, text: str):
        return {"embedding": embedder.encode_queries([text])[0].tolist()}


store = MilvusDocumentStore(connection_args={"uri": str(Path(tempfile.mkdtemp()) / "haystack.db")})
vectors = embedder.encode_documents(list(TEXTS.values())).tolist()
store.write_documents(
    [
        Document(content=text, meta={"name": name}, embedding=vector)
        for (name, text), vector in zip(TEXTS.items(), vectors, strict=True)
    ]
)

pipeline = Pipeline()
pipeline.add_component("embedder", BuiltinTextEmbedder())
pipeline.add_component("retriever", MilvusEmbeddingRetriever(document_store=store, top_k=20))
pipeline.add_component("ranker", MilvusRerankRanker("builtin/rerank", top_k=2))
pipeline.connect("embedder.embedding", "retriever.query_embedding")
pipeline.connect("retriever.documents", "ranker.documents")

query = "who published the first program"
for document in pipeline.run({"embedder": {"text": query}, "ranker": {"query": query}})["ranker"]["documents"]:
    print(f"{document.score:.2f}  {document.meta['name']}")

"""Full-text and vector search fused by Milvus, then reranked: needs Milvus 2.5 or later, or Milvus Lite.

pip install "milvus-rerank[lite]"
"""

import tempfile
from pathlib import Path

from pymilvus import DataType, Function, FunctionType, MilvusClient

from milvus_rerank import RRF, CrossEncoderRerankFunction, Dense, FullText, Hybrid, StaticEmbedder, TwoStageSearch

NOTES = [
    "Error E1042: the index file is locked by another process; close it and run the command again.",
    "To make a search faster, keep vectors in memory and lower the number of candidates.",
    "Error E1043: the disk is full. Remove old segments or add space.",
    "A locked door opens with the key that the porter keeps.",
]

encoder = StaticEmbedder()
client = MilvusClient(str(Path(tempfile.mkdtemp()) / "notes.db"))
schema = client.create_schema(auto_id=True)
schema.add_field("id", DataType.INT64, is_primary=True)
schema.add_field("text", DataType.VARCHAR, max_length=1000, enable_analyzer=True)
schema.add_field("dense", DataType.FLOAT_VECTOR, dim=encoder.dim)
schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
schema.add_function(Function("bm25", FunctionType.BM25, input_field_names=["text"], output_field_names=["sparse"]))
index = client.prepare_index_params()
index.add_index("dense", index_type="FLAT", metric_type="COSINE")
index.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
client.create_collection("notes", schema=schema, index_params=index)
vectors = encoder.encode_documents(NOTES)
client.insert("notes", [{"text": text, "dense": vector.tolist()} for text, vector in zip(NOTES, vectors, strict=True)])

search = TwoStageSearch(
    client,
    "notes",
    reranker=CrossEncoderRerankFunction("builtin/rerank", device="cpu"),
    embed=encoder.encode_queries,
    first_stage=Hybrid((Dense("dense"), FullText("sparse")), fusion=RRF(k=60)),
)
answer = search("the index is locked by something else, what now", top_k=2, candidates=4)
for result in answer:
    print(f"{result.score:.3f}  {result.text}")
print(f"embed, search, rerank: {answer.timings.total:.1f} s")
client.close()

"""Retrieve from an embedded Milvus, then rerank: one query, many queries, and hits that a search already returned.

pip install "milvus-rerank[lite]"
"""

import tempfile
from pathlib import Path

from pymilvus import DataType, MilvusClient

from milvus_rerank import CrossEncoderRerankFunction, StaticEmbedder, TwoStageSearch

BOOKS = [
    ("A history of the abacus", 1968, "How merchants counted with beads before paper sums were common."),
    ("Engines of analysis", 1991, "Babbage's plan for a general calculating machine driven by punched cards."),
    ("The first programmers", 2003, "The women who set up ENIAC's cables and switches, and what they were told."),
    ("Cracking Enigma", 1987, "How captured code books and electromechanical bombes read the daily keys."),
    ("Transistors to chips", 2011, "From the point-contact device of 1947 to millions of gates on one die."),
    ("A net of nets", 2006, "Packet switching, the ARPANET and the protocols that joined separate networks."),
]

encoder = StaticEmbedder()
client = MilvusClient(str(Path(tempfile.mkdtemp()) / "books.db"))
schema = client.create_schema()
schema.add_field("isbn", DataType.VARCHAR, is_primary=True, max_length=20)
schema.add_field("title", DataType.VARCHAR, max_length=200)
schema.add_field("year", DataType.INT64)
schema.add_field("blurb", DataType.VARCHAR, max_length=2000)
schema.add_field("vector", DataType.FLOAT_VECTOR, dim=encoder.dim)
index = client.prepare_index_params()
index.add_index("vector", index_type="FLAT", metric_type="COSINE")
client.create_collection("books", schema=schema, index_params=index)
vectors = encoder.encode_documents([blurb for _, _, blurb in BOOKS])
client.insert(
    "books",
    [
        {"isbn": f"isbn-{number}", "title": title, "year": year, "blurb": blurb, "vector": vector.tolist()}
        for number, ((title, year, blurb), vector) in enumerate(zip(BOOKS, vectors, strict=True))
    ],
)

reranker = CrossEncoderRerankFunction("builtin/rerank", device="cpu")
search = TwoStageSearch(client, "books", reranker=reranker, embed=encoder.encode_queries, text_field="blurb")

print("One query, with a filter and more fields:")
answer = search(
    "how did separate computer networks become one",
    top_k=2,
    candidates=6,
    filter="year > 1970",
    output_fields=["title"],
)
for result in answer:
    print(f"  {result.id}  {result.score:.3f}  {result.entity['title']}")

print("Many queries in one search and one rerank pass:")
for answer in search(["breaking ciphers in the war", "counting with beads"], top_k=1, candidates=6):
    print(f"  {answer.query}: {answer[0].id}")

print("Hits that client.search returned:")
query = "who programmed ENIAC"
hits = client.search("books", data=encoder.encode_queries([query]).tolist(), limit=4, output_fields=["title", "blurb"])
for result in reranker.rerank_hits(query, hits[0], text_field="blurb", top_k=1):
    print(f"  {result.id}  was place {result.index + 1} at distance {result.distance:.3f}: {result.entity['title']}")
client.close()

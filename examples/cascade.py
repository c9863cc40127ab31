"""Two rerankers in a row: words in common first, a cross-encoder for what is left. The scores of a stage compare.

pip install "milvus-rerank[openvino]"
"""

from milvus_rerank import CascadeRerankFunction

texts = [
    "Grace Hopper's team taped a moth into the logbook of the Harvard Mark II in 1947.",
    "The Mark I at Manchester ran its first program in June 1948.",
    "A bug in the division of the Pentium of 1994 cost Intel 475 million dollars.",
    "Ada Lovelace published an algorithm for the Analytical Engine in 1843.",
]
cascade = CascadeRerankFunction([("lexical", 2), ("builtin/rerank", None)])
for result in cascade("the moth in the logbook of the Mark II", texts, top_k=0):
    print(f"stage {result.stage}  {result.score:6.2f}  {result.text}")

"""Find the passage that answers a question in a text of 64,000 characters, much longer than the model reads at once.

pip install "milvus-rerank[openvino,eval]"
"""

import json

from milvus_rerank import Chunks, CrossEncoderRerankFunction
from milvus_rerank.evaluation import demo_folder

with (demo_folder() / "corpus.jsonl").open(encoding="utf-8") as lines:
    book = "\n".join(json.loads(line)["text"] for line in lines)
query = "when was the first message sent over the ARPANET"

cut = CrossEncoderRerankFunction(device="cpu")
[result] = cut(query, [book])
print(f"Its beginning alone: {result.score:.2f}")

windows = CrossEncoderRerankFunction(device="cpu", long=Chunks(tokens=64, overlap=16))
[result] = windows(query, [book])
start, end = result.span
print(f"Its best window, characters {start} to {end} of {len(book)}: {result.score:.2f}")
print(book[start:end])

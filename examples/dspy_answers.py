"""DSPy over an embedded Milvus: a module that answers from reranked passages, and a search tool for dspy.ReAct.

pip install "milvus-rerank[lite]" dspy
"""

import tempfile
from pathlib import Path

import dspy
from pymilvus import MilvusClient

from milvus_rerank import StaticEmbedder, TwoStageSearch, load

TEXTS = [
    "Babbage planned a general calculating machine driven by punched cards.",
    "Ada Lovelace published the first program, for Babbage's analytical engine.",
    "Six women set up the cables and switches of ENIAC.",
    "Grace Hopper wrote the first compiler, A-0, in 1952.",
]
embedder = StaticEmbedder()
client = MilvusClient(str(Path(tempfile.mkdtemp()) / "dspy.db"))
client.create_collection("docs", dimension=embedder.dim, metric_type="COSINE")
vectors = embedder.encode_documents(TEXTS)
client.insert("docs", [{"id": n, "text": TEXTS[n], "vector": vectors[n]} for n in range(len(TEXTS))])

search = TwoStageSearch(client, "docs", reranker=load("builtin/rerank", device="cpu"), embed=embedder.encode_queries)


class Answers(dspy.Module):
    """Answer a question from the best passages."""

    def __init__(self, top_k: int = 2) -> None:
        super().__init__()
        self.top_k = top_k
        self.respond = dspy.ChainOfThought("context: list[str], question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        """Retrieve 50 candidates, rerank them, and answer."""
        hits = search(question, top_k=self.top_k, candidates=50)
        answer = self.respond(context=[hit.text for hit in hits], question=question).answer
        return dspy.Prediction(answer=answer, ids=[hit.id for hit in hits])


def search_docs(query: str) -> list[str]:
    """Search the documents on the history of computing."""
    return [hit.text for hit in search(query, top_k=2, candidates=50)]


if __name__ == "__main__":
    from dspy.utils import DummyLM  # says what it is given; yours is a dspy.LM

    dspy.configure(lm=DummyLM([{"reasoning": "the passage says so", "answer": "Ada Lovelace"}]))
    answer = Answers()("who published the first program")
    print(answer.answer, answer.ids)
    steps = [
        {"next_thought": "search", "next_tool_name": "search_docs", "next_tool_args": {"query": "first compiler"}},
        {"next_thought": "enough", "next_tool_name": "finish", "next_tool_args": {}},
        {"reasoning": "the passage says so", "answer": "Grace Hopper"},
    ]
    dspy.configure(lm=DummyLM(steps))
    agent = dspy.ReAct("question -> answer", tools=[search_docs])
    print(agent(question="who wrote the first compiler").trajectory["observation_0"][0])

"""A query with its documents, and the scores of an answer by index."""

from typing import Any

QUERY = "What event in 1956 marked the official birth of artificial intelligence as a discipline?"

DOCUMENTS = [
    "In 1950, Alan Turing published his seminal paper, 'Computing Machinery and Intelligence.'",
    "The Dartmouth Conference in 1956 is considered the birthplace of artificial intelligence as a field.",
    "In 1951, Alan Turing also developed the first program designed to play chess.",
    "The invention of the Logic Theorist in 1955 marked the creation of the first true AI program.",
    "",
    "日本語 🙂 " * 40,
]


def results(answer: Any) -> dict[int, float]:
    return {row["index"]: row["relevance_score"] for row in answer["results"]}

"""The pairs that are timed: queries with the documents that a first stage finds for them, in several lengths.

Runs in the harness' environment. Real texts: cranfield and cisi where the environment variable
``MILVUS_RERANK_COLLECTIONS`` names a folder that holds them, else the collection that ships with the package.
"""

import itertools
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from milvus_rerank import StaticEmbedder
from milvus_rerank.evaluation import JudgedCollection, demo_folder, load_judged

COLLECTIONS = ("cranfield", "cisi")
SHARED = Path(os.environ.get("MILVUS_RERANK_COLLECTIONS", "none"))
CANDIDATES = 100
SHORT_WORDS = 20  # near 30 tokens
LONG_WORDS = 700  # more than 512 tokens: every pair is cut to the limit


@dataclass(frozen=True, slots=True)
class Request:
    """One query with its documents; ``key`` and ``ids`` lead back to the judgments where there are any."""

    query: str
    documents: tuple[str, ...]
    key: str = ""
    ids: tuple[str, ...] = ()

    def wire(self) -> list[object]:
        """What a worker gets."""
        return [self.query, list(self.documents)]


@dataclass(frozen=True, slots=True)
class Texts:
    """Everything the cases draw from.

    :param source: the collections' names.
    :param requests: queries of the collections in turn, each with its 100 best candidates.
    :param judgments: relevance by ``Request.key`` and document id.
    :param pool: all documents, shuffled.
    """

    source: str
    requests: tuple[Request, ...]
    judgments: dict[str, dict[str, int]]
    pool: tuple[str, ...]

    def query(self, number: int) -> str:
        """A query; cranfield's are one sentence, of cisi's many are a paragraph."""
        return self.requests[number % len(self.requests)].query

    def short(self, count: int, number: int) -> Request:
        """A query with documents of about 30 tokens: the first words of each, other documents for each number."""
        start = number * count % len(self.pool)
        texts = itertools.islice(itertools.cycle(self.pool), start, start + count)
        return Request(self.query(number), tuple(" ".join(text.split()[:SHORT_WORDS]) for text in texts))

    def mixture(self, number: int) -> Request:
        """A query with three short documents and one of 512 tokens: for calls whose settings must not mix."""
        short, long = self.short(3, number), self.long(1, number)
        return Request(short.query, short.documents + long.documents)

    def long(self, count: int, number: int) -> Request:
        """A query with documents that fill the model's 512 tokens: several joined."""
        words = itertools.cycle(" ".join(self.pool[number * 5 % len(self.pool) :]).split())
        return Request(self.query(number), tuple(" ".join(itertools.islice(words, LONG_WORDS)) for _ in range(count)))


def load_texts(queries: int, seed: int = 0) -> Texts:
    """Read the collections and let builtin/embed find each query's candidates."""
    judged = _collections()
    in_turn = _in_turn(judged, queries, seed)
    judgments = {
        f"{item.name}/{query}": dict(relevant) for item in judged for query, relevant in item.judgments.items()
    }
    pool = [passage.text for collection in judged for passage in collection.passages if passage.text]
    random.Random(seed).shuffle(pool)
    return Texts(" + ".join(collection.name for collection in judged), tuple(in_turn[:queries]), judgments, tuple(pool))


def other_requests(texts: Texts, queries: int) -> list[Request]:
    """Return requests of the same collections whose queries are not timed, to calibrate int8 with as a user would."""
    taken = {request.key for request in texts.requests}
    everything = _in_turn(_collections(), 10_000, 0)
    return [request for request in everything if request.key not in taken][:queries]


def _collections() -> list[JudgedCollection]:
    folders = [SHARED / name for name in COLLECTIONS if (SHARED / name / "corpus.jsonl").is_file()]
    return [load_judged(folder) for folder in folders or [demo_folder()]]


def _in_turn(judged: Sequence[JudgedCollection], queries: int, seed: int) -> list[Request]:
    per_collection = [_requests(collection, -(-queries // len(judged)), seed) for collection in judged]
    return [request for group in itertools.zip_longest(*per_collection) for request in group if request]


def _requests(collection: JudgedCollection, count: int, seed: int) -> list[Request]:
    embedder = StaticEmbedder()
    vectors = embedder.encode_documents([passage.text for passage in collection.passages])
    names = sorted(collection.queries)
    chosen = random.Random(seed).sample(names, min(count, len(names)))
    nearest = embedder.encode_queries([collection.queries[name] for name in chosen]) @ vectors.T
    requests = []
    for name, row in zip(chosen, nearest, strict=True):
        best = [collection.passages[index] for index in (-row).argsort(kind="stable")[:CANDIDATES]]
        texts, ids = tuple(passage.text for passage in best), tuple(passage.id for passage in best)
        requests.append(Request(collection.queries[name], texts, f"{collection.name}/{name}", ids))
    return requests


def token_counts(folder: Path, requests: Sequence[Request], max_length: int) -> list[int]:
    """The true length of each pair in tokens, special ones included, padding not."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    pairs = [(request.query, document) for request in requests for document in request.documents]
    return [len(encoding.ids) for encoding in tokenizer.encode_batch(pairs)]

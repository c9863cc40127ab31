"""The user's texts for the calibration and the check of an exported model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from milvus_rerank.errors import InputError
from milvus_rerank.evaluation.demo import demo_folder
from milvus_rerank.evaluation.judged import Judgments, load_judged
from milvus_rerank.jsonl import open_input, read_objects

BUILTIN = "builtin"
"""The name of the collection that comes with the package."""
TOP = 10
QUERIES = 50
"""The default number of queries to check with: 2500 pairs with 50 documents each."""
CANDIDATES = 50
"""The number of documents that the first stage finds for a query of a BEIR folder."""
CALIBRATION_SHARE = 5
"""The share of queries for calibration, if it is needed: every fifth."""

_FORMS = 'JSON lines of {"query": "...", "documents": ["...", ...]}, or a BEIR folder'


@dataclass(frozen=True, slots=True)
class Sample:
    """A query with the documents that a first stage found for it, by their ids and texts."""

    id: str
    query: str
    ids: tuple[str, ...]
    documents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Samples:
    """Queries with their candidate documents, and relevance judgments if there are any; the name is for reports."""

    name: str
    samples: tuple[Sample, ...]
    judgments: Judgments | None = field(default=None, hash=False)

    @property
    def pairs(self) -> int:
        """The number of pairs of query and document."""
        return sum(len(sample.documents) for sample in self.samples)

    def split(self) -> "tuple[Samples, Samples]":
        """Return queries for calibration, every fifth, and the other queries for the check."""
        if len(self.samples) < 2:
            raise InputError(
                f"{self.name} holds 1 query with more than {TOP} documents; calibration and check need different "
                f"queries: give at least 2, better 50"
            )
        checked = [sample for index, sample in enumerate(self.samples) if index % CALIBRATION_SHARE]
        calibration = replace(self, samples=self.samples[::CALIBRATION_SHARE])
        return calibration, replace(self, samples=tuple(checked))


def read_samples(where: str, queries: int) -> Samples:
    """Read at most this number of queries, spread evenly over all, to check a model with.

    Each has more than 10 documents: with fewer, all orders share the same top 10. ``where`` is a JSONL file of queries
    with their documents, a folder in BEIR's layout, or ``builtin``.
    """
    path = demo_folder() if where == BUILTIN else Path(where)
    if not path.exists():
        raise InputError(f"texts {where} does not exist; expected a file of {_FORMS}, or the word {BUILTIN!r}")
    texts = _from_beir(path, queries) if path.is_dir() else Samples(path.name, spread(list(_from_lines(path)), queries))
    return replace(texts, name=BUILTIN) if where == BUILTIN else texts


def spread(items: Sequence[Any], count: int) -> tuple[Any, ...]:
    """Return at most ``count`` items, evenly spread, in their order."""
    if len(items) <= count:
        return tuple(items)
    return tuple(items[number * len(items) // count] for number in range(count))


def _from_lines(path: Path) -> Iterator[Sample]:
    longest = 0
    with open_input(path) as file:
        for number, record in read_objects(file, str(path)):
            sample = _sample(record, f"{path}:{number}", str(number))
            longest = max(longest, len(sample.documents))
            if len(sample.documents) > TOP:
                yield sample
    if longest <= TOP:
        raise InputError(
            f"{path} has no query with more than {TOP} documents (the most is {longest}), so the top {TOP} cannot "
            f"change; expected {_FORMS}. Give the hits of your first stage, about 50 documents per query"
        )


def _sample(record: dict[str, Any], where: str, name: str) -> Sample:
    query, documents = record.get("query"), record.get("documents")
    listed = isinstance(documents, list) and all(isinstance(text, str) for text in documents)
    for key, wanted, valid in (
        ("query", "a string", isinstance(query, str)),
        ("documents", "a list of strings", listed),
    ):
        if not valid:
            state = f"is not {wanted}" if key in record else "is missing"
            raise InputError(f"{where}: {key!r} {state}; the object has the keys {sorted(record)}; expected {_FORMS}")
    return Sample(name, str(query), tuple(map(str, range(len(documents or ())))), tuple(documents or ()))


def _from_beir(folder: Path, queries: int) -> Samples:
    from milvus_rerank.embedding import StaticEmbedder
    from milvus_rerank.evaluation.metrics import ndcg

    judged = load_judged(folder)
    ndcg({}, judged.judgments)  # fail before minutes of scoring if nothing is relevant or ir-measures is missing
    if len(judged.passages) <= TOP:
        raise InputError(f"{folder} holds {len(judged.passages)} documents; expected more than {TOP}")
    chosen = spread(list(judged.queries.items()), queries)
    embedder = StaticEmbedder()
    passages = [(passage.id, passage.text) for passage in judged.passages]
    documents = embedder.encode_documents([text for _, text in passages])
    likeness = embedder.encode_queries([text for _, text in chosen]) @ documents.T
    samples = []
    for (name, text), row in zip(chosen, likeness, strict=True):
        ids, candidates = zip(*(passages[index] for index in (-row).argsort(kind="stable")[:CANDIDATES]), strict=True)
        samples.append(Sample(name, text, ids, candidates))
    return Samples(judged.name, tuple(samples), judged.judgments)

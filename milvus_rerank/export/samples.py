"""The user's own texts, with which an exported model is calibrated and checked."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from milvus_rerank.errors import InputError
from milvus_rerank.evaluation.demo import demo_folder
from milvus_rerank.evaluation.judged import Judgments, load_judged
from milvus_rerank.jsonl import open_input, read_objects

BUILTIN = "builtin"
"""The word for the package's own collection."""
TOP = 10
QUERIES = 50
"""How many queries to check with by default: 2500 pairs with 50 documents each."""
CANDIDATES = 50
"""How many documents the first stage gives a query of a BEIR folder."""
CALIBRATION_SHARE = 5
"""Every fifth query is kept for calibration, where that is needed."""

_FORMS = 'JSON lines of {"query": "...", "documents": ["...", ...]}, or a BEIR folder'


@dataclass(frozen=True, slots=True)
class Sample:
    """A query with the documents that a first stage found for it.

    :param id: the query's name.
    :param query: its text.
    :param ids: the documents' names.
    :param documents: their texts.
    """

    id: str
    query: str
    ids: tuple[str, ...]
    documents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Samples:
    """Queries with their candidates, and what is relevant to them if somebody has judged it.

    :param name: what to call them.
    :param samples: the queries.
    :param judgments: the relevance of documents to queries by their ids; None if unknown.
    """

    name: str
    samples: tuple[Sample, ...]
    judgments: Judgments | None = field(default=None, hash=False)

    @property
    def pairs(self) -> int:
        """How many pairs of query and document there are."""
        return sum(len(sample.documents) for sample in self.samples)

    def split(self) -> "tuple[Samples, Samples]":
        """Return queries to calibrate with and other ones to check with, spread over the whole file.

        :returns: every fifth query, and the rest.
        :raises InputError: if there is but one query.
        """
        if len(self.samples) < 2:
            raise InputError(
                f"{self.name} holds 1 query with more than {TOP} documents; calibration and check need different "
                f"ones: give at least 2, better 50"
            )
        checked = [sample for place, sample in enumerate(self.samples) if place % CALIBRATION_SHARE]
        calibration = replace(self, samples=self.samples[::CALIBRATION_SHARE])
        return calibration, replace(self, samples=tuple(checked))


def read_samples(where: str, queries: int) -> Samples:
    """Read texts to check a model with.

    :param where: a JSONL file of queries with their documents, a folder in BEIR's layout, or ``builtin``.
    :param queries: how many queries to take at most, spread evenly over all.
    :returns: queries with more than 10 documents each: with fewer, every order shares its top 10 with every other.
    :raises InputError: for a file that is missing or a line that cannot be used; it names file and line.
    :raises MissingDependencyError: if what finds candidates in a BEIR folder is not installed.
    """
    path = demo_folder() if where == BUILTIN else Path(where)
    if not path.exists():
        raise InputError(f"there is no file or folder {where}; expected {_FORMS}, or the word {BUILTIN!r}")
    found = _from_beir(path, queries) if path.is_dir() else Samples(path.name, spread(list(_from_lines(path)), queries))
    return replace(found, name=BUILTIN) if where == BUILTIN else found


def spread(items: Sequence[Any], count: int) -> tuple[Any, ...]:
    """Return at most ``count`` items, evenly spread.

    :param items: any items.
    :param count: how many to take.
    :returns: the items in their order.
    """
    if len(items) <= count:
        return tuple(items)
    return tuple(items[place * len(items) // count] for place in range(count))


def _from_lines(path: Path) -> Iterator[Sample]:
    shortest, seen = 0, False
    with open_input(path) as file:
        for number, record in read_objects(file, str(path)):
            sample = _sample(record, f"{path}:{number}", str(number))
            if len(sample.documents) > TOP:
                seen = True
                yield sample
            else:
                shortest = max(shortest, len(sample.documents))
    if not seen:
        raise InputError(
            f"{path} holds no query with more than {TOP} documents (the most is {shortest}), without which the top "
            f"{TOP} cannot change; expected {_FORMS}. Give what your first stage finds: 50 documents or so a query"
        )


def _sample(record: dict[str, Any], place: str, name: str) -> Sample:
    query, documents = record.get("query"), record.get("documents")
    if not isinstance(query, str):
        state = "no string" if "query" in record else "missing"
        raise InputError(f"{place}: 'query' is {state}; the object has the keys {sorted(record)}; expected {_FORMS}")
    if not isinstance(documents, list) or not all(isinstance(text, str) for text in documents):
        state = "no list of strings" if "documents" in record else "missing"
        raise InputError(
            f"{place}: 'documents' is {state}; the object has the keys {sorted(record)}; expected {_FORMS}"
        )
    return Sample(name, query, tuple(map(str, range(len(documents)))), tuple(documents))


def _from_beir(folder: Path, queries: int) -> Samples:
    from milvus_rerank.embedding import StaticEmbedder
    from milvus_rerank.evaluation.metrics import ndcg

    judged = load_judged(folder)
    ndcg({}, judged.judgments)  # judgments of nothing relevant, or no ir-measures: told before minutes of scoring
    if len(judged.passages) <= TOP:
        raise InputError(f"{folder} holds {len(judged.passages)} documents; expected more than {TOP}")
    chosen = spread(list(judged.queries.items()), queries)
    embedder = StaticEmbedder()
    passages = [(passage.id, passage.text) for passage in judged.passages]
    documents = embedder.encode_documents([text for _, text in passages])
    likeness = embedder.encode_queries([text for _, text in chosen]) @ documents.T
    samples = []
    for (name, text), row in zip(chosen, likeness, strict=True):
        found = [passages[place] for place in (-row).argsort(kind="stable")[:CANDIDATES]]
        samples.append(Sample(name, text, tuple(one for one, _ in found), tuple(own for _, own in found)))
    return Samples(judged.name, tuple(samples), judged.judgments)

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
    """A query with the documents that a first stage found for it.

    :param id: the query's id.
    :param query: the query's text.
    :param ids: the documents' ids.
    :param documents: the documents' texts.
    """

    id: str
    query: str
    ids: tuple[str, ...]
    documents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Samples:
    """Queries with their candidate documents, and relevance judgments if there are any.

    :param name: the name of the collection, for reports.
    :param samples: the queries with their documents.
    :param judgments: the relevance of each document by query id and document id; None without judgments.
    """

    name: str
    samples: tuple[Sample, ...]
    judgments: Judgments | None = field(default=None, hash=False)

    @property
    def pairs(self) -> int:
        """The number of pairs of query and document."""
        return sum(len(sample.documents) for sample in self.samples)

    def split(self) -> "tuple[Samples, Samples]":
        """Return queries for calibration and other queries for the check, spread over the whole file.

        :returns: every fifth query, and the rest.
        :raises InputError: if there is only one query.
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
    :param queries: the most queries to take, spread evenly over all.
    :returns: queries with more than 10 documents each: with fewer, all orders share the same top 10.
    :raises InputError: for a missing file or an unusable line; the message names the file and the line.
    :raises MissingDependencyError: if a package that finds candidates in a BEIR folder is not installed.
    """
    path = demo_folder() if where == BUILTIN else Path(where)
    if not path.exists():
        raise InputError(f"there is no file or folder {where}; expected {_FORMS}, or the word {BUILTIN!r}")
    found = _from_beir(path, queries) if path.is_dir() else Samples(path.name, spread(list(_from_lines(path)), queries))
    return replace(found, name=BUILTIN) if where == BUILTIN else found


def spread(items: Sequence[Any], count: int) -> tuple[Any, ...]:
    """Return at most ``count`` items, evenly spread.

    :param items: any items.
    :param count: the most items to take.
    :returns: the chosen items in their order.
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
        found = [passages[place] for place in (-row).argsort(kind="stable")[:CANDIDATES]]
        samples.append(Sample(name, text, tuple(one for one, _ in found), tuple(own for _, own in found)))
    return Samples(judged.name, tuple(samples), judged.judgments)

"""Training examples: judged queries with the hits of a first stage, and the documents to learn from."""

import copy
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from milvus_rerank.errors import InputError
from milvus_rerank.evaluation.judged import JudgedCollection
from milvus_rerank.evaluation.queries import JudgedQueries
from milvus_rerank.hits import read_hits
from milvus_rerank.indexing.client import explain_errors
from milvus_rerank.indexing.schema import describe
from milvus_rerank.indexing.search import FirstStageOrder
from milvus_rerank.search import TwoStageSearch
from milvus_rerank.text_field import read_text_field
from milvus_rerank.training.options import TrainingOptions

Progress = Callable[[str, int, int], object]
"""A function of the name of a step, the amount done and the total."""
Scores = Callable[[str, list[str]], Sequence[float]]
"""A function from a query and texts to raw scores."""

_AT_ONCE = 100  # documents in one call of Milvus


@dataclass(frozen=True, slots=True)
class TrainingQuery:
    """A judged query with its documents.

    :param name: its id.
    :param text: the query.
    :param hits: the ids of the first stage's hits, best first.
    :param judgments: the relevance of documents by id: integers, 0 and less for those that are not relevant.
    :param texts: the texts of the hits and of the relevant documents, by id.
    """

    name: str
    text: str
    hits: tuple[str, ...]
    judgments: Mapping[str, int]
    texts: Mapping[str, str]

    @property
    def relevant(self) -> list[str]:
        """The ids of the relevant documents whose texts are known, the most relevant first."""
        ids = [document for document, grade in self.judgments.items() if grade > 0 and document in self.texts]
        return sorted(ids, key=lambda document: -self.judgments[document])


@dataclass(frozen=True, slots=True)
class Example:
    """A pair to learn from.

    :param query: the query.
    :param text: the document.
    :param label: 1.0 for a relevant document, 0.0 for another; or a teacher's raw score.
    """

    query: str
    text: str
    label: float


def collect_queries(
    search: TwoStageSearch[Any],
    judged: JudgedQueries | JudgedCollection,
    candidates: int = 50,
    *,
    timeout: float | None = 30.0,
    progress: Progress = lambda step, done, total: None,
) -> tuple[list[TrainingQuery], list[str]]:
    """Search a collection with judged queries, and fetch the relevant documents that were not found.

    :param search: a two-stage search with a ``MilvusClient``; only its first stage runs.
    :param judged: the queries and their judgments.
    :param candidates: the hits of each query.
    :param timeout: the most seconds of a call of Milvus.
    :param progress: called after each query.
    :returns: the queries that have a relevant document, and notes about what was left out.
    :raises InputError: if the collection has none of the judged documents.
    :raises HitError: if a hit has no text.
    :raises SearchError: if Milvus refuses, fails, or does not answer in time.
    """
    chosen = {
        name: text
        for name, text in judged.queries.items()
        if max(judged.judgments.get(name, {}).values(), default=0) > 0
    }
    first = copy.copy(search)
    first.reranker = FirstStageOrder()
    hits: dict[str, dict[str, str]] = {}
    for number, (name, text) in enumerate(chosen.items(), 1):
        answer = first(text, top_k=None, candidates=candidates, timeout=timeout, threshold=None, instruction=None)
        hits[name] = {str(hit.id): hit.text for hit in answer}
        progress("Searching", number, len(chosen))
    known = {document: text for texts in hits.values() for document, text in texts.items()}
    wanted = {
        document: None
        for name in chosen
        for document, grade in judged.judgments[name].items()
        if grade > 0 and document not in known
    }
    known |= _fetch(search, list(wanted), timeout)
    queries, unknown = [], 0
    for name, text in chosen.items():
        judgments = judged.judgments[name]
        others = {document: known[document] for document, grade in judgments.items() if grade > 0 and document in known}
        query = TrainingQuery(name, text, tuple(hits[name]), judgments, {**others, **hits[name]})
        unknown += sum(grade > 0 and document not in query.texts for document, grade in judgments.items())
        queries += [query] if query.relevant else []
    if chosen and not queries:
        raise InputError(f"the collection {search.source.name!r} has none of the {len(wanted)} relevant documents")
    notes = []
    if unknown:
        notes.append(f"The collection lacks {unknown} relevant documents: they are not learnt from.")
    if len(queries) < len(judged.queries):
        without = len(judged.queries) - len(queries)
        notes.append(f"{without} of {len(judged.queries)} queries have no relevant document and are left out.")
    return queries, notes


def _fetch(search: TwoStageSearch[Any], ids: list[str], timeout: float | None) -> dict[str, str]:
    """Return the texts of documents by id, as the search would read them; unknown documents are left out."""
    source, texts = search.source, dict[str, str]()
    if not ids:
        return texts
    client, fields = source.client, list(read_text_field(search.text_field).names)
    if not hasattr(client, "get"):
        raise InputError(f"training needs a search with a MilvusClient, got {type(client).__name__}")
    primary = describe(client, source.name, timeout).primary
    with explain_errors(f"fetch documents of {source.name!r}"):
        schema = client.describe_collection(source.name, timeout=timeout)["fields"]
        is_text = any(field["name"] == primary and "CHAR" in field["type"].name for field in schema)
        keys: list[Any] = ids if is_text else [int(key) for key in ids if key.removeprefix("-").isdecimal()]
        for start in range(0, len(keys), _AT_ONCE):
            rows = client.get(source.name, keys[start : start + _AT_ONCE], output_fields=fields, timeout=timeout)
            found = [{"id": row[primary], "distance": 0.0, "entity": row} for row in rows]
            texts |= {str(hit.id): hit.text for hit in read_hits(found, search.text_field, missing="skip").in_order()}
    return texts


def folds(queries: Sequence[TrainingQuery], count: int, seed: int) -> list[list[TrainingQuery]]:
    """Divide queries into ``count`` parts of about the same size, at random; a query is in one part alone."""
    shuffled = list(queries)
    random.Random(seed).shuffle(shuffled)  # noqa: S311  a split, not a secret
    return [shuffled[number::count] for number in range(count)]


def make_examples(
    queries: Sequence[TrainingQuery], options: TrainingOptions, teacher: Scores | None, judge: Scores | None
) -> list[Example]:
    """Choose the documents to learn from.

    :param queries: the queries.
    :param options: how many documents to take.
    :param teacher: its raw scores are the labels; None for the judgments.
    :param judge: its scores tell which unjudged documents may be relevant; None to trust that none is.
    :returns: the examples, in a random order.
    """
    rng = random.Random(options.seed)  # noqa: S311  a sample, not a secret
    pool = {document: text for query in queries for document, text in query.texts.items()}
    ids = sorted(pool)
    examples = []
    for query in queries:
        relevant = query.relevant[: options.positives]
        chosen = _negatives(query, len(relevant) * options.negatives, ids, rng)
        texts = {document: query.texts.get(document) or pool[document] for document in [*relevant, *chosen]}
        if judge is not None:
            margin = 0.05 if options.margin is None else options.margin
            chosen = _without_relevant(query, relevant, chosen, texts, judge, margin)
        documents = [*relevant, *chosen]
        labels = [1.0] * len(relevant) + [0.0] * len(chosen)
        if teacher is not None:
            labels = list(teacher(query.text, [texts[document] for document in documents]))
        examples += [
            Example(query.text, texts[document], label) for document, label in zip(documents, labels, strict=True)
        ]
    rng.shuffle(examples)
    return examples


def _negatives(query: TrainingQuery, count: int, pool: Sequence[str], rng: random.Random) -> list[str]:
    """Return ids of documents that are not relevant: half of the best hits, a quarter others, a quarter random ones.

    Random documents also take the places of hits that are not there.
    """
    hits = [document for document in query.hits if query.judgments.get(document, 0) <= 0]
    quarter = count // 4
    best = hits[: 2 * (count - 2 * quarter)]
    chosen = rng.sample(best, min(len(best), count - 2 * quarter))
    others = [document for document in hits if document not in set(chosen)]
    chosen += rng.sample(others, min(len(others), quarter))
    taken = {*query.hits, *(name for name, grade in query.judgments.items() if grade > 0)}
    drawn = [pool[rng.randrange(len(pool))] for _ in range(4 * count)]
    return [*chosen, *[name for name in dict.fromkeys(drawn) if name not in taken][: count - len(chosen)]]


def _without_relevant(
    query: TrainingQuery,
    relevant: Sequence[str],
    chosen: list[str],
    texts: Mapping[str, str],
    judge: Scores,
    margin: float,
) -> list[str]:
    """Leave out unjudged documents that are probably relevant."""
    scores = judge(query.text, [texts[document] for document in [*relevant, *chosen]])
    probabilities = [1 / (1 + math.exp(-min(max(score, -30.0), 30.0))) for score in scores]
    limit = (1 - margin) * sum(probabilities[: len(relevant)]) / len(relevant)
    return [
        document
        for document, probability in zip(chosen, probabilities[len(relevant) :], strict=True)
        if document in query.judgments or probability <= limit
    ]

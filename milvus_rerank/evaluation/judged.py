"""Collections of passages, queries and judgments, in BEIR's layout."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from milvus_rerank.errors import InputError
from milvus_rerank.indexing.corpus import Passage, corpus_file, read_passages
from milvus_rerank.jsonl import open_input, read_lines, read_objects

Judgments = Mapping[str, Mapping[str, int]]
"""The relevance of each judged document by query id and document id; 0 for all other documents."""


@dataclass(frozen=True, slots=True)
class JudgedCollection:
    """Passages, the texts of the judged queries by id, and their judgments; the name is the folder's."""

    name: str
    passages: tuple[Passage, ...]
    queries: Mapping[str, str] = field(hash=False)
    judgments: Judgments = field(hash=False)


def load_judged(folder: Path, split: str = "test") -> JudgedCollection:
    """Read a folder in BEIR's layout: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/test.tsv``.

    :param folder: the folder.
    :param split: the name of the file of judgments, without ``.tsv``.
    :returns: the collection, with the queries that have a judgment.
    :raises InputError: for a missing file or an unusable line; the message names the file and the line.
    """
    passages = tuple(read_passages(corpus_file(folder)))
    queries = read_queries(folder / "queries.jsonl")
    judgments = read_judgments(folder / "qrels" / f"{split}.tsv", queries, {passage.id for passage in passages})
    judged = {name: text for name, text in queries.items() if name in judgments}
    return JudgedCollection(folder.resolve().name, passages, judged, judgments)


def read_queries(path: Path) -> dict[str, str]:
    """Return the texts by id of JSONL with ``_id`` and ``text``."""
    queries: dict[str, str] = {}
    with open_input(path) as file:
        for number, record in read_objects(file, str(path)):
            name, text = record.get("_id"), record.get("text")
            if not isinstance(name, str) or not isinstance(text, str):
                raise InputError(
                    f"{path}:{number}: expected the strings '_id' and 'text', got the keys {sorted(record)}"
                )
            if name in queries:
                raise InputError(f"{path}:{number}: the query {name!r} is there twice; each must be unique")
            queries[name] = text
    return queries


def read_judgments(
    path: Path, queries: Mapping[str, str], documents: set[str] | None = None
) -> dict[str, dict[str, int]]:
    """Return BEIR's judgments, of these queries and documents; None for documents that are not known."""
    judgments: dict[str, dict[str, int]] = {}
    with open_input(path) as file:
        for number, line in read_lines(file, str(path)):
            where, parts = f"{path}:{number}", [part.strip() for part in line.split("\t")]
            if number == 1 and parts[-1] == "score":
                continue
            if len(parts) != 3 or not parts[2].removeprefix("-").isdecimal():
                raise InputError(
                    f"{where}: expected query-id, corpus-id and an integer score, separated by tabs; got {line!r}"
                )
            query, document, score = parts[0], parts[1], int(parts[2])
            if query not in queries:
                raise InputError(f"{where}: judges the query {query!r}, which is not in queries.jsonl")
            if documents is not None and document not in documents:
                raise InputError(f"{where}: judges the document {document!r}, which is not in corpus.jsonl")
            earlier = judgments.setdefault(query, {}).setdefault(document, score)
            if earlier != score:
                raise InputError(
                    f"{where}: judges {document!r} for {query!r} as {score}, an earlier line as {earlier}; keep one"
                )
    if not judgments:
        raise InputError(f"{path} holds no judgments; expected lines of query-id, corpus-id and score")
    return judgments

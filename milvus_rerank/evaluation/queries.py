"""Queries with judgments, for collections that are already in Milvus."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from milvus_rerank.errors import InputError
from milvus_rerank.evaluation.judged import Judgments, read_judgments, read_queries
from milvus_rerank.jsonl import open_input, read_lines, read_objects


@dataclass(frozen=True, slots=True)
class JudgedQueries:
    """The texts of queries by id, and the judgments of some or all of them.

    :param name: the name in reports.
    :param queries: the texts by id.
    :param judgments: for each judged query the relevance of documents by id: 0 or less is not relevant.
    """

    name: str
    queries: Mapping[str, str] = field(hash=False)
    judgments: Judgments = field(default_factory=dict, hash=False)


def load_judged_queries(path: Path, queries: Path | None = None, split: str = "test") -> JudgedQueries:
    """Read queries and judgments.

    :param path: one of four forms. A folder in BEIR's layout: ``queries.jsonl`` and ``qrels/test.tsv``; its corpus is
        not read. A JSONL file with an object for each query: its ``query``, and its ``relevant`` ids as a list, or as
        an object from id to relevance; an ``_id`` is optional, and a query without ``relevant`` is not judged. TREC's
        judgments, lines of query id, iteration, document id and relevance, with ``queries``; or BEIR's, a ``.tsv`` file
        of query id, document id and relevance, with ``queries``.
    :param queries: the texts of the queries for TREC's judgments: JSONL with ``_id`` and ``text``, or lines of the id
        and the text, separated by a tab.
    :param split: the name of BEIR's file of judgments, without ``.tsv``.
    :returns: the queries; for a BEIR folder only the judged ones.
    :raises InputError: if a file is missing or a line cannot be used; the message names the file and the line.
    """
    if path.is_dir():
        if queries is not None:
            raise InputError(f"{path} is a folder in BEIR's layout, which has its own queries; leave out {queries}")
        texts = read_queries(path / "queries.jsonl")
        judgments = read_judgments(path / "qrels" / f"{split}.tsv", texts)
        return JudgedQueries(path.resolve().name, {name: texts[name] for name in texts if name in judgments}, judgments)
    if queries is not None:
        texts = _read_topics(queries)
        read = read_judgments if path.suffix == ".tsv" else _read_trec
        return JudgedQueries(path.stem, texts, read(path, texts))
    return _read_jsonl(path)


def load_queries(path: Path) -> JudgedQueries:
    """Read queries without judgments.

    :param path: JSONL with an object for each query, its ``query`` or ``text``, and perhaps an ``_id``; lines of the id
        and the text, separated by a tab; or a folder in BEIR's layout, of which all queries are read.
    :returns: the queries; JSONL with ``relevant`` ids has judgments, too.
    :raises InputError: if a file is missing or a line cannot be used; the message names the file and the line.
    """
    if path.is_dir():
        return JudgedQueries(path.resolve().name, read_queries(path / "queries.jsonl"))
    with open_input(path) as file:
        is_json = file.peek(1)[:1] in _JSON  # type: ignore[attr-defined]
    return _read_jsonl(path) if is_json else JudgedQueries(path.stem, _read_topics(path))


def _read_jsonl(path: Path) -> JudgedQueries:
    texts: dict[str, str] = {}
    judgments: dict[str, dict[str, int]] = {}
    with open_input(path) as file:
        for number, record in _objects(file, path):
            where = f"{path}:{number}"
            text, name = record.get("query", record.get("text")), record.get("_id", record.get("id", str(number)))
            if not isinstance(text, str) or not text.strip():
                raise InputError(f"{where}: expected the key 'query' with a text, got the keys {sorted(record)}")
            if isinstance(name, bool) or not isinstance(name, (str, int)):
                raise InputError(f"{where}: '_id' must be a string or an integer, got {name!r:.60}")
            if str(name) in texts:
                raise InputError(f"{where}: the query {str(name)!r} is there twice; each must be unique")
            texts[str(name)] = text
            if "relevant" in record:
                judgments[str(name)] = _relevant(record["relevant"], where)
    if not texts:
        raise InputError(f"{path} holds no queries; expected lines such as {_EXAMPLE}")
    return JudgedQueries(path.stem, texts, judgments)


_JSON = (b"{", b"\xef")
"""First bytes of a file of JSON lines; the second begins a byte order mark."""
_EXAMPLE = '{"query": "who built it", "relevant": ["id 7", "id 9"]}'


def _objects(file: Any, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    first = file.peek(1)[:1]
    if first.isdigit():  # TREC's judgments begin with the number of a query
        raise InputError(f"{path}:1: expected JSON, such as {_EXAMPLE}; for TREC's judgments give their queries, too")
    yield from read_objects(file, str(path))


def _relevant(value: object, where: str) -> dict[str, int]:
    """Return the relevance by id of a list of ids, or of an object."""
    grades = dict.fromkeys(map(str, value), 1) if isinstance(value, list) else value
    if not isinstance(grades, dict) or (isinstance(value, list) and not all(_is_id(name) for name in value)):
        raise InputError(
            f"{where}: 'relevant' must be a list of ids, or an object from id to relevance, got {value!r:.60}"
        )
    for name, grade in grades.items():
        if isinstance(grade, bool) or not isinstance(grade, int):
            raise InputError(f"{where}: the relevance of {name!r} must be an integer, got {grade!r:.60}")
    if isinstance(value, list) and len(grades) != len(value):
        raise InputError(f"{where}: 'relevant' names an id twice")
    return grades


def _is_id(value: object) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _read_topics(path: Path) -> dict[str, str]:
    """Return the texts by id of a file of queries: JSONL, or tab-separated."""
    with open_input(path) as file:
        if file.peek(1)[:1] in _JSON:  # type: ignore[attr-defined]
            return read_queries(path)
        texts: dict[str, str] = {}
        for number, line in read_lines(file, str(path)):
            name, tab, text = line.partition("\t")
            if not tab or not text.strip():
                raise InputError(
                    f"{path}:{number}: expected a query's id and text, separated by a tab; got {line!r:.60}"
                )
            if name in texts:
                raise InputError(f"{path}:{number}: the query {name!r} is there twice; each must be unique")
            texts[name] = text.strip()
    if not texts:
        raise InputError(f"{path} holds no queries; expected lines of id and text, separated by a tab")
    return texts


def _read_trec(path: Path, texts: Mapping[str, str]) -> dict[str, dict[str, int]]:
    judgments: dict[str, dict[str, int]] = {}
    with open_input(path) as file:
        for number, line in read_lines(file, str(path)):
            parts = line.split()
            if len(parts) != 4 or not parts[3].removeprefix("-").isdecimal():
                raise InputError(
                    f"{path}:{number}: expected query id, iteration, document id and an integer relevance; "
                    f"got {line!r:.60}"
                )
            query, _, document, grade = parts
            if query not in texts:
                raise InputError(f"{path}:{number}: judges the query {query!r}, which is not among the queries")
            earlier = judgments.setdefault(query, {}).setdefault(document, int(grade))
            if earlier != int(grade):
                raise InputError(
                    f"{path}:{number}: judges {document!r} for {query!r} as {grade}, an earlier line as {earlier}; "
                    "keep one"
                )
    if not judgments:
        raise InputError(f"{path} holds no judgments; expected lines of query id, iteration, document id and relevance")
    return judgments

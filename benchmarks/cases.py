"""The cases: the columns of the tables, with the requests of each round."""

from dataclasses import dataclass, field
from typing import Any

from texts import Request, Texts

SLICE = 5  # queries of one round of the throughput case


@dataclass(slots=True)
class Case:
    """One column of the tables.

    :param name: what ``--cases`` matches.
    :param what: its description.
    :param model: ``minilm6`` or ``base12``.
    :param rounds: the requests of each round, different ones so that no cache of scores can answer.
    :param weight: its share of the time budget.
    :param least: the number of rounds that are run even beyond the budget.
    :param others: the number of rounds for rows that are not in ``every`` round.
    :param threads: 0 for one call after the other; else each request is a call by one of this many threads.
    """

    name: str
    what: str
    model: str
    rounds: list[list[Request]]
    weight: float
    least: int = 1
    others: int = 1000
    threads: int = 0
    reports: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by row, one per round it took part in
    done: bool = False
    problem: str = ""  # why it could not run


def make_cases(texts: Texts, quick: bool) -> list[Case]:
    """The table of cases. Weights are about the seconds a round takes with fifteen rows on two cores."""
    queries = texts.requests

    def mixed(count: int, rounds: int) -> list[list[Request]]:
        # The next query's documents: no pair of the throughput case comes again, for a cache of scores to answer.
        others = [*queries[1:], queries[0]]
        pairs = list(zip(queries, others, strict=True))[:rounds]
        return [[Request(query.query, other.documents[:count])] for query, other in pairs]

    short = {
        count: [[texts.short(count, number)] for number in range(rounds)]
        for count, rounds in ((20, 30), (100, 30), (1000, 3), (2000, 2))
    }
    thousand = [[Request(texts.query(0), texts.pool[:1000])]]
    shared = [texts.mixture(number) for number in range(24)]
    slices = [list(queries[start : start + SLICE]) for start in range(0, len(queries), SLICE)]
    each = "one query, documents"
    # Throughput first: its memory peak then has no leftovers of other cases.
    cases = [
        Case("throughput", "50 queries x 100 documents", "minilm6", slices, 1300, len(slices), others=2),
        Case("mixed-20", f"{each} as they are, 20", "minilm6", mixed(20, 30), 130, 3),
        Case("mixed-100", f"{each} as they are, 100", "minilm6", mixed(100, 10), 200),
        Case("mixed-1000", f"{each} as they are, 1000", "minilm6", thousand, 100, others=0),
        Case("short-20", f"{each} of 30 tokens, 20", "minilm6", short[20], 60, 3),
        Case("short-100", f"{each} of 30 tokens, 100", "minilm6", short[100], 100, 3),
        Case("short-1000", f"{each} of 30 tokens, 1000", "minilm6", short[1000], 100),
        Case("short-2000", f"{each} of 30 tokens, 2000", "minilm6", short[2000], 80, others=0),
        Case("long-20", f"{each} of 512 tokens, 20", "minilm6", [[texts.long(20, number)] for number in range(5)], 100),
        *(
            Case(
                f"threads-{count}", f"24 calls by {count} threads on one object", "minilm6", [shared], 50, threads=count
            )
            for count in (1, 2, 4)
        ),
        Case("base12-mixed-20", f"{each} as they are, 20; 12 layers, 768 wide", "base12", mixed(20, 5), 200),
    ]
    if quick:
        keep = {"mixed-20", "short-100", "long-20", "threads-4", "throughput"}
        cases = [case for case in cases if case.name in keep]
        for case in cases:
            case.rounds, case.least = case.rounds[:2], 1
        cases[0].rounds = [list(queries[:1]), list(queries[1:2])]
    return cases

"""The driver: runs every row on every case, in turn, and writes results/speed.json. Started by run.py.

The workers of a model stay warm, and each round runs one after the other on the same requests: a machine that slows
down slows all of them. The order turns by one each round.
"""

import argparse
import json
import re
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cases import Case, make_cases
from client import Worker
from floor import Floor
from machine import machine
from models import MAX_LENGTH, export_int8, make_model
from peers import BASELINE, ROWS, Row, Setup
from summary import print_tables, summarize
from texts import Request, load_texts, other_requests

RESULTS = Path(__file__).resolve().parent / "results"
QUERIES = 50
HOLDS_MIB = 3072  # a worker that keeps more than this after its turn is started afresh for the next


class Bench:
    """Runs cases on workers.

    :param rows: the rows to run.
    :param threads: how many threads each may compute with.
    """

    def __init__(self, rows: list[Row], threads: int) -> None:
        self.rows, self.threads = rows, threads
        self.floor = Floor(threads)
        self.workers: dict[str, Worker] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.idle_cpu: dict[str, float] = {}
        self._model, self._first = Path(), Request("", ())

    def start(self, model: Path, first: Request) -> dict[str, dict[str, Any]]:
        """Start a fresh worker for each row, in place of the one before; return the first calls' reports."""
        reports = {}
        self._model, self._first = model, first
        for row in self.rows:
            self._stop(row)
            worker = self.workers[row.name] = Worker(row, Setup(str(model), MAX_LENGTH, self.threads), first)
            report = dict(worker.report)
            self.versions.setdefault(row.venv, report.pop("versions", {}))
            reports[row.name] = report
            print(f"  {row.name}: {report.get('error') or format(report['seconds'], '.2f')}", flush=True)
        return reports

    def stop(self) -> None:
        """End all workers."""
        for row in self.rows:
            self._stop(row)

    def run(self, case: Case, seconds: float) -> None:
        """Run a case round by round until its time is up."""
        until = time.monotonic() + seconds
        self.floor.measure()
        for number, requests in enumerate(case.rounds):
            if number >= case.least and time.monotonic() > until:
                break
            for row in self._turned(number):
                done = case.reports.setdefault(row.name, [])
                takes_part = row.every or number < case.others
                if takes_part and not (done and "error" in done[-1]) and self._revive(row):
                    done.append(self.workers[row.name].ask(requests, case.threads))
                    if self.workers[row.name].resident_mib() > HOLDS_MIB:
                        self._stop(row)
            self.floor.measure()
            print(f"  round {number + 1}: {time.monotonic() - until + seconds:.0f} s", flush=True)

    def report(self) -> dict[str, Any]:
        """Return the figures that no case has: this machine's peaks, idle CPU time, versions."""
        return {"floor": self.floor.peaks(), "idle_cpu_seconds": self.idle_cpu, "versions": self.versions}

    def _revive(self, row: Row) -> bool:
        """Start a worker again that was stopped or broke down; tell whether it can be asked."""
        worker = self.workers[row.name]
        if not worker.alive and "error" not in worker.report:
            setup = Setup(str(self._model), MAX_LENGTH, self.threads)
            worker = self.workers[row.name] = Worker(row, setup, self._first)
        return worker.alive

    def _stop(self, row: Row) -> None:
        if row.name in self.workers:
            idle = self.workers[row.name].idle_cpu_seconds()
            self.idle_cpu[row.name] = round(self.idle_cpu.get(row.name, 0.0) + idle, 2)
            self.workers[row.name].stop()

    def _turned(self, number: int) -> Iterator[Row]:
        turn = number % len(self.rows)
        yield from self.rows[turn:]
        yield from self.rows[:turn]


def main() -> None:
    """Measure, save, print."""
    parser = argparse.ArgumentParser(prog="python benchmarks/run.py", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few small cases, for a look; writes quick.json")
    parser.add_argument("--rows", default="", help="a regular expression on the rows' names; the baseline always runs")
    parser.add_argument("--cases", default="", help="a regular expression on the cases' names")
    parser.add_argument("--minutes", type=float, default=40.0, help="the time to spend, roughly")
    parser.add_argument("--threads", type=int, default=0, help="0 for one for each core")
    parser.add_argument("--output", type=Path, help="where to write instead of results/speed.json")
    args = parser.parse_args()
    info = machine()
    threads = args.threads or info["cores"]
    head = {"command": shlex.join(["python", "benchmarks/run.py", *sys.argv[1:]]), "machine": info, "threads": threads}
    path = args.output or RESULTS / ("quick.json" if args.quick else "speed.json")
    rows = [row for row in ROWS if row.name == BASELINE or re.search(args.rows, row.name)]
    texts = load_texts(QUERIES)
    cases = [case for case in make_cases(texts, args.quick) if re.search(args.cases, case.name)]
    first = Request(texts.query(0), texts.requests[0].documents[:20])
    seconds = 60 * args.minutes / sum(case.weight for case in cases)
    bench = Bench(rows, threads)
    first_calls: list[dict[str, dict[str, Any]]] = []
    for name in dict.fromkeys(case.model for case in cases):
        model = make_model(name)
        if any(row.precision == "int8" and row.ours for row in rows):
            export_int8(model, other_requests(texts, 50))
        # The first start warms the disk and makes what rows make once; the next two count. Only for the first model.
        for number in range(1 if args.quick or first_calls else 3):
            print(f"{name}: start {number + 1}, seconds to the first scores")
            first_calls.append(bench.start(model, first))
        for case in [case for case in cases if case.model == name]:
            print(f"{case.name}: {case.what}", flush=True)
            bench.run(case, seconds * case.weight)
            # After each case, so that a run that is cut short has its figures.
            result = summarize(cases, rows, texts, bench.report(), first_calls, head)
            path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    bench.stop()
    print_tables(result)
    print(f"written to {path}")


if __name__ == "__main__":
    main()

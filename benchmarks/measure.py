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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cases import Case, make_cases
from client import Worker
from floor import Floor
from machine import machine
from models import MAX_LENGTH, export_int8, make_model
from peers import BASELINE, ROWS, Row, Setup
from summary import print_tables, summarize
from texts import Request, Texts, load_texts, other_requests

RESULTS = Path(__file__).resolve().parent / "results"
QUERIES = 50
OVER = "not measured: the time was over; --resume goes on with it"
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

    def run(self, case: Case, seconds: float, save: Callable[[], None]) -> None:
        """Run a case round by round until its time is up, and save after each round."""
        case.reports = {}
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
            save()
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


def choose(option: str, expression: str, names: list[str]) -> list[str]:
    """Return the names that a regular expression matches as a whole; end the program if there are none."""
    try:
        chosen = [name for name in names if not expression or re.fullmatch(expression, name)]
    except re.error as error:
        sys.exit(f"{option} {expression!r} is not a regular expression: {error}")
    if not chosen:
        sys.exit(f"{option} {expression!r} matches the whole name of none of: {', '.join(names)}")
    return chosen


class Progress:
    """All reports so far, in a file beside the results, for a run that goes on where one was cut off.

    :param path: the file of the results.
    :param settings: what must be the same for reports to be comparable.
    :param cases: the cases, which get the reports of the file.
    :param resume: whether to read the file.
    """

    def __init__(self, path: Path, settings: dict[str, Any], cases: list[Case], *, resume: bool) -> None:
        self.path, self.settings, self.cases = path.with_suffix(".partial.json"), settings, cases
        self.first_calls: list[dict[str, dict[str, Any]]] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        if not resume:
            return
        if not self.path.exists():
            sys.exit(f"--resume: {self.path} does not exist; leave --resume out to begin")
        state = json.loads(self.path.read_text("utf-8"))
        for name, value in settings.items():
            if state["settings"].get(name) != value:
                sys.exit(f"--resume: {name} was {state['settings'].get(name)!r}, is {value!r}; leave --resume out")
        self.first_calls = state["first_calls"]
        for case in cases:
            found = state["cases"].get(case.name, {})
            if found.get("done"):
                case.reports, case.done = found["reports"], True

    def save(self) -> None:
        """Write the file."""
        cases = {case.name: {"reports": case.reports, "done": case.done} for case in self.cases if case.reports}
        state = {"settings": self.settings, "first_calls": self.first_calls, "cases": cases}
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(state), "utf-8")
        new.replace(self.path)


def prepare(name: str, bench: Bench, texts: Texts, progress: Progress, end: float) -> Path | str:
    """Make a model and start the workers with it; return its folder, or why that cannot be done."""
    if time.monotonic() > end:
        return OVER
    try:
        model = make_model(name)
        if any(row.precision == "int8" and row.ours for row in bench.rows):
            export_int8(model, other_requests(texts, 50))
    except Exception as error:  # whatever it is belongs into the results, and the other models are measured
        return f"model {name} cannot be made: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    first = Request(texts.query(0), texts.requests[0].documents[:20])
    # The first start warms the disk and makes what rows make once; the next two count. Only for the first model.
    for number in range(1 if progress.settings["quick"] or progress.first_calls else 3):
        print(f"{name}: start {number + 1}, seconds to the first scores")
        progress.first_calls.append(bench.start(model, first))
    return model


def main() -> None:
    """Measure, save, print."""
    parser = argparse.ArgumentParser(prog="python benchmarks/run.py", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few small cases, for a look; writes quick.json")
    parser.add_argument("--rows", default="", help="a regular expression for whole names; the baseline always runs")
    parser.add_argument("--cases", default="", help="a regular expression for whole names")
    parser.add_argument("--minutes", type=float, default=40.0, help="the time to spend, starts of workers included")
    parser.add_argument("--threads", type=int, default=0, help="0 for one for each core")
    parser.add_argument("--output", type=Path, help="where to write instead of results/speed.json")
    parser.add_argument("--resume", action="store_true", help="keep the finished cases of a run that was cut off")
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    info = machine()
    threads = args.threads or info["cores"]
    head = {"command": shlex.join(["python", "benchmarks/run.py", *sys.argv[1:]]), "machine": info, "threads": threads}
    path = args.output or RESULTS / ("quick.json" if args.quick else "speed.json")
    chosen = {BASELINE, *choose("--rows", args.rows, [row.name for row in ROWS])}
    rows = [row for row in ROWS if row.name in chosen]
    texts = load_texts(QUERIES)
    cases = make_cases(texts, args.quick)
    named = choose("--cases", args.cases, [case.name for case in cases])
    cases = [case for case in cases if case.name in named]
    print(f"rows: {', '.join(row.name for row in rows)}\ncases: {', '.join(named)}", flush=True)
    settings = {"machine": info, "threads": threads, "quick": args.quick, "rows": [row.name for row in rows]}
    progress = Progress(path, settings, cases, resume=args.resume)
    bench = Bench(rows, threads)

    def write() -> dict[str, Any]:
        result = summarize(cases, rows, texts, bench.report(), progress.first_calls, head)
        path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
        return result

    for name in dict.fromkeys(case.model for case in cases if not case.done):
        model = prepare(name, bench, texts, progress, end)
        for case in [case for case in cases if case.model == name and not case.done]:
            left, weights = end - time.monotonic(), sum(case.weight for case in cases if not case.done)
            case.problem = model if isinstance(model, str) else "" if left > 0 else OVER
            print(f"{case.name}: {case.problem or case.what}", flush=True)
            if not case.problem:
                bench.run(case, left * case.weight / weights, progress.save)
                case.done = True
                progress.save()
            write()
    bench.stop()
    print_tables(write())
    if not any(case.problem for case in cases):
        progress.path.unlink(missing_ok=True)
    print(f"written to {path}")


if __name__ == "__main__":
    main()

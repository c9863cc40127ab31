"""The driver's end of a worker: start it, ask it, stop it."""

import json
import os
import select
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peers import QUIET, Row, Setup
from texts import Request

HERE = Path(__file__).resolve().parent
TIMEOUT = 900.0  # seconds: a hung peer (infinity's threads can die silently) costs one cell


class Worker:
    """One row's process, warm between its runs.

    :param row: what it runs.
    :param setup: model, length, threads.
    :param first: the request it scores as soon as it has loaded.
    """

    def __init__(self, row: Row, setup: Setup, first: Request) -> None:
        python = HERE / ".venvs" / row.venv / "bin" / "python"
        refused = HERE / ".venvs" / row.venv / "refused"
        self.row = row
        self.process: subprocess.Popen[str] | None = None
        if refused.exists():
            self.report: dict[str, Any] = {"error": f"not installable: {refused.read_text('utf-8')}"}
            return
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        order = {"row": row.name, "setup": asdict(setup), "first": first.wire(), "memory": memory}
        log = HERE / ".venvs" / "logs"
        log.mkdir(exist_ok=True)
        cpus = sorted(os.sched_getaffinity(0))[: setup.threads]
        order["started"] = time.monotonic()
        with (log / f"{row.name.replace(' ', '-')}.txt".replace('"', "")).open("w") as stderr:
            self.process = subprocess.Popen(
                [str(python), str(HERE / "worker.py"), json.dumps(order)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=_environment(setup.threads),
                # For those that take all cores and cannot be told otherwise (FlashRank).
                preexec_fn=lambda: os.sched_setaffinity(0, cpus),
            )
        self.report = self._read()
        self._ready_cpu, self._own_cpu = self._cpu(), 0.0

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self.process is not None

    def ask(self, requests: list[Request], threads: int) -> dict[str, Any]:
        """Have it score the requests once; ``error`` instead of figures if it could not, and it is stopped then."""
        assert self.process is not None
        assert self.process.stdin is not None
        order = {"requests": [request.wire() for request in requests], "threads": threads}
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return self._read()
        report = self._read()
        self._own_cpu += report.get("cpu_seconds", 0.0)
        return report

    def idle_cpu_seconds(self) -> float:
        """CPU time spent since it was ready, outside its runs: reading requests, and waiting if its threads spin."""
        return max(0.0, self._cpu() - self._ready_cpu - self._own_cpu) if self.alive else 0.0

    def resident_mib(self) -> float:
        """What it holds in memory now."""
        if self.process is None:
            return 0.0
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def _read(self) -> dict[str, Any]:
        assert self.process is not None
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], TIMEOUT)
        line = self.process.stdout.readline() if ready else ""
        report: dict[str, Any] = json.loads(line) if line else {}
        if not ready:
            report = {"error": f"no answer in {TIMEOUT:.0f} s"}
        elif not line:
            report = {"error": f"the process died with code {self.process.wait()}"}
        if "error" in report:
            self.stop()
        return report

    def _cpu(self) -> float:
        if self.process is None:
            return 0.0
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _environment(threads: int) -> dict[str, str]:
    """The same for all."""
    count = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **count, **QUIET}

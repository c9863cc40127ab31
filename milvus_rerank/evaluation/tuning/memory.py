"""The memory of a process that holds a reranker, measured in a process that does nothing else."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from milvus_rerank.config import Config, RerankerTable
from milvus_rerank.errors import RerankError
from milvus_rerank.evaluation.tuning.settings import Setting

_DOCUMENTS = 32
"""Documents of full length in the measured call: a full batch."""
_WORDS = 4000
_SECONDS = 1800


def peak_memory(setting: Setting) -> int | None:
    """Return the most bytes of memory of a new process that loads a setting's reranker and scores a full batch.

    :param setting: the setting.
    :returns: bytes of main memory, without those of a GPU; None if this system does not say.
    :raises RerankError: if the process fails.
    """
    table = setting.to_config(Config()).reranker.model_dump(exclude_none=True)
    task = json.dumps({"reranker": table, "documents": min(setting.candidates, _DOCUMENTS)})
    command = [sys.executable, "-m", "milvus_rerank.evaluation.tuning.memory"]
    run = subprocess.run(command, input=task, capture_output=True, text=True, timeout=_SECONDS)  # noqa: S603
    if run.returncode != 0:
        reason = (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1]
        raise RerankError(f"the memory of {str(setting)!r} cannot be measured: {reason}")
    peak: int | None = json.loads(run.stdout.splitlines()[-1])
    return peak


def _measure(task: dict[str, Any]) -> int | None:
    from milvus_rerank.registry import find_loader

    table = RerankerTable.model_validate(task["reranker"])
    options = table.to_options()
    reranker = find_loader(table.name, options.pop("model_name", None))(**options)
    # Different texts: equal ones are scored once.
    reranker.score("what is measured", [f"{number} " + "word " * _WORDS for number in range(task["documents"])])
    return _peak()


def _peak() -> int | None:
    """Return the most bytes that this process has held."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage on Linux counts the parent's memory, too
        match = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text("ascii", "replace"), re.MULTILINE)
        return int(match[1]) * 1024 if match else None
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measure(json.load(sys.stdin))) + "\n")

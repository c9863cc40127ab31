"""The benchmark in one command: python benchmarks/run.py [--quick] [--rows REGEX] [--minutes N] [--resume] ...

Makes an environment for each peer under .venvs (first time: about 10 minutes and 8 GB), then hands over to measure.py
in the harness' own one. Any Python from 3.10 on will do, with nothing installed.
"""

import hashlib
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

from peers import QUIET, REPO, UNINSTALL, VENVS

HERE = Path(__file__).resolve().parent


def make_venv(name: str) -> bool:
    """Install what a peer needs into its own environment unless it is there; keep pip's words if it cannot be."""
    folder = HERE / ".venvs" / name
    limited = {found[1] for part in VENVS[name] if (found := re.match(r"([\w.-]+)[<>=!~]", part))}
    lines = (REPO / "constraints.txt").read_text("utf-8").splitlines(keepends=True)
    constraints = "".join(line for line in lines if line.partition("==")[0] not in limited)
    pyproject = (REPO / "pyproject.toml").read_text("utf-8") if "-e" in VENVS[name] else ""
    parts = (*VENVS[name], constraints, pyproject, sys.version)
    wanted = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    ready, refused = folder / "made", folder / "refused"
    if ready.exists() and ready.read_text() == wanted:
        return True
    print(f"installing {name}: {' '.join(VENVS[name])}", flush=True)
    venv.create(folder, clear=True, with_pip=True)
    # Without the constraint a bare torch brings gigabytes of CUDA, and peers would differ in torch itself.
    (folder / "constraints.txt").write_text(constraints, "utf-8")
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "-c", str(folder / "constraints.txt"), *VENVS[name]], capture_output=True, text=True, check=False
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        refused.write_text(" ".join(errors) or done.stderr[-400:], "utf-8")
        return False
    if name in UNINSTALL:
        subprocess.run([*pip[:3], "uninstall", "--quiet", "--yes", *UNINSTALL[name]], check=True)
    ready.write_text(wanted)
    return True


def main() -> None:
    """Make the environments, then measure."""
    missing = [name for name in VENVS if not make_venv(name)]
    if missing:
        print(f"cannot be installed: {', '.join(missing)} (the results say why)")
    if "harness" in missing:
        sys.exit((HERE / ".venvs" / "harness" / "refused").read_text("utf-8"))
    python = HERE / ".venvs" / "harness" / "bin" / "python"
    os.execve(python, [str(python), str(HERE / "measure.py"), *sys.argv[1:]], {**os.environ, **QUIET})


if __name__ == "__main__":
    main()

"""Run programs of examples/, each in a fresh environment with the newest packages of the pip command in its docstring.

Usage: python scripts/run_examples.py [PROGRAM...]

A PROGRAM is a name such as langchain_rag.py; all of them without one. This copy of milvus-rerank is installed, as a
wheel. Prints the versions of the frameworks, and what the programs print. Programs with the same command share an
environment. A constraint for pip, such as a torch without CUDA, goes into PIP_CONSTRAINT.
"""

import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
PIP = ("-m", "pip", "--disable-pip-version-check")
FRAMEWORKS = {"fastapi", "haystack-ai", "langchain-core", "llama-index-core", "mcp", "milvus-lite", "pymilvus"}
SERVICE, QUESTION = "fastapi_service.py", "/search?q=who+published+the+first+program&top_k=1"
NAME = re.compile(r"[A-Za-z0-9._-]+")


def requirements(program: Path) -> tuple[str, ...]:
    """Return what the pip command in a program's docstring installs."""
    found = re.search(r"^pip install (.+)$", program.read_text("utf-8"), re.MULTILINE)
    if not found:
        sys.exit(f"run_examples.py: {program.name} has no line 'pip install ...' in its docstring")
    return tuple(shlex.split(found[1]))


def make_environment(folder: Path, wheel: Path, wanted: tuple[str, ...]) -> Path:
    """Install the requirements in a fresh environment, print their versions, and return its Python."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    own = [re.sub(r"^milvus-rerank(\[.*\])?$", rf"milvus-rerank\1 @ {wheel.as_uri()}", item) for item in wanted]
    subprocess.run([python, *PIP, "install", "--quiet", *own], check=True)
    names = FRAMEWORKS | {match[0] for item in wanted if (match := NAME.match(item))}
    listed = subprocess.run([python, *PIP, "list", "--format=freeze"], check=True, capture_output=True, text=True)
    versions = [line for line in listed.stdout.splitlines() if line.partition("==")[0].lower() in names]
    print("$ pip install", shlex.join(wanted), "\n ", ", ".join(versions), flush=True)
    return python


def run_service(python: Path, program: Path, folder: Path) -> str:
    """Start the web service, ask it a question, stop it, and return its answer."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen([python, program, "--port", str(port)], cwd=folder, stderr=subprocess.DEVNULL) as service:
        try:
            for _ in range(600):
                if service.poll() is not None:
                    sys.exit(f"run_examples.py: {program.name} ended with code {service.returncode}")
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}{QUESTION}", timeout=10) as answer:
                        return answer.read().decode() + "\n"
                except OSError:
                    time.sleep(0.1)
            sys.exit(f"run_examples.py: {program.name} did not answer within a minute")
        finally:
            service.terminate()


def run(python: Path, program: Path, folder: Path) -> None:
    """Run a program and print what it prints; stop if it fails."""
    print(f"$ python examples/{program.name}", flush=True)
    if program.name == SERVICE:
        print(run_service(python, program, folder), flush=True)
        return
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([python, program], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"run_examples.py: {program.name} ended with code {done.returncode}\n{done.stderr}")
    print(done.stdout, flush=True)


def main(names: list[str]) -> None:
    """Run the programs."""
    programs = [REPO / "examples" / name for name in names] or sorted((REPO / "examples").glob("*.py"))
    commands: dict[tuple[str, ...], list[Path]] = {}
    for program in programs:
        commands.setdefault(requirements(program), []).append(program)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, *PIP, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, REPO], check=True)
        [wheel] = folder.glob("*.whl")
        for number, (wanted, sharing) in enumerate(commands.items()):
            python = make_environment(folder / f"env{number}", wheel, wanted)
            for program in sharing:
                run(python, program, folder)
    print(f"{len(programs)} programs ran in {len(commands)} environments")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Do a new user's first hour with a wheel: install it, index one's own files, search them, run the quickstart.

Usage: python scripts/first_hour.py dist/*.whl

Everything happens in a temporary folder with an environment of its own. Prints each command with its output, and the
seconds from the first command to the first reranked hit.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
CSV = """isbn,title,blurb,year
a,Turing,In 1950 Turing asked whether machines can think.,1950
b,Dartmouth,The Dartmouth workshop of 1956 founded artificial intelligence.,1956
c,Chess,Turing wrote a chess program in 1951.,1951
"""
NOTES = {"cats.md": "# Cats\n\nCats purr and sleep.\n", "dogs.md": "# Dogs\n\nDogs bark at night.\n"}
EMBEDDER = """
from pathlib import Path
import milvus_rerank, transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
source = Path(milvus_rerank.__file__).parent / "models" / "rerank"
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(source / "tokenizer.json"), pad_token="[PAD]")
sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
config = transformers.BertConfig(vocab_size=len(tokenizer), **sizes)
transformers.BertModel(config).save_pretrained("body")
tokenizer.save_pretrained("body")
body = Transformer("body")
SentenceTransformer(modules=[body, Pooling(64)], device="cpu").save("embedder")
"""


def run(*command: object, cwd: Path, wanted: str = "") -> str:
    """Run a command and print it; stop if it fails or its output lacks some words."""
    words = [str(word) for word in command]
    print("$", " ".join(word if len(word) < 100 else "..." for word in words), flush=True)
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    print(done.stdout + done.stderr, flush=True)
    if done.returncode or wanted not in done.stdout:
        sys.exit(f"first_hour.py: exit code {done.returncode}; expected {wanted!r} in the output of this command")
    return done.stdout


def first_hit(output: str) -> str:
    """Return the id of the best hit of a printed table."""
    match = re.search(r"^1 +-?[\d.]+ +\d+ +-?[\d.]+ +(\S+)", output, re.MULTILINE)
    return match[1] if match else ""


def expect(found: object, wanted: object) -> None:
    """Stop if a value is not the wanted one."""
    if found != wanted:
        sys.exit(f"first_hour.py: expected {wanted!r}, got {found!r}")


def main(wheel: Path) -> None:
    """Do it all."""
    with tempfile.TemporaryDirectory() as name:
        folder, start = Path(name), time.monotonic()
        (folder / "books.csv").write_text(CSV, "utf-8")
        (folder / "notes").mkdir()
        for file, text in NOTES.items():
            (folder / "notes" / file).write_text(text, "utf-8")
        venv.create(folder / "env", with_pip=True)
        programs = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
        pip = (programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        tool = programs / "milvus-rerank"
        run(*pip, f"{wheel}[lite]", cwd=folder)
        run(tool, "index", "books.csv", "--id-field", "isbn", "--text-field", "blurb", cwd=folder, wanted="3 written")
        found = run(tool, "search", "birth of artificial intelligence", "--collection", "books", cwd=folder)
        seconds = time.monotonic() - start
        expect(first_hit(found), "b")
        only = run(tool, "search", "machines", "--collection", "books", "--filter", "year < 1951", cwd=folder)
        expect(first_hit(only), "a")
        run(tool, "index", "notes", cwd=folder, wanted="2 written")
        expect(first_hit(run(tool, "search", "who barks?", "--collection", "notes", cwd=folder)), "dogs.md")
        blocks = re.findall(r"^```python\n(.*?)^```", (REPO / "docs" / "quickstart.md").read_text("utf-8"), re.M | re.S)
        run(programs / "python", "-c", "\n".join(blocks), cwd=folder)
        run(*pip, "-c", REPO / "constraints.txt", f"{wheel}[lite,torch]", cwd=folder)
        run(programs / "python", "-c", EMBEDDER, cwd=folder)
        run(tool, "index", "notes", "--collection", "own", "--embedder", "embedder", cwd=folder, wanted="2 written")
        expect(first_hit(run(tool, "search", "who barks?", "--collection", "own", cwd=folder)), "dogs.md")
        print(f"{seconds:.0f} s from an empty folder to the first reranked hit, with 3 commands")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]).resolve())

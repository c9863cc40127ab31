"""Answer a question from a folder of documents: index it, search in two stages, and put the prompt together.

pip install "milvus-rerank[lite,index]"
python rag_folder.py FOLDER "a question" --uri notes.db

It reads text, Markdown, HTML and PDF files; a second run with the same --uri embeds only what has changed. Without
arguments it reads three notes of its own. If OPENAI_BASE_URL is set, such as http://localhost:8000/v1 of vLLM or
Ollama, the language model OPENAI_MODEL there answers; otherwise the program prints the prompt.
"""

import argparse
import json
import os
import tempfile
import urllib.request
from pathlib import Path

from milvus_rerank import load
from milvus_rerank.indexing import (
    CorpusOptions,
    describe,
    index_passages,
    load_embedder,
    open_client,
    open_corpus,
    open_search,
)
from milvus_rerank.indexing.split import make_splitter, tokenizer_of

NOTES = {
    "locks.md": "# Locks\n\nOnly one process can open an index file. The error E1042 means that another process holds "
    "the lock: end that process, or wait for it.\n\nA lock that a crash left behind goes away with the next start.",
    "disk.txt": "E1043 means that the disk is full. Remove old segments, or add space. Segments are merged at night.",
    "speed.html": "<h1>Speed</h1><p>To make a search faster, keep vectors in memory and ask for fewer candidates.</p>",
}
PROMPT = """Answer the question from the passages alone, and name those that you use, such as [1]. If they do not hold \
the answer, say so.

{passages}

Question: {question}
Answer:"""


def search_folder(folder: Path, uri: str, question: str, top_k: int = 3) -> list:
    """Index the folder and return the best passages."""
    embedder = load_embedder("builtin/embed")
    split = make_splitter(tokenizer_of(embedder), tokens=128, overlap=16)  # a prompt needs passages, not whole files
    with open_client(uri) as client:
        with open_corpus(folder, CorpusOptions(split=split)) as corpus:
            report = index_passages(client, "documents", corpus, embedder, prune=True)
        print(f"{report.read} passages, {report.written} of them new or changed")
        reranker = load("builtin/rerank", device="cpu")
        search = open_search(client, describe(client, "documents"), reranker=reranker, embedder=embedder)
        return list(search(question, top_k=top_k, candidates=50, output_fields=["document"]))


def make_prompt(question: str, results: list) -> str:
    """Number the passages, and name the file of each."""
    numbered = (f"[{n}] ({result.entity['document']}) {result.text}" for n, result in enumerate(results, 1))
    return PROMPT.format(passages="\n\n".join(numbered), question=question)


def ask(prompt: str, base_url: str) -> str:
    """Return the answer of a language model with OpenAI's API."""
    body = {"model": os.environ.get("OPENAI_MODEL", "default"), "messages": [{"role": "user", "content": prompt}]}
    key = os.environ.get("OPENAI_API_KEY", "none")
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"{base_url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)["choices"][0]["message"]["content"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("question", nargs="?", default="which process holds the lock of an index file")
    parser.add_argument("--uri", help="a Milvus Lite path that ends in .db, or a server's address")
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp())
    folder = arguments.folder
    if folder is None:
        folder = scratch / "notes"
        folder.mkdir()
        for name, text in NOTES.items():
            (folder / name).write_text(text, "utf-8")
    results = search_folder(folder, arguments.uri or str(scratch / "rag.db"), arguments.question)
    prompt = make_prompt(arguments.question, results)
    base_url = os.environ.get("OPENAI_BASE_URL")
    print(ask(prompt, base_url) if base_url else prompt)


if __name__ == "__main__":
    main()

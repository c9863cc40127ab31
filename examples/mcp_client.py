"""MCP: start milvus-rerank mcp over an embedded Milvus as an agent does, and call its tools.

pip install "milvus-rerank[mcp,lite]"
"""

import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from mcp import Client, StdioServerParameters

TEXTS = {
    "babbage": "Babbage planned a general calculating machine driven by punched cards.",
    "lovelace": "Ada Lovelace published the first program, for Babbage's analytical engine.",
    "eniac": "Six women set up the cables and switches of ENIAC.",
    "compiler": "Grace Hopper wrote the first compiler, A-0, in 1952.",
}
PROGRAM = ["-m", "milvus_rerank"]
folder = Path(tempfile.mkdtemp())
corpus, uri = folder / "history.jsonl", str(folder / "mcp.db")
corpus.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in TEXTS.items()), "utf-8")
subprocess.run([sys.executable, *PROGRAM, "index", str(corpus), "--uri", uri], check=True, capture_output=True)


async def main():
    arguments = [*PROGRAM, "mcp", "--milvus-uri", uri, "--collection", "history"]
    async with Client(StdioServerParameters(command=sys.executable, args=arguments)) as client:
        print("tools:", ", ".join(sorted(tool.name for tool in (await client.list_tools()).tools)))
        query = {"query": "who published the first program", "collection": "history", "top_k": 2}
        answer = await client.call_tool("search", query)
        for hit in answer.structured_content["results"]:
            print(f"{hit['score']:.2f}  {hit['id']}")


asyncio.run(main())

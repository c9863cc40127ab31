"""A web service on FastAPI: search in two stages and rerank, without blocking the event loop.

pip install "milvus-rerank[lite,server]"
python fastapi_service.py --port 8000
curl 'http://127.0.0.1:8000/search?q=who+published+the+first+program'

The model is loaded once, before the first request. A call ends when its client leaves or after 5 seconds: the model
then stops after the batch in progress. With a Milvus server, pass an AsyncMilvusClient, which is awaited. To serve a
reranker alone, milvus-rerank serve needs no code, and joins the pairs of concurrent requests in batches.
"""

import argparse
import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from pymilvus import MilvusClient

from milvus_rerank import StaticEmbedder, TwoStageSearch, load
from milvus_rerank.errors import InputError, RerankError

TEXTS = {
    "babbage": "Babbage planned a general calculating machine driven by punched cards.",
    "lovelace": "Ada Lovelace published the first program, for Babbage's analytical engine.",
    "eniac": "Six women set up the cables and switches of ENIAC.",
    "compiler": "Grace Hopper wrote the first compiler, A-0, in 1952.",
}
SECONDS = 5.0
Answer = TypeVar("Answer")


def open_search() -> TwoStageSearch:
    """Fill a collection, load the models and return the search; your collection exists already."""
    embedder = StaticEmbedder()
    client = MilvusClient(str(Path(tempfile.mkdtemp()) / "service.db"))
    client.create_collection("docs", dimension=embedder.dim, id_type="string", max_length=64, metric_type="COSINE")
    vectors = embedder.encode_documents(list(TEXTS.values()))
    rows = zip(TEXTS.items(), vectors, strict=True)
    client.insert("docs", [{"id": name, "text": text, "vector": vector} for (name, text), vector in rows])
    # If the reranker fails, the answer is in the order of the first stage, and says so.
    reranker = load("builtin/rerank", device="cpu")
    return TwoStageSearch(
        client, "docs", reranker=reranker, embed=embedder.encode_queries, on_rerank_error="first_stage"
    )


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.search = await asyncio.to_thread(open_search)
    yield
    app.state.search.source.client.close()


app = FastAPI(title="Search in two stages", lifespan=lifespan)


class Texts(BaseModel):
    query: str
    documents: list[str] = Field(max_length=1000)
    top_k: int = Field(10, ge=1)


async def while_connected(request: Request, call: Awaitable[Answer]) -> Answer:
    """Await a call of the model; cancel it if the client leaves, or after some seconds."""

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    work, gone = asyncio.ensure_future(call), asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait({work, gone}, timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise HTTPException(499 if gone.done() else 504, "the client left" if gone.done() else "it took too long")
    finally:
        work.cancel()
        gone.cancel()


@app.get("/search")
async def search(request: Request, q: str, top_k: Annotated[int, Query(ge=1, le=100)] = 10) -> dict[str, Any]:
    call = request.app.state.search.asearch(q, top_k=top_k, candidates=100, timeout=SECONDS)
    return (await while_connected(request, call)).to_dict()


@app.post("/rerank")
async def rerank(request: Request, texts: Texts) -> list[dict[str, Any]]:
    reranker = request.app.state.search.reranker
    call = reranker.arerank(texts.query, texts.documents, texts.top_k)
    return [result.to_dict() for result in await while_connected(request, call)]


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}  # it answers only once the models are loaded


@app.exception_handler(RerankError)
async def refuse(request: Request, error: RerankError) -> JSONResponse:
    """Answer what the caller can mend with 400, and a Milvus or model that fails with 503."""
    return JSONResponse({"error": str(error)}, 400 if isinstance(error, InputError) else 503)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Search in two stages, over HTTP.")
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port)

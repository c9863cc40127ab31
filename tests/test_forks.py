"""Forks after a model was used, as gunicorn --preload, Celery and multiprocessing make them.

Each case runs in a process with a time limit, so that one that hangs fails.
"""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

BEGIN = """
import asyncio, os, sys, threading, time, warnings
from milvus_rerank import CrossEncoderRerankFunction, errors

warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # Python 3.12 and later
QUERY = "who wrote the first program"
TEXTS = ["Ada Lovelace wrote the first program.", "Babbage designed an engine.", "A line of text."] * 20


def load(engine, **options):
    return CrossEncoderRerankFunction("builtin/rerank", device="cpu", engine=engine, threads=2, **options)


def in_fork(work):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except Exception as error:
            print(type(error).__name__, error, file=sys.stderr)
        # What the interpreter frees at its end must not hang either; with torch that takes a second, and is safe.
        (os._exit if sys.argv[1:] == ["torch"] else sys.exit)(code)
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"the forked process ended with status {status}")


def same(scores, expected):
    assert max(abs(a - b) for a, b in zip(scores, expected, strict=True)) < 1e-5, (scores, expected)

"""


def run(code: str, *arguments: str) -> str:
    """Run code after the common beginning with more than one thread, and return its stderr."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-W", "error", "-c", BEGIN + code, *arguments]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return ran.stderr


ENGINES = [
    pytest.param("onnx", marks=pytest.mark.needs("onnxruntime")),
    pytest.param("openvino", marks=pytest.mark.needs("openvino")),
    pytest.param("torch", marks=pytest.mark.needs("torch", "transformers")),
]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_process_forked_after_or_during_calls_scores_as_its_parent_and_ends(engine: str) -> None:
    stderr = run(
        """
reranker = load(sys.argv[1])
expected = reranker.score(QUERY, TEXTS)


def child():
    same(reranker.score(QUERY, TEXTS), expected)
    same(asyncio.run(reranker.ascore(QUERY, TEXTS)), expected)  # in a thread
    same(load(sys.argv[1]).score(QUERY, TEXTS), expected)
    in_fork(lambda: same(reranker.score(QUERY, TEXTS), expected))


in_fork(child)
in_fork(lambda: None)
over = threading.Event()


def call():
    while not over.is_set():
        reranker.score(f"{time.monotonic()} {threading.get_ident()}", TEXTS)


threads = [threading.Thread(target=call) for _ in range(2)]
for thread in threads:
    thread.start()
in_fork(lambda: same(reranker.score(QUERY, TEXTS), expected))
over.set()
for thread in threads:
    thread.join()
same(reranker.score(QUERY, TEXTS), expected)
""",
        engine,
    )
    warned = f"so engine {engine!r} uses one CPU thread" in stderr
    assert warned == (engine != "onnx")


@pytest.mark.needs("onnxruntime")
def test_multiprocessing_forks_too() -> None:
    run(
        """
import multiprocessing

reranker = load("onnx")
expected = reranker.score(QUERY, TEXTS)


def score(text):
    return reranker.score(QUERY, [text])[0]


with multiprocessing.get_context("fork").Pool(2) as pool:
    same(pool.map(score, TEXTS[:4]), expected[:4])
"""
    )


def test_a_model_on_a_gpu_is_an_error_at_once() -> None:
    run(
        """
from milvus_rerank.engines import ConstantEngine
from milvus_rerank.reranker.local import EngineRerankFunction
from milvus_rerank.scoring.scorer import PairScorer


class GpuEngine(ConstantEngine):
    device = "cuda:0"


loaded = load("onnx")
reranker = EngineRerankFunction(PairScorer(loaded.scorer.encoder, GpuEngine()), model_name="org/model")


def child():
    for _ in range(2):
        try:
            reranker.score(QUERY, TEXTS)
        except errors.ForkError as error:
            assert "model 'org/model' was loaded on cuda:0 before this process was forked" in str(error)
            assert "load it after the fork, or start processes with the method 'spawn'" in str(error)
        else:
            raise AssertionError("no error")


in_fork(child)
assert reranker.score(QUERY, TEXTS[:2]) == [0.0, 0.0]
"""
    )

"""Services called by threads, event loops and processes: cancelling, stopping and sharing."""

import asyncio
import gc
import json
import os
import subprocess
import sys
import threading
import time
from typing import Any

import anyio
import pytest
from fault_server import HANG, Answer, FaultServer, by_length, remote
from service_calls import TEXTS, Ask, failing

from milvus_rerank.errors import RerankError, ServiceError, StoppedError


def test_a_cancelled_call_stops_at_once_and_leaves_the_service(faults: FaultServer) -> None:
    faults.answers = [HANG, HANG]

    async def main() -> float:
        function = remote(faults.address, max_documents=2)
        task = asyncio.create_task(function.arerank("q", TEXTS))
        while not faults.hanging.is_set():
            await asyncio.sleep(0.005)
        start = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - start

    assert asyncio.run(main()) < 1
    assert faults.left.wait(5)
    assert len(faults.received) <= 2


def test_a_call_cancelled_by_a_scope_of_anyio_leaves_the_service(faults: FaultServer) -> None:
    faults.answers = [HANG]

    async def leave(scope: anyio.CancelScope) -> None:
        while not faults.hanging.is_set():
            await asyncio.sleep(0.005)
        scope.cancel()

    async def main() -> bool:
        function = remote(faults.address)
        with anyio.CancelScope() as scope:  # it cancels again and again until the call has ended
            call = asyncio.create_task(leave(scope))
            await function.arerank("q", TEXTS)
        await call
        return await asyncio.to_thread(faults.left.wait, 5)  # the loop, and its connections, live on

    assert asyncio.run(main())


def test_a_call_cancelled_in_a_pause_asks_no_more(faults: FaultServer) -> None:
    faults.then = lambda _: Answer({}, 503, {"retry-after": "20"})

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(remote(faults.address).arerank("q", TEXTS), 0.3)

    start = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - start < 2
    assert len(faults.received) == 1


def test_stop_ends_the_work_between_requests(faults: FaultServer) -> None:
    stop = threading.Event()

    def then_stop(received: Any) -> Answer:
        stop.set()
        return by_length(received)

    faults.then = then_stop
    with remote(faults.address, max_documents=1, concurrency=1) as function:
        with pytest.raises(StoppedError):
            function.score_requests([("q", TEXTS)], stop)
        assert len(faults.received) == 1
        with pytest.raises(StoppedError):
            function.score_requests([("q", TEXTS)], stop)
    assert len(faults.received) == 1


def test_stop_ends_a_pause_between_attempts(faults: FaultServer) -> None:
    faults.then = lambda _: Answer({}, 503, {"retry-after": "20"})
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    start = time.monotonic()
    with remote(faults.address) as function, pytest.raises(StoppedError):
        function.score_requests([("q", TEXTS)], stop)
    assert time.monotonic() - start < 2
    assert len(faults.received) == 1


def test_one_failed_request_ends_the_others_of_its_call(faults: FaultServer, ask: Ask) -> None:
    def refuse_the_second(received: Any) -> Answer:
        if received.body["documents"] == ["bbb"]:
            return Answer({"message": "no"}, 400)
        return Answer({}, 503, {"retry-after": "20"})

    faults.then = refuse_the_second
    start = time.monotonic()
    error = failing(ask, remote(faults.address, max_documents=1, concurrency=3))
    assert error.status == 400
    assert time.monotonic() - start < 2
    asked = [one.body["documents"] for one in faults.received]
    assert all(asked.count([text]) <= 1 for text in TEXTS)


def test_no_more_requests_of_a_call_than_concurrency_are_under_way(faults: FaultServer) -> None:
    lock, active, most = threading.Lock(), [0], [0]

    def counted(received: Any) -> Answer:
        with lock:
            active[0] += 1
            most[0] = max(most[0], active[0])
        time.sleep(0.02)
        with lock:
            active[0] -= 1
        return by_length(received)

    faults.then = counted
    texts = ["x" * size for size in range(1, 13)]
    for concurrency, at_least in ((1, 1), (3, 2)):
        runs: tuple[Ask, Ask] = (lambda f: f.score("q", texts), lambda f: asyncio.run(f.ascore("q", texts)))
        for run in runs:
            most[0] = 0
            with remote(faults.address, max_documents=1, concurrency=concurrency) as function:
                assert run(function) == [float(size) for size in range(1, 13)]
            assert at_least <= most[0] <= concurrency


def test_two_event_loops_one_after_the_other_and_plain_calls_between(faults: FaultServer) -> None:
    function = remote(faults.address)

    async def twice() -> list[list[float]]:
        return [await function.ascore("q", TEXTS), await function.ascore("q", TEXTS[:2])]

    for plain_connections in (0, 1, 1):
        assert asyncio.run(twice()) == [[1.0, 3.0, 2.0], [1.0, 3.0]]
        assert faults.has_connections(plain_connections)  # those of the loop ended with it
        assert function.score("q", ["four"]) == [4.0]
    function.close()
    assert faults.has_connections(0)


def test_eight_threads_and_eight_loops_share_one_object(faults: FaultServer) -> None:
    function = remote(faults.address, max_documents=3)
    wrong: list[Any] = []

    def work(number: int) -> None:
        for turn in range(10):
            texts = ["x" * (1 + (number * 7 + turn * 3 + place) % 40) for place in range(10)]
            made = function.score("q", texts) if number % 2 else asyncio.run(function.ascore("q", texts))
            if made != [float(len(text)) for text in texts]:
                wrong.append((number, turn, made))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(faults.received) == 16 * 10 * 4
    function.close()


def test_connections_stay_open_between_calls_until_they_are_closed(faults: FaultServer) -> None:
    async def loop() -> None:
        async with remote(faults.address) as function:
            await function.ascore("q", TEXTS)
            await function.ascore("q", TEXTS)
            await function.aclose()
            assert faults.has_connections(0)
            await function.ascore("q", TEXTS)
        assert faults.has_connections(0)

    asyncio.run(loop())
    with remote(faults.address) as function:
        for _ in range(3):
            function.score("q", TEXTS)
        assert faults.has_connections(1)
    assert faults.has_connections(0)
    assert function.score("q", TEXTS) == [1.0, 3.0, 2.0]
    function.close()
    ports = [one.port for one in faults.received]
    assert ports[0] == ports[1] != ports[2]
    assert ports[3] == ports[4] == ports[5] != ports[6]


def test_an_object_that_is_dropped_closes_its_connections(faults: FaultServer) -> None:
    function = remote(faults.address)
    function.score("q", TEXTS)
    assert faults.has_connections(1)
    del function
    gc.collect()
    assert faults.has_connections(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.needs("milvus_lite")
def test_a_forked_process_opens_connections_of_its_own(faults: FaultServer) -> None:
    code = f"""
import os
from milvus_rerank import JinaRerankFunction
function = JinaRerankFunction(base_url={faults.address!r})
assert function.score("parent", ["a"]) == [1.0]
child = os.fork()
if child == 0:
    assert function.score("child", ["bb"]) == [2.0]
    function.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert function.score("parent", ["ccc"]) == [3.0]
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    ports = {one.body["documents"][0]: one.port for one in faults.received}
    assert ports["a"] == ports["ccc"] != ports["bb"]


def test_errors_of_services_are_this_packages_and_survive_pickling() -> None:
    import pickle

    error = ServiceError("it failed", 503, 2.0)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.status, again.retry_after) == ("it failed", 503, 2.0)
    assert isinstance(error, RerankError)
    assert json.dumps(str(error)) == '"it failed"'

"""Several engines of one scorer: batches go to whichever is free, and results are those of one."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from milvus_rerank import CrossEncoderRerankFunction
from milvus_rerank.engines.base import Batch, Engine
from milvus_rerank.errors import DeviceError, InputError, OutOfMemoryError, StoppedError
from milvus_rerank.reranker.local import EngineRerankFunction
from milvus_rerank.scoring import Request
from milvus_rerank.scoring.scorer import PairScorer

REQUESTS: list[Request] = [
    (f"query {number}", [f"{'word ' * (place * 7 % 40 + 1)}{number} {place}" for place in range(60)])
    for number in range(3)
]


class Device:
    """An engine under another device's name, with a hook before each batch.

    :param engine: the engine that scores.
    :param device: the name.
    :param before: called with each batch.
    """

    def __init__(self, engine: Engine, device: str, before: Callable[[Batch], object] = lambda batch: None) -> None:
        self.name, self.dtype, self.pad_to_multiple_of = engine.name, engine.dtype, engine.pad_to_multiple_of
        self.device = device
        self.shapes: list[tuple[int, ...]] = []
        self._engine, self._before = engine, before

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Score a batch with the engine."""
        self.shapes.append(batch.input_ids.shape)
        self._before(batch)
        return self._engine.logits(batch)


@pytest.fixture(scope="module")
def one() -> PairScorer:
    return replace(CrossEncoderRerankFunction(device="cpu").scorer, max_batch_tokens=256, at_once=50)


def together(one: PairScorer, *devices: Device) -> PairScorer:
    """Return a scorer on several devices."""
    first, *others = (replace(one, engine=device) for device in devices)
    return replace(first, others=tuple(others))


def test_scores_of_several_devices_are_those_of_one_in_the_callers_order(one: PairScorer) -> None:
    expected = one.score(REQUESTS)
    both = threading.Barrier(2, timeout=60)
    meet = [True, True]

    def before(number: int) -> Callable[[Batch], None]:
        def wait(_: Batch) -> None:
            if meet[number]:  # the first batches run at the same time
                meet[number] = False
                both.wait()

        return wait

    devices = [Device(one.engine, f"gpu:{number}", before(number)) for number in range(2)]
    found = together(one, *devices).score(REQUESTS)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert all(device.shapes for device in devices)


def test_the_free_device_takes_the_next_batch(one: PairScorer) -> None:
    done = threading.Event()
    slow = Device(one.engine, "slow", lambda _: done.wait(60))
    quick = Device(one.engine, "quick")

    def end_when_quick_is_through(_: Batch) -> None:
        if len(quick.shapes) >= 10:
            done.set()

    quick._before = end_when_quick_is_through
    np.testing.assert_allclose(together(one, slow, quick).score(REQUESTS), one.score(REQUESTS), atol=1e-5)
    assert len(quick.shapes) >= 10


def test_memory_that_runs_out_on_one_device_halves_its_batches_only(one: PairScorer) -> None:
    def refuse(batch: Batch) -> None:
        if batch.input_ids.size > 100 and len(batch.input_ids) > 1:
            raise OutOfMemoryError("a batch does not fit the memory of small")

    small = Device(one.engine, "small", refuse)
    large = Device(one.engine, "large", lambda _: time.sleep(0.02))
    scorer = together(one, large, small)
    np.testing.assert_allclose(scorer.score(REQUESTS), one.score(REQUESTS), atol=1e-5)
    assert scorer.others[0].max_batch_tokens <= 128
    assert scorer.max_batch_tokens == 256
    refused = len(small.shapes)
    scorer.score([("another query", REQUESTS[0][1])])
    later = small.shapes[refused:]
    assert later
    assert all(rows == 1 or rows * width <= 128 for rows, width in later)
    assert any(rows * width > 128 for rows, width in large.shapes)


def test_an_error_names_its_device_and_ends_the_work_of_the_others(one: PairScorer) -> None:
    failed = threading.Event()

    def follow(_: Batch) -> None:
        failed.wait(60)
        time.sleep(0.05)

    def fail(_: Batch) -> None:
        failed.set()
        raise RuntimeError("illegal memory access")

    good = Device(one.engine, "gpu:0", follow)
    bad = Device(one.engine, "gpu:1", fail)
    with pytest.raises(DeviceError, match="the model failed on gpu:1: RuntimeError: illegal memory access"):
        together(one, good, bad).score(REQUESTS)
    assert len(good.shapes) < 10
    assert threading.active_count() < 20


def test_a_pair_that_does_not_fit_is_an_error_of_its_device(one: PairScorer) -> None:
    def refuse(_: Batch) -> None:
        raise OutOfMemoryError("a batch of shape (1, 9) does not fit the memory of gpu:1")

    devices = Device(one.engine, "gpu:0", lambda _: time.sleep(0.02)), Device(one.engine, "gpu:1", refuse)
    with pytest.raises(OutOfMemoryError, match="memory of gpu:1"):
        together(one, *devices).score(REQUESTS)


def test_several_devices_stop_when_told(one: PairScorer) -> None:
    stop = threading.Event()
    devices = [Device(one.engine, name, lambda _: stop.set()) for name in ("gpu:0", "gpu:1")]
    with pytest.raises(StoppedError):
        together(one, *devices).score(REQUESTS, stop)
    assert sum(len(device.shapes) for device in devices) <= 6


def test_cached_scores_need_no_device(one: PairScorer) -> None:
    cached = CrossEncoderRerankFunction(device="cpu", score_cache=1000).scorer
    devices = Device(one.engine, "gpu:0"), Device(one.engine, "gpu:1")
    scorer = together(cached, *devices)
    first = scorer.score(REQUESTS)
    ran = [len(device.shapes) for device in devices]
    assert scorer.score(REQUESTS) == first
    assert [len(device.shapes) for device in devices] == ran


@pytest.mark.needs("anyio")
def test_a_server_takes_no_model_on_several_devices(one: PairScorer) -> None:
    from milvus_rerank.server.models import EngineModel

    scorer = together(one, Device(one.engine, "gpu:0"), Device(one.engine, "gpu:1"))
    reranker = EngineRerankFunction(scorer, model_name="m")
    assert "device=['gpu:0', 'gpu:1']" in repr(reranker)
    with pytest.raises(InputError, match="start a server for each device"):
        EngineModel(reranker)


def test_a_list_with_one_device_is_that_device() -> None:
    listed = CrossEncoderRerankFunction(device=["cpu"])
    assert repr(listed) == repr(CrossEncoderRerankFunction(device="cpu"))
    assert listed.devices == ("cpu",)


def test_lists_that_name_no_devices_are_errors() -> None:
    with pytest.raises(InputError, match="device is an empty list"):
        CrossEncoderRerankFunction(device=[])
    with pytest.raises(InputError, match="'cpu' is cpu, which is in the list twice"):
        CrossEncoderRerankFunction(device=["cpu", "cpu"])
    with pytest.raises(InputError, match="a name or a list of names"):
        CrossEncoderRerankFunction(device=["cpu", None])  # type: ignore[list-item]
    with pytest.raises(InputError, match="a name or a list of names"):
        CrossEncoderRerankFunction(device=("cpu", ""))

"""All tools on scores: they change nothing that is passed in, and load nothing heavy."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from numbered_hits import hit

from milvus_rerank import above, diversify, fuse, normalize


@pytest.mark.parametrize(
    "change",
    [
        lambda results: normalize(results, "rank"),
        lambda results: above(results, 0.0),
        lambda results: fuse(results, metric="IP"),
        lambda results: diversify(results, [[1.0], [1.0]]),
    ],
)
def test_what_was_passed_in_stays_as_it_was(change: Callable[[Any], Any]) -> None:
    given = [hit(0, 1.0, extra={"offset": 2}), hit(1, 2.0)]
    change(given)
    assert given == [hit(0, 1.0, extra={"offset": 2}), hit(1, 2.0)]


def test_importing_the_tools_loads_nothing_heavy() -> None:
    code = "import sys, milvus_rerank; milvus_rerank.fuse, milvus_rerank.diversify; print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"

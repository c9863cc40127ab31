"""rerank_dataset: the scores of direct calls as columns, and no row dropped."""

import json
import subprocess
import sys
from typing import Any

import pytest

from milvus_rerank import LexicalRerankFunction

pytestmark = pytest.mark.needs("ray", "pyarrow", "fsspec")

PROGRAM = """
import json, logging, os
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray, ray.data
from milvus_rerank.cluster import QueryFields, RerankerSpec, rerank_dataset
from milvus_rerank.errors import InputError
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
ray.data.DataContext.get_current().enable_progress_bars = False
rows = json.loads(input())
dataset = rerank_dataset(ray.data.from_items(rows), RerankerSpec("lexical"), workers=2, batch_size=2)
print(json.dumps(sorted(dataset.take_all(), key=lambda row: str(row["query_id"]))))
try:
    rerank_dataset(ray.data.from_items([{"q": 1}]))
except InputError as error:
    print(error)
"""


def test_scores_are_added_and_no_row_is_dropped() -> None:
    rows: list[dict[str, Any]] = [
        {"query_id": f"q{number}", "query": f"w{number % 3} w1", "documents": [f"w{n} w{n % 2}" for n in range(number)]}
        for number in range(6)
    ]
    rows[2]["query"] = None
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(rows), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found, message = done.stdout.splitlines()[-2:]
    results = json.loads(found)
    assert [row["query_id"] for row in results] == [f"q{number}" for number in range(6)]
    for row, result in zip(rows, results, strict=True):
        if row["query"] is None:
            assert (result["error"], result["ids"]) == ("'query' must be a string, got NoneType: None", [])
            continue
        expected = LexicalRerankFunction()(row["query"], row["documents"], top_k=None)
        assert result["error"] is None
        assert result["ids"] == [str(each.index) for each in expected]
        assert result["scores"] == [each.score for each in expected]
    assert message == "the data set has no column 'query_id', 'query', 'documents'; it has ['q']"

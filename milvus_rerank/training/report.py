"""The report of a training, and the README of the trained model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from milvus_rerank.evaluation.significance import Interval
from milvus_rerank.inventory import installed_version
from milvus_rerank.training.options import TrainingOptions

RECORD = "training.json"
"""The file that describes a training, in the folder of the trained model."""
_PACKAGES = ("milvus-rerank", "sentence-transformers", "torch", "transformers", "accelerate")


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """The result of a training.

    :param base: the model that it began with.
    :param output: the folder for the trained model.
    :param written: whether the trained model is better on held-out queries, and was written.
    :param options: the options.
    :param queries: the number of judged queries.
    :param examples: the number of pairs that the last training learnt from.
    :param first_stage: nDCG@10 of each held-out query in the first stage's order.
    :param before: nDCG@10 of each held-out query by the base model.
    :param after: nDCG@10 of each held-out query by a model that did not learn from it.
    :param gain: the mean of ``after`` less ``before``.
    :param interval: the 95% bootstrap interval of the gain.
    :param p_value: that of the paired randomisation test.
    :param notes: remarks about the data.
    :param seconds: the duration.
    """

    base: str
    output: Path
    written: bool
    options: TrainingOptions
    queries: int
    examples: int
    first_stage: Mapping[str, float]
    before: Mapping[str, float]
    after: Mapping[str, float]
    gain: float
    interval: Interval
    p_value: float
    notes: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-safe Python values, with the versions of the packages used."""
        return {
            **asdict(self),
            "output": str(self.output),
            "versions": {name: version for name in _PACKAGES if (version := installed_version(name))},
        }

    def __str__(self) -> str:
        low, high = self.interval
        means = " -> ".join(f"{fmean(values.values()):.3f}" for values in (self.before, self.after))
        verdict = f"written to {self.output}" if self.written else "nothing is written: it is not certainly better"
        return (
            f"nDCG@10 of {len(self.after)} held-out queries: {means} ({self.gain:+.3f}, 95% interval {low:+.3f} to "
            f"{high:+.3f}, p = {self.p_value:.3g}); {verdict}"
        )


def model_card(report: TrainingReport) -> str:
    """Return the model's README."""
    low, high = report.interval
    first, before, after = (fmean(values.values()) for values in (report.first_stage, report.before, report.after))
    return f"""---
base_model: {report.base}
library_name: sentence-transformers
---

# Fine-tuned from {report.base}

By `milvus-rerank train` on {report.queries} judged queries. The licence of the base model applies.

| order | nDCG@10 of {len(report.after)} held-out queries |
|---|---|
| first stage | {first:.4f} |
| {report.base} | {before:.4f} |
| fine-tuned | {after:.4f} |

The gain over the base model is {report.gain:+.4f}, 95% interval {low:+.4f} to {high:+.4f}. Each query was tested with
a model that did not learn from it. `{RECORD}` has the figures of each query and all options.

```python
from milvus_rerank import load

reranker = load("FOLDER")
```
"""

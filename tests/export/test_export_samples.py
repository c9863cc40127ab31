"""The texts that an export is checked on."""

import json
from pathlib import Path

import pytest
from present import present
from tiny_embedder import write_jsonl

from milvus_rerank.errors import InputError
from milvus_rerank.export.samples import Sample, Samples, read_samples

pytestmark = pytest.mark.compat


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"query": "a"}', r"texts\.jsonl:2: 'documents' is missing; the object has the keys \['query'\]; expected"),
        ('{"query": "a", "documents": "b"}', r"texts\.jsonl:2: 'documents' is not a list of strings"),
        ('{"query": "a", "documents": ["b", 3]}', r"texts\.jsonl:2: 'documents' is not a list of strings"),
        ('{"documents": ["b"]}', r"texts\.jsonl:2: 'query' is missing; .*expected JSON lines of \{\"query\""),
        ('{"query": 1, "documents": ["b"]}', r"texts\.jsonl:2: 'query' is not a string"),
        ("{", r"texts\.jsonl:2: is not JSON"),
    ],
)
def test_a_wrong_line_of_texts_is_named(tmp_path: Path, line: str, message: str) -> None:
    good = json.dumps({"query": "a", "documents": ["b"] * 11})
    (tmp_path / "texts.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(InputError, match=message):
        read_samples(str(tmp_path / "texts.jsonl"), 10)


def test_texts_that_cannot_show_a_change_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="texts nowhere does not exist; expected a file of JSON lines"):
        read_samples("nowhere", 10)
    path = write_jsonl(tmp_path / "short.jsonl", [{"query": "a", "documents": ["b"] * 10}])
    with pytest.raises(InputError, match=r"no query with more than 10 documents \(the most is 10\)"):
        read_samples(str(path), 10)


def test_queries_with_few_documents_are_left_out_and_the_rest_is_spread(tmp_path: Path) -> None:
    records = [{"query": str(number), "documents": ["x"] * (5 if number == 3 else 11)} for number in range(10)]
    samples = read_samples(str(write_jsonl(tmp_path / "t.jsonl", records)), 4)
    assert [sample.query for sample in samples.samples] == ["0", "2", "5", "7"]
    assert (samples.name, samples.pairs, samples.judgments) == ("t.jsonl", 44, None)


def test_calibration_and_check_have_different_queries() -> None:
    texts = Samples("t", tuple(Sample(str(number), "", (), ()) for number in range(12)))
    calibration, checked = texts.split()
    assert [sample.id for sample in calibration.samples] == ["0", "5", "10"]
    assert [sample.id for sample in checked.samples] == ["1", "2", "3", "4", "6", "7", "8", "9", "11"]
    with pytest.raises(InputError, match="calibration and check need different queries"):
        Samples("t", texts.samples[:1]).split()


def test_a_beir_folder_gives_candidates_and_judgments() -> None:
    samples = read_samples("builtin", 5)
    assert (samples.name, len(samples.samples), samples.pairs) == ("builtin", 5, 250)
    first = samples.samples[0]
    assert (first.id, len(set(first.ids))) == ("q01", 50)
    assert "dartmouth-proposal" in first.ids[:10]
    assert present(samples.judgments)["q01"]["dartmouth-proposal"] == 2

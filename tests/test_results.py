import json
import math

import numpy as np
import pytest

from milvus_rerank import RerankResult
from milvus_rerank.errors import ScoreError
from milvus_rerank.results import rank

HIT = RerankResult(
    "a text", 0.5, 2, id="d2", distance=0.25, entity={"text": "a text", "year": 1956}, extra={"offset": 3}
)


def test_repr_pastes_back() -> None:
    assert eval(repr(HIT)) == HIT
    assert eval(repr(RerankResult("x", -1.5, 0))) == RerankResult("x", -1.5, 0)


def test_repr_leaves_empty_fields_out() -> None:
    assert repr(RerankResult("x", -1.5, 0)) == "RerankResult(text='x', score=-1.5, index=0)"
    unscored = RerankResult("", None, 2, id=7, entity={}, id_field="pk")
    assert repr(unscored) == "RerankResult(text='', score=None, index=2, id=7, entity={}, id_field='pk')"
    assert eval(repr(unscored)) == unscored


def test_a_result_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        HIT.score = 1.0  # type: ignore[misc]


def test_results_differ_when_any_field_differs() -> None:
    assert RerankResult("x", 1.0, 0) != RerankResult("x", 1.0, 1)
    assert RerankResult("x", 1.0, 0, entity={"a": 1}) != RerankResult("x", 1.0, 0, entity={"a": 2})


def test_a_hit_can_be_a_member_of_a_set() -> None:
    assert len({HIT, HIT, RerankResult("a text", 0.5, 2)}) == 2


def test_a_text_has_three_keys_and_a_hit_all_of_them() -> None:
    assert RerankResult("x", 1.0, 0).to_dict() == {"text": "x", "score": 1.0, "index": 0}
    assert HIT.to_dict() == {
        "text": "a text",
        "score": 0.5,
        "index": 2,
        "id": "d2",
        "distance": 0.25,
        "entity": {"text": "a text", "year": 1956},
        "extra": {"offset": 3},
    }


def test_every_field_value_of_milvus_becomes_json() -> None:
    entity = {
        "vector": np.array([0.5, 1.5], dtype=np.float32),
        "half": np.float16(0.5),
        "binary": b"\x01\xff",
        "sparse": {3: 0.5},
        "json": {"tags": ("a", None, True)},
        "nan": math.nan,
    }
    made = json.loads(json.dumps(RerankResult("x", 1.0, 0, id=7, entity=entity).to_dict(), allow_nan=False))
    assert made["entity"] == {
        "vector": [0.5, 1.5],
        "half": 0.5,
        "binary": "Af8=",
        "sparse": {"3": 0.5},
        "json": {"tags": ["a", None, True]},
        "nan": "nan",
    }


def test_scores_descend_and_ties_keep_input_order() -> None:
    assert rank([0.1, 0.9, 0.5, 0.9, -0.0, 0.0]) == [1, 3, 2, 0, 4, 5]


def test_threshold_keeps_equal_scores_and_top_k_comes_after_it() -> None:
    assert rank([0.1, 0.9, 0.5], threshold=0.5) == [1, 2]
    assert rank([0.1, 0.9, 0.5], top_k=1, threshold=0.5) == [1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_cannot_be_ordered_names_its_document(bad: float) -> None:
    with pytest.raises(ScoreError, match="document 2 is"):
        rank([1.0, 2.0, bad, 3.0])

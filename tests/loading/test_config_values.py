"""Wrong values in a model's JSON files: an error that names file and key, or a model that scores as before."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pair_texts import QUERIES, TEXTS

from milvus_rerank import CrossEncoderRerankFunction
from milvus_rerank.engines.select import EngineName
from milvus_rerank.errors import RerankError
from milvus_rerank.models.config_schema import SCHEMAS

VALUES: tuple[Any, ...] = (None, -1, 0, 1, 2**40, 1e30, 0.5, math.nan, math.inf, True, "x", "", [], [1], {}, {"a": 1})
KEYS = {
    "config.json": {
        *SCHEMAS["config.json"],
        "auto_map",
        "is_decoder",
        "pruned_heads",
        "dtype",
        "torch_dtype",
        "classifier_dropout",
    },
    "tokenizer_config.json": {*SCHEMAS["tokenizer_config.json"], "added_tokens_decoder", "chat_template", "cls_token"},
    "config_sentence_transformers.json": {*SCHEMAS["config_sentence_transformers.json"]},
    "sentence_bert_config.json": {*SCHEMAS["sentence_bert_config.json"]},
}
TRACED = ("activation", "hidden_act", "position_embedding_type")


@pytest.mark.parametrize(("file", "key"), [(file, key) for file, keys in KEYS.items() for key in sorted(keys)])
def test_a_wrong_value_is_an_error_of_this_package_or_changes_nothing(
    tiny: dict[str, Path], tmp_path: Path, file: str, key: str
) -> None:
    # Some values make a model one that torch would have to trace for the others, which takes seconds.
    engine: EngineName = "torch" if key in TRACED or key not in SCHEMAS[file] else "onnx"
    folder = Path(shutil.copytree(tiny["bert"], tmp_path / "m"))
    original = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    for value in VALUES:
        (folder / file).write_text(json.dumps(original | {key: value}))
        try:
            reranker = CrossEncoderRerankFunction(str(folder), device="cpu", engine=engine, threads=1)
        except RerankError as error:
            assert str(folder) in str(error) or key in str(error)  # noqa: PT017
        else:
            assert np.isfinite(reranker.score(QUERIES[0], TEXTS[:3])).all()


@pytest.mark.parametrize("key", sorted(SCHEMAS["config.json"]))
def test_the_message_shows_file_key_value_and_what_is_expected(tiny: dict[str, Path], tmp_path: Path, key: str) -> None:
    folder = Path(shutil.copytree(tiny["bert"], tmp_path / "m"))
    config = json.loads((folder / "config.json").read_text())
    value: Any = [[-5]]
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(RerankError) as caught:
        CrossEncoderRerankFunction(str(folder), device="cpu", engine="onnx")
    assert (
        str(caught.value) == f"{folder / 'config.json'}: {key!r} must be {SCHEMAS['config.json'][key][0]}, got [[-5]]"
    )

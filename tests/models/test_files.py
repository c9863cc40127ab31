"""A model's files read without transformers: tokenizers equal to its own, and snapshots of the hub."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from pair_texts import QUERIES, TEXTS
from tiny_models import ARCHITECTURES

from milvus_rerank import CrossEncoderRerankFunction, HubOptions
from milvus_rerank.engines.select import EngineName
from milvus_rerank.errors import ModelError
from milvus_rerank.models import ModelSource, model_folder
from milvus_rerank.models.files import (
    FileTokenizer,
    check_reranker,
    fetch_folder,
    read_config,
)
from milvus_rerank.models.weights import read_tensors, weight_files
from milvus_rerank.scoring.pair_encoder import PairEncoder

NASTY = [
    *TEXTS,
    *QUERIES,
    "ÀÉÎÕÜ àéîõü İstanbul ﬁne ½ ǅ",
    "[CLS] [SEP] [PAD] [UNK] [MASK]",
    "<s> </s> <pad> <unk> <mask>",
    "##ing ▁word Ġword",
    "a\u200bb\u00a0c\ufeffd\u2028e\x00f\x7fg\r\nh",
    "e\u0301 vs \u00e9, \u1e9b\u0323",
    "😀👩‍👩‍👧‍👦🇿🇦",
    "   ",
    "UPPER lower MiXeD",
    "x" * 300,
]


def ours(folder: Path) -> FileTokenizer:
    return FileTokenizer(folder, read_config(folder), read_config(folder, "tokenizer_config.json"))


def both(folder: Path) -> tuple[FileTokenizer, Any]:
    """Return a folder's tokenizer as this package reads it, and as transformers does."""
    theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return ours(folder), theirs


def is_plain(folder: Path) -> bool:
    """Tell whether this package reads a folder's tokenizer as transformers would."""
    return ours(folder).is_plain


def assert_same(folder: Path) -> None:
    assert is_plain(folder)
    ours, theirs = both(folder)
    assert ours.model_input_names == theirs.model_input_names
    for name in ("pad_token_id", "pad_token_type_id", "model_max_length", "padding_side", "truncation_side"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for text in NASTY:
        assert ours(text, add_special_tokens=False)["input_ids"] == theirs(text, add_special_tokens=False)["input_ids"]
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    pairs = list(itertools.product(NASTY[::4], NASTY))
    queries, texts = [list(side) for side in zip(*pairs, strict=True)]
    made, expected = (one(queries, texts, return_token_type_ids=True) for one in (ours, theirs))
    for name in ("input_ids", "token_type_ids"):
        assert made[name] == expected[name], name
    assert_same_batches(ours, theirs)


def assert_same_batches(ours: Any, theirs: Any) -> None:
    batches = []
    for tokenizer in (ours, theirs):
        encoder = PairEncoder(tokenizer, max_length=40)
        ids = encoder.tokenize(NASTY)
        batches.append(encoder.batch([(ids[0], ids[-1]), *itertools.pairwise(ids)]))
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        made, expected = (getattr(batch, name) for batch in batches)
        assert (made is None) == (expected is None)
        assert made is None or (made == expected).all(), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_tokenizer_of_every_architecture_is_transformers(tiny: dict[str, Path], architecture: str) -> None:
    assert_same(tiny[architecture])


def test_the_tokenizer_of_the_shipped_model_is_transformers() -> None:
    folder = model_folder("builtin/rerank")
    assert folder is not None
    assert_same(folder)


OWN_CLASSES = {
    "bert": "BertTokenizer",
    "electra": "ElectraTokenizer",
    "distilbert": "DistilBertTokenizer",
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
}


def with_class(source: Path, folder: Path, name: str | None, **settings: Any) -> Path:
    """Copy a model as the hub has it: with its own tokenizer class and without the names of its inputs."""
    shutil.copytree(source, folder)
    own = read_config(folder, "tokenizer_config.json")
    for key in ("model_input_names", "tokenizer_class"):
        own.pop(key, None)
    own |= settings if name is None else {"tokenizer_class": name, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    return folder


# Not DistilBERT without a class: transformers then takes BERT's tokenizer, whose types the model does not read.
@pytest.mark.parametrize(
    ("architecture", "named"),
    [(name, named) for name in OWN_CLASSES for named in (True, False) if (name, named) != ("distilbert", False)],
)
def test_the_inputs_are_those_of_the_architectures_own_tokenizer(
    tiny: dict[str, Path], tmp_path: Path, architecture: str, named: bool
) -> None:
    folder = with_class(tiny[architecture], tmp_path / "m", OWN_CLASSES[architecture] if named else None)
    ours, theirs = both(folder)
    assert set(ours.model_input_names) == set(theirs.model_input_names)


@pytest.mark.parametrize("engine", ["torch", "onnx", "openvino"])
def test_token_types_that_a_model_does_not_take_change_nothing(
    tiny: dict[str, Path], tmp_path: Path, engine: EngineName
) -> None:
    folder = with_class(tiny["distilbert"], tmp_path / "m", "BertTokenizer")
    reranker = CrossEncoderRerankFunction(str(folder), device="cpu", engine=engine)
    expected = CrossEncoderRerankFunction(str(tiny["distilbert"]), device="cpu", engine="torch")
    assert reranker.score(QUERIES[0], TEXTS) == pytest.approx(expected.score(QUERIES[0], TEXTS), abs=1e-5)


@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
def test_an_own_class_with_the_same_settings_gives_the_same_ids(
    tiny: dict[str, Path], tmp_path: Path, architecture: str
) -> None:
    assert_same(with_class(tiny[architecture], tmp_path / "m", OWN_CLASSES[architecture]))


@pytest.mark.parametrize(
    "settings", [{"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False}]
)
@pytest.mark.parametrize("name", ["BertTokenizer", None])
def test_settings_that_override_the_tokenizers_file_are_left_to_transformers(
    tiny: dict[str, Path], tmp_path: Path, settings: dict[str, bool], name: str | None
) -> None:
    folder = with_class(tiny["bert"], tmp_path / "m", name, **settings)
    ours, theirs = both(folder)
    assert any(ours(text)["input_ids"] != theirs(text)["input_ids"] for text in NASTY), "the setting changes nothing"
    assert not is_plain(folder)
    for engine in ("onnx", "openvino"):
        reranker = CrossEncoderRerankFunction(str(folder), device="cpu", engine=engine)
        expected = CrossEncoderRerankFunction(str(folder), device="cpu", engine="torch").score("UPPER é 中文", NASTY)
        assert reranker.score("UPPER é 中文", NASTY) == pytest.approx(expected, abs=1e-5)


def test_a_file_that_differs_from_the_defaults_of_its_class_is_left_to_transformers(
    tiny: dict[str, Path], tmp_path: Path
) -> None:
    folder = with_class(tiny["bert"], tmp_path / "m", "BertTokenizer")
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    values["normalizer"]["lowercase"] = False
    path.write_text(json.dumps(values))
    assert not is_plain(folder)
    (folder / "tokenizer_config.json").write_text(
        json.dumps(read_config(folder, "tokenizer_config.json") | {"do_lower_case": False})
    )
    assert_same(folder)


@pytest.mark.parametrize("side", ["padding_side", "truncation_side"])
def test_the_left_side_is_kept(tiny: dict[str, Path], tmp_path: Path, side: str) -> None:
    shutil.copytree(tiny["bert"], tmp_path / "m")
    path = tmp_path / "m" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {side: "left"}))
    assert_same(tmp_path / "m")


def test_a_model_that_pads_on_the_left_is_not_built_but_scores_the_same(tiny: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(tiny["bert"], tmp_path / "m")
    path = tmp_path / "m" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"padding_side": "left"}))
    reranker = CrossEncoderRerankFunction(str(tmp_path / "m"), device="cpu")
    assert reranker.scorer.engine.name == "torch"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"pad_token": "[MASK]"}, 4), ({"pad_token": {"content": "[SEP]"}}, 3), ({"pad_token": None}, 0)],
)
def test_the_padding_token_may_be_any(
    tiny: dict[str, Path], tmp_path: Path, settings: dict[str, Any], expected: int
) -> None:
    folder = with_class(tiny["bert"], tmp_path / "m", "PreTrainedTokenizerFast", **settings)
    assert ours(folder).pad_token_id == expected


def test_a_tokenizer_without_its_fast_file_is_left_to_transformers(tiny: dict[str, Path], tmp_path: Path) -> None:
    folder = with_class(tiny["bert"], tmp_path / "m", "BertTokenizer")
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)), encoding="utf-8")
    (folder / "tokenizer.json").unlink()
    expected = CrossEncoderRerankFunction(str(folder), device="cpu", engine="torch").score(QUERIES[0], TEXTS)
    assert max(expected) - min(expected) > 0.01
    for engine in ("onnx", "openvino"):
        reranker = CrossEncoderRerankFunction(str(folder), device="cpu", engine=engine)
        assert reranker.score(QUERIES[0], TEXTS) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_broken_tokenizer_is_named(tiny: dict[str, Path], tmp_path: Path, content: str) -> None:
    shutil.copytree(tiny["bert"], tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=r"tokenizer\.json (cannot be read|must hold a JSON object)"):
        CrossEncoderRerankFunction(str(tmp_path / "m"), device="cpu", engine="onnx")


# configs and weights


@pytest.mark.parametrize(("content", "words"), [("{", "cannot be read"), ("[1]", "must hold a JSON object, got list")])
def test_a_broken_config_is_named(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=rf"config\.json {words}"):
        read_config(tmp_path)


@pytest.mark.parametrize("config", [{"num_labels": 1}, {"id2label": {"0": "x"}}])
def test_one_label_is_enough(config: dict[str, Any]) -> None:
    check_reranker("m", config)


@pytest.mark.parametrize("config", [{"num_labels": 2}, {"id2label": {"0": "x", "1": "y"}}, {}])
def test_two_labels_are_too_many(config: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="model 'm' has 2 labels; expected one"):
        check_reranker("m", config)


def test_bfloat16_weights_are_read_whatever_was_imported_before(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.tensor([1.5, -2.0], dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
    code = (
        "import sys, pathlib; from milvus_rerank.models.weights import read_array, read_tensors; "
        "print(read_array(read_tensors(pathlib.Path(sys.argv[1]))['a']).astype('float32').tolist())"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[1.5, -2.0]\n"


def test_a_folder_without_safetensors_has_no_weight_files(tmp_path: Path) -> None:
    assert weight_files(tmp_path) == []


# the hub


@pytest.fixture
def hub(tiny: dict[str, Path], tmp_path: Path) -> Path:
    """A hub cache with one model, laid out as the hub client does: blobs, and links to them."""
    home = tmp_path / "hub" / "models--someone--tiny"
    snapshot = home / "snapshots" / ("1" * 40)
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir()
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("1" * 40)
    for number, path in enumerate(sorted(tiny["bert"].iterdir())):
        shutil.copyfile(path, home / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    return tmp_path / "hub"


@pytest.mark.parametrize("engine", ["torch", "onnx", "openvino"])
def test_every_engine_loads_a_cached_model_without_a_network(
    tiny: dict[str, Path], hub: Path, tmp_path: Path, engine: EngineName
) -> None:
    options: dict[str, Any] = {"device": "cpu", "engine": engine}
    reranker = CrossEncoderRerankFunction(
        "someone/tiny", hub=HubOptions(cache_dir=hub), local_files_only=True, **options
    )
    expected = CrossEncoderRerankFunction(str(tiny["bert"]), **options)
    assert reranker.score(QUERIES[0], TEXTS) == expected.score(QUERIES[0], TEXTS)
    assert reranker.model_name == "someone/tiny"


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_a_graph_on_the_hub_is_used(hub: Path, tmp_path: Path, engine: EngineName, tiny: dict[str, Path]) -> None:
    from safetensors.numpy import load_file, save_file

    from milvus_rerank.onnx_graphs.cache import write_built

    snapshot = hub / "models--someone--tiny" / "snapshots" / ("1" * 40)
    changed = tmp_path / "changed"
    shutil.copytree(tiny["bert"], changed)
    weights = load_file(changed / "model.safetensors")
    save_file(weights | {"classifier.bias": weights["classifier.bias"] + 3}, changed / "model.safetensors")
    (snapshot / "onnx").mkdir()
    write_built(snapshot / "onnx" / "model.onnx", read_config(changed), read_tensors(changed), "tiny", with_types=True)
    (snapshot / "model.safetensors").unlink()
    options: dict[str, Any] = {"device": "cpu", "engine": engine}
    made = CrossEncoderRerankFunction("someone/tiny", hub=HubOptions(cache_dir=hub), local_files_only=True, **options)
    expected = CrossEncoderRerankFunction(str(tiny["bert"]), **options).score(QUERIES[0], TEXTS)
    assert made.score(QUERIES[0], TEXTS) == pytest.approx([score + 3 for score in expected], abs=1e-5)


def test_fetching_leaves_the_hub_clients_progress_bars_as_they_were(hub: Path) -> None:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    source = ModelSource("someone/tiny", cache_dir=hub, local_files_only=True)
    was = are_progress_bars_disabled()
    try:
        for change, disabled in ((disable_progress_bars, True), (enable_progress_bars, False)):
            change()
            for show in (True, False):
                assert (fetch_folder(source, ("*",), show_progress=show) / "config.json").is_file()
                assert are_progress_bars_disabled() == disabled
    finally:
        (disable_progress_bars if was else enable_progress_bars)()


def test_a_tokenizer_that_needs_transformers_says_what_to_install(tiny: dict[str, Path], tmp_path: Path) -> None:
    folder = with_class(tiny["bert"], tmp_path / "m", "BertTokenizer", do_lower_case=False)
    code = f"""
import sys
sys.modules.update(torch=None, transformers=None)
from milvus_rerank import CrossEncoderRerankFunction, errors
try:
    CrossEncoderRerankFunction({str(folder)!r})
except errors.MissingDependencyError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.startswith(f"the tokenizer of model {str(folder)!r} needs the packages 'torch' and 'trans")
    assert done.stdout.endswith('Type: pip install "milvus-rerank[torch]"\n')

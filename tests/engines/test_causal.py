"""Language models that say yes or no, against sentence-transformers, and what running a query once changes: nothing."""

import itertools
import json
import shutil
import threading
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pair_texts import QUERIES, TEXTS
from tiny_decoders import CAUSAL, IN_PARTS, ROLES, STRICT, save_causal_model, save_last_token_classifier
from tokenizers import Tokenizer

from milvus_rerank import CrossEncoderRerankFunction
from milvus_rerank.engines.causal_lm import NextToken
from milvus_rerank.engines.torch_engine import TorchEngine
from milvus_rerank.errors import InputError, ModelError
from milvus_rerank.models.chat_template import INSTRUCTION
from milvus_rerank.models.model_type import cache_argument
from milvus_rerank.scoring.scorer import PairScorer

pytestmark = pytest.mark.compat

TEMPLATES = {"roles": ROLES, "parts": IN_PARTS, "none": None}
# Two empty texts without a template are no tokens at all, which sentence-transformers cannot take.
PAIRS = [pair for pair in itertools.product(QUERIES, TEXTS) if any(pair)]


# A query that leaves documents little room in a prompt is cut here, and cuts the documents there.
SHORT = np.array([len(query) < 100 for query, _ in PAIRS])


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("causal")
    return {
        f"{name} {kind}": save_causal_model(name, root / f"{name}-{kind}", template=template)
        for name, (kind, template) in itertools.product(CAUSAL, TEMPLATES.items())
    }


@cache
def reference(folder: Path, max_length: int | None = None, prompt: str | None = None) -> np.ndarray:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), device="cpu", max_length=max_length)
    return np.asarray(model.predict(PAIRS, prompt=prompt, show_progress_bar=False))


@pytest.mark.parametrize("max_length", [None, 90])
@pytest.mark.parametrize("name", [f"{name} {kind}" for name, kind in itertools.product(CAUSAL, TEMPLATES)])
def test_scores_equal_sentence_transformers(causal: dict[str, Path], name: str, max_length: int | None) -> None:
    expected = reference(causal[name], max_length)
    reranker = CrossEncoderRerankFunction(str(causal[name]), device="cpu", max_length=max_length)
    assert np.ptp(expected) > 0.1, "the reference does not tell texts apart"
    compared = SHORT if "none" not in name else slice(None)
    np.testing.assert_allclose(np.array(reranker.score_pairs(PAIRS))[compared], expected[compared], atol=2e-6, rtol=0)


def test_an_instruction_is_told_as_sentence_transformers_tells_it(causal: dict[str, Path]) -> None:
    for name in ("qwen3 roles", "qwen3 parts", "qwen3 none"):
        expected = reference(causal[name], None, "Is it about dogs? ")
        reranker = CrossEncoderRerankFunction(str(causal[name]), device="cpu", prompt="Is it about dogs? ")
        np.testing.assert_allclose(np.array(reranker.score_pairs(PAIRS))[SHORT], expected[SHORT], atol=2e-6, rtol=0)


def test_what_sentence_transformers_saved_is_read(causal: dict[str, Path], tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(
        str(causal["qwen3 roles"]), device="cpu", prompts={"web": "Does it answer?"}, default_prompt_name="web"
    )
    model[1].true_token_id, model[1].false_token_id = 300, None  # other tokens than yes and no
    model.save_pretrained(str(tmp_path / "saved"))
    pairs = [pair for pair, short in zip(PAIRS, SHORT, strict=True) if short]
    expected = model.predict(pairs, show_progress_bar=False)
    reranker = CrossEncoderRerankFunction(str(tmp_path / "saved"), device="cpu")
    assert reranker.scorer.engine.name == "torch"
    np.testing.assert_allclose(reranker.score_pairs(pairs), expected, atol=2e-6, rtol=0)
    raw = CrossEncoderRerankFunction(str(tmp_path / "saved"), device="cpu", activation_fct="raw").score_pairs(pairs)
    np.testing.assert_allclose(expected, 1 / (1 + np.exp(-np.array(raw))), atol=2e-6)


def sharing(folder: Path, *, share: bool, budget: int) -> tuple[PairScorer, NextToken]:
    loaded = CrossEncoderRerankFunction(str(folder), device="cpu", activation_fct="raw").scorer
    model = loaded.engine._model  # type: ignore[attr-defined]
    forward = NextToken(model, 300, 301, share=share)
    return PairScorer(loaded.encoder, TorchEngine(model, forward=forward), max_batch_tokens=budget), forward


@pytest.mark.parametrize("name", [f"{name} roles" for name in CAUSAL])
def test_running_what_documents_share_once_changes_no_score(causal: dict[str, Path], name: str) -> None:
    requests = [(query, TEXTS) for query in QUERIES]
    for budget in (400, 4000):
        plain, _ = sharing(causal[name], share=False, budget=budget)
        shared, forward = sharing(causal[name], share=True, budget=budget)
        found = shared.score(requests)
        assert forward._kept is not None, "nothing was shared"
        np.testing.assert_allclose(np.concatenate(found), np.concatenate(plain.score(requests)), atol=5e-6)


class Renamed(torch.nn.Module):
    """A model whose forward pass takes and gives its cache under a name that other versions of transformers use."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        self.name = cache_argument(model.forward) or ""

    def run(self, name: str, cache: Any, **inputs: Any) -> SimpleNamespace:
        output = self.model(**inputs, **{self.name: cache})
        return SimpleNamespace(**{"logits": output.logits, name: getattr(output, self.name)})


class WithCache(Renamed):
    def forward(
        self,
        input_ids: Any,
        position_ids: Any = None,
        attention_mask: Any = None,
        cache: Any = None,
        use_cache: Any = None,
    ) -> SimpleNamespace:
        inputs = {"input_ids": input_ids, "position_ids": position_ids, "attention_mask": attention_mask}
        return self.run("cache", cache, use_cache=use_cache, **inputs)


class WithPastKeyValues(Renamed):
    def forward(
        self,
        input_ids: Any,
        position_ids: Any = None,
        attention_mask: Any = None,
        past_key_values: Any = None,
        use_cache: Any = None,
    ) -> SimpleNamespace:
        inputs = {"input_ids": input_ids, "position_ids": position_ids, "attention_mask": attention_mask}
        return self.run("past_key_values", past_key_values, use_cache=use_cache, **inputs)


@pytest.mark.parametrize("renamed", [WithCache, WithPastKeyValues])
def test_what_documents_share_is_kept_by_either_name_of_the_cache(
    causal: dict[str, Path], renamed: type[Renamed]
) -> None:
    loaded = CrossEncoderRerankFunction(str(causal["qwen3 roles"]), device="cpu", activation_fct="raw").scorer
    model = renamed(loaded.engine._model)  # type: ignore[attr-defined]
    forward = NextToken(model, 300, 301)
    plain, _ = sharing(causal["qwen3 roles"], share=False, budget=400)
    requests = [(QUERIES[0], TEXTS)]
    scores = PairScorer(loaded.encoder, TorchEngine(model, forward=forward), max_batch_tokens=400).score(requests)
    assert forward._kept is not None, "nothing was shared"
    np.testing.assert_allclose(scores[0], plain.score(requests)[0], atol=5e-6)


def test_what_is_shared_is_computed_once_for_all_batches_of_a_query(causal: dict[str, Path]) -> None:
    scorer, _ = sharing(causal["qwen3 roles"], share=True, budget=300)
    widths: list[tuple[int, int]] = []
    model = scorer.engine._model  # type: ignore[attr-defined]
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    scorer.score([("who barks at night", [f"text number {number}" for number in range(12)])])
    handle.remove()
    beginnings = [shape for shape in widths if shape[0] == 1]
    assert len(beginnings) == 1
    assert len(widths) == 4  # the beginning, and 12 texts in batches of 4
    assert all(rows > 1 and width < beginnings[0][1] for rows, width in widths[1:])


def test_a_sliding_window_shorter_than_a_prompt_is_not_shared(causal: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(causal["gemma2 roles"], tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sliding_window": 16}))
    plain, _ = sharing(tmp_path / "m", share=False, budget=4000)
    shared, forward = sharing(tmp_path / "m", share=True, budget=4000)
    requests = [(QUERIES[0], TEXTS)]
    np.testing.assert_allclose(shared.score(requests)[0], plain.score(requests)[0], atol=1e-6)
    assert forward._kept is None


def decoded(folder: Path, ids: Any) -> str:
    """Return the text of token ids, special tokens included."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return str(tokenizer.decode(list(ids), skip_special_tokens=False))


def test_a_template_without_roles_gets_a_users_message(tmp_path: Path) -> None:
    folder = save_causal_model("qwen3", tmp_path, template=STRICT)
    reranker = CrossEncoderRerankFunction(str(folder), device="cpu")
    encoder: Any = reranker.scorer.encoder
    [row] = encoder.rows([("who barks", "a dog")])
    text = decoded(folder, row.ids)
    assert text.endswith(
        f"<|im_start|>user\n<Instruct>: {INSTRUCTION}\n<Query>: who barks\n<Document>: a dog<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert text.startswith("<|im_start|>system\nJudge whether the Document")
    told = CrossEncoderRerankFunction(str(folder), device="cpu", prompt="Find dogs")
    assert told.score("who barks", ["a dog"]) != reranker.score("who barks", ["a dog"])


def test_mxbais_second_version_is_asked_for_one_or_zero(tmp_path: Path) -> None:
    folder = save_causal_model("qwen2", tmp_path / "mxbai-rerank-base-v2", template=STRICT, answers=("1", "0"))
    reranker = CrossEncoderRerankFunction(str(folder), device="cpu", prompt="Find dogs")
    encoder: Any = reranker.scorer.encoder
    batch = encoder.batch(encoder.rows([("who {barks}?", "a dog.")]))
    ids = batch.input_ids[0].tolist()
    text = decoded(folder, ids)
    assert "<|im_start|>user\ninstruction: Find dogs\nquery: who {barks}?\ndocument: a dog.\nYou are a search" in text
    assert text.endswith("\nRelevance:<|im_end|>\n<|im_start|>assistant\n")
    # The library tokenises each part alone, as the model was trained.
    parts = ["instruction: Find dogs\nquery: who {barks}?", "\n", "document: a dog.", "\n"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    alone = [token for part in parts for token in tokenizer.encode(part, add_special_tokens=False).ids]
    start, end = batch.bounds[0]
    assert alone in [ids[at : at + len(alone)] for at in range(end)]
    assert decoded(folder, ids[start:end]) == "document: a dog."
    vocabulary = tokenizer.get_vocab()
    forward = reranker.scorer.engine._forward  # type: ignore[attr-defined]
    assert (forward._yes, forward._no) == (vocabulary["1"], vocabulary["0"])


def test_a_template_that_drops_texts_is_refused(tmp_path: Path) -> None:
    folder = save_causal_model("qwen3", tmp_path, template="{{ messages | length }} messages")
    with pytest.raises(ModelError, match="renders neither the roles 'query' and 'document' nor a user's message"):
        CrossEncoderRerankFunction(str(folder), device="cpu")


@pytest.mark.parametrize("template", [ROLES, None], ids=["roles", "none"])
def test_a_model_without_a_padding_token_scores_batches(tmp_path: Path, template: str | None) -> None:
    folder = save_causal_model("qwen3", tmp_path, template=template, pad=False)
    reranker = CrossEncoderRerankFunction(str(folder), device="cpu")
    alone = [reranker.score_pairs([pair])[0] for pair in PAIRS[:20]]
    np.testing.assert_allclose(reranker.score_pairs(PAIRS)[:20], alone, atol=2e-6)


def test_two_empty_texts_have_a_score(causal: dict[str, Path]) -> None:
    reranker = CrossEncoderRerankFunction(str(causal["qwen3 none"]), device="cpu")
    [both, one] = reranker.score("", ["", "a dog"])
    assert both != one
    assert reranker.score("", [""]) == pytest.approx([both], abs=2e-6)


@pytest.mark.parametrize("pad", [True, False], ids=["pad", "no pad"])
def test_a_classifier_on_a_language_models_body_reads_the_last_token(tmp_path: Path, pad: bool) -> None:
    from sentence_transformers import CrossEncoder

    folder = save_last_token_classifier(tmp_path / "m", pad=pad)
    reranker = CrossEncoderRerankFunction(str(folder), device="cpu", engine="torch")
    pairs = [pair for pair in PAIRS if all(pair)]
    # The library itself needs a padding token; the weights are the same.
    reference = CrossEncoder(str(save_last_token_classifier(tmp_path / "reference", pad=True)), device="cpu")
    expected = [reference.predict([pair], show_progress_bar=False)[0] for pair in pairs]  # without padding
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(reranker.score_pairs(pairs), expected, atol=2e-6)


def test_a_language_model_that_says_neither_is_refused(tmp_path: Path) -> None:
    folder = save_causal_model("llama", tmp_path, answers=("oui", "non"))
    with pytest.raises(ModelError, match="vocabulary lacks the tokens 'yes' and 'no'"):
        CrossEncoderRerankFunction(str(folder), device="cpu")


def test_a_prompt_longer_than_the_limit_says_what_to_use(causal: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"max_length=20 leaves no room beside the prompt's own \d+ tokens"):
        CrossEncoderRerankFunction(str(causal["qwen3 roles"]), device="cpu", max_length=20)


def test_other_engines_say_that_torch_runs_it(causal: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="is not a sequence classifier: engine 'torch' runs it, 'onnx' does not"):
        CrossEncoderRerankFunction(str(causal["qwen3 roles"]), device="cpu", engine="onnx")


def test_limits_of_a_request_cut_the_document_and_keep_the_prompt(causal: dict[str, Path]) -> None:
    long_documents = [" ".join(f"word{number}" for number in range(count)) for count in (3, 80, 400)]
    encoder: Any = CrossEncoderRerankFunction(str(causal["qwen3 roles"]), device="cpu").scorer.encoder
    for row in encoder.rows([("who", document) for document in long_documents]):
        whole = row.ids[row.start : len(row.ids) - row.tail]
        for left in (False, True):
            short = encoder.shorten(row, document_tokens=5, pair_tokens=None, left=left)
            document = short.ids[short.start : len(short.ids) - short.tail]
            assert document.tolist() == (whole[-5:] if left else whole[:5]).tolist()
            assert short.ids[-short.tail :].tolist() == row.ids[-row.tail :].tolist()
        pair = encoder.shorten(row, document_tokens=None, pair_tokens=row.start + row.tail + 7, left=False)
        assert len(pair.ids) == row.start + row.tail + min(7, len(whole))


def test_options_of_the_template_that_were_saved_are_obeyed(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    template = ROLES.replace("<|im_start|>assistant", "{% if deep %}deep {% endif %}<|im_start|>assistant")
    folder = save_causal_model("qwen3", tmp_path / "m", template=template)
    CrossEncoder(str(folder), device="cpu").save_pretrained(str(tmp_path / "saved"))
    path = tmp_path / "saved" / "sentence_bert_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"processing_kwargs": {"chat_template": {"deep": True}}}))
    expected = CrossEncoder(str(tmp_path / "saved"), device="cpu").predict(PAIRS, show_progress_bar=False)
    found = CrossEncoderRerankFunction(str(tmp_path / "saved"), device="cpu").score_pairs(PAIRS)
    np.testing.assert_allclose(np.array(found)[SHORT], expected[SHORT], atol=2e-6)
    assert (
        np.abs(np.array(found) - CrossEncoderRerankFunction(str(folder), device="cpu").score_pairs(PAIRS)).max() > 0.01
    )


@pytest.mark.parametrize("saved", [False, True], ids=["as it is", "saved"])
def test_a_classifier_with_a_pairs_template_is_prompted(tmp_path: Path, saved: bool) -> None:
    from sentence_transformers import CrossEncoder

    folder = save_last_token_classifier(tmp_path / "m", pad=True, template=ROLES)
    model = CrossEncoder(str(folder), device="cpu")
    if saved:
        folder = tmp_path / "saved"
        model.save_pretrained(str(folder))
    pairs = [pair for pair, short in zip(PAIRS, SHORT, strict=True) if short]
    expected = [model.predict([pair], show_progress_bar=False)[0] for pair in pairs]
    found = CrossEncoderRerankFunction(str(folder), device="cpu").score_pairs(pairs)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    with pytest.raises(InputError, match="has a chat template: engine 'torch' runs it, 'openvino' does not"):
        CrossEncoderRerankFunction(str(folder), device="cpu", engine="openvino")


def test_layers_that_keep_more_than_keys_and_values_are_not_shared(causal: dict[str, Path]) -> None:
    model = CrossEncoderRerankFunction(str(causal["qwen3 roles"]), device="cpu").scorer.engine._model  # type: ignore[attr-defined]
    for name, value in (("layer_types", ["full_attention", "linear_attention"]), ("attention_chunk_size", 8)):
        before = getattr(model.config, name, None)
        assert NextToken(model, 0)._share
        setattr(model.config, name, value)
        assert not NextToken(model, 0)._share
        setattr(model.config, name, before)


def test_a_query_longer_than_the_limit_leaves_documents_room(causal: dict[str, Path]) -> None:
    long = " ".join(f"word{number}" for number in range(500))
    for options in ({}, {"query_max_length": 6}):
        reranker = CrossEncoderRerankFunction(str(causal["qwen3 roles"]), device="cpu", **options)  # type: ignore[arg-type]
        assert len(set(reranker.score(long, ["a dog", "a cat", "the quick brown fox"]))) == 3
        [row] = reranker.scorer.encoder.rows([(long, "a dog")], threading.Event())
        assert len(row.ids) < (80 if options else 480)


def test_long_documents_that_come_one_by_one_share_their_beginning_too(causal: dict[str, Path]) -> None:
    plain, _ = sharing(causal["qwen3 roles"], share=False, budget=1)
    shared, forward = sharing(causal["qwen3 roles"], share=True, budget=1)
    requests = [(QUERIES[0], TEXTS)]
    found = shared.score(requests)[0]
    assert forward._kept is not None
    np.testing.assert_allclose(found, plain.score(requests)[0], atol=5e-6)


def test_a_documents_first_word_is_the_documents(tmp_path: Path) -> None:
    # Qwen splits a blank from the digit behind it, and not from a letter.
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    folder = save_causal_model("qwen3", tmp_path, split=pattern, length=160)
    reranker = CrossEncoderRerankFunction(str(folder), device="cpu", long="chunk")
    document = "turing " + "the quick brown fox " * 60
    encoder: Any = reranker.scorer.encoder
    first, second, *_ = encoder.windows(
        reranker.scorer.encoder.rows([("who", document)], threading.Event())[0], reranker.scorer.chunks
    )
    texts = [decoded(folder, row.ids[row.start : len(row.ids) - row.tail]) for row in (first, second)]
    assert texts[0].strip().startswith("turing the quick")
    assert "turing" not in texts[1]
    assert encoder.span(("who", document), 0, reranker.scorer.chunks)[0] == 0

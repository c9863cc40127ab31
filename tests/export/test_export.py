"""Exported folders: what is in them, what they score, and when nothing is written."""

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import openvino
import pytest
from pair_texts import QUERIES, TEXTS
from safetensors.numpy import load_file, save_file
from tiny_embedder import write_jsonl
from tiny_models import save_tiny_model
from typer.testing import CliRunner

from milvus_rerank import CrossEncoderRerankFunction
from milvus_rerank.cli import app
from milvus_rerank.cli import export as command
from milvus_rerank.errors import InputError, MissingDependencyError, ModelError
from milvus_rerank.export.fidelity import compare_scores, rank_correlation
from milvus_rerank.export.run import FLOOR, ExportOptions, export_model
from milvus_rerank.export.samples import QUERIES as CHECKED
from milvus_rerank.export.samples import Sample, Samples, read_samples
from milvus_rerank.models import ModelSource

pytestmark = pytest.mark.compat

SCORE = """
import json, sys
sys.modules["torch"] = sys.modules["transformers"] = None
from milvus_rerank import CrossEncoderRerankFunction
folder, dtype, engines = sys.argv[1], sys.argv[2], sys.argv[3:]
query, *texts = json.load(sys.stdin)
for engine in engines:
    reranker = CrossEncoderRerankFunction(folder, engine=engine, dtype=dtype)
    print(json.dumps([reranker.scorer.engine.name, reranker.score(query, texts)]))
"""
TOPICS = ("vector search", "the moon", "a moth in a relay", "Unix", "the history of chess machines", "Turing's test")


def score_without_torch(folder: Path, texts: Sequence[str], dtype: str, *engines: str) -> list[list]:
    command = [sys.executable, "-W", "error", "-c", SCORE, str(folder), dtype, *engines]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def export(model: object, target: Path, **options) -> object:
    return export_model(ModelSource(str(model)), target, ExportOptions(**{"engine": "onnx", **options}))


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of queries with 12 documents each."""
    documents = [f"{text} and what it is about" for text in (*TOPICS, *(f"{topic} again" for topic in TOPICS))]
    records = [{"query": f"who wrote about {topic}?", "documents": documents} for topic in TOPICS]
    return write_jsonl(tmp_path_factory.mktemp("texts") / "texts.jsonl", records)


@pytest.fixture
def close(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of queries with documents that score much alike."""
    firsts, seconds = ["old", "new", "red", "lazy", "quick", "brown"], ["fox", "dog", "moth", "test", "query", "relay"]
    documents = [f"the {first} {second} of the computer" for first in firsts for second in seconds]
    records = [{"query": f"{word} one", "documents": documents} for word in ("which", "who", "vector", "Turing")]
    return write_jsonl(tmp_path_factory.mktemp("close") / "close.jsonl", records)


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with weights so large that int8 has no steps left for the others: all its scores become equal."""
    folder = save_tiny_model("distilbert", tmp_path_factory.mktemp("fragile") / "model")
    weights = load_file(folder / "model.safetensors")
    for name in ("weight", "bias"):  # what the large weights multiply, so that float32 does not notice them
        weights[f"distilbert.transformer.layer.1.output_layer_norm.{name}"][0] = 0
    weights["pre_classifier.weight"][:, 0] = 1e6
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


# What is written


@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta"])
def test_a_float32_folder_scores_the_same_without_torch(tiny, tmp_path, architecture):
    (tmp_path / "given").mkdir()
    model = save_tiny_model(architecture, tmp_path / "given" / "model")
    (model / "README.md").write_text("---\nlicense: mit\n---\n")
    (model / "LICENSE").write_text("MIT")
    report = export(model, tmp_path / "made" / "folder")
    folder = tmp_path / "made" / "folder"
    names = ["LICENSE", "README.md", "config.json", "fidelity.json", "onnx/model.onnx", "onnx/model.onnx_data"]
    assert listing(folder) == [*names, "tokenizer.json", "tokenizer_config.json"]
    assert {path.stat().st_mode for path in folder.rglob("*") if path.is_file()} == {
        (folder / "config.json").stat().st_mode
    }
    assert (folder / "README.md").read_text() == "---\nlicense: mit\n---\n"
    expected = CrossEncoderRerankFunction(str(model), engine="torch", device="cpu").score(QUERIES[0], TEXTS)
    assert np.ptp(expected) > 0.01
    made = score_without_torch(folder, [QUERIES[0], *TEXTS], "float32", "onnx", "openvino", "auto")
    assert [name for name, _ in made] == ["onnx", "openvino", "openvino"]
    for _, scores in made:
        np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)
    assert (report.written, report.fidelity, report.size) == (
        True,
        None,
        sum((folder / "onnx" / name).stat().st_size for name in ("model.onnx", "model.onnx_data")),
    )


def test_a_traced_model_is_exported_with_its_weights_beside_it(tiny, tmp_path):
    export(tiny["deberta-v2"], tmp_path / "made")
    assert [name for name in listing(tmp_path / "made") if name.startswith("onnx/")] == [
        "onnx/model.onnx",
        "onnx/model.onnx_data",
    ]
    expected = CrossEncoderRerankFunction(str(tiny["deberta-v2"]), engine="torch", device="cpu").score("中文", TEXTS)
    [(_, scores)] = score_without_torch(tmp_path / "made", ["中文", *TEXTS], "float32", "onnx")
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)


def test_a_tokenizer_that_only_transformers_reads_right_is_written_so_that_all_do(tiny, tmp_path):
    model = save_tiny_model("bert", tmp_path / "model")
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "BertTokenizer", "do_lower_case": False}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    queries = ["WHO proposed a TEST", *TEXTS, "Turing PROPOSED It"]
    expected = CrossEncoderRerankFunction(str(model), engine="torch", device="cpu").score(queries[0], queries[1:])
    lower = CrossEncoderRerankFunction(str(tiny["bert"]), engine="torch", device="cpu").score(queries[0], queries[1:])
    assert np.abs(np.subtract(expected, lower)).max() > 0.01
    export(model, tmp_path / "made")
    [(_, scores)] = score_without_torch(tmp_path / "made", queries, "float32", "onnx")
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)


def test_float32_is_checked_against_torch_where_texts_are_given(tiny, tmp_path, close):
    told = []
    options = ExportOptions("openvino", texts=str(close), queries=3)
    report = export_model(ModelSource(str(tiny["bert"])), tmp_path / "made", options, lambda *step: told.append(step))
    assert (report.reference, report.fidelity.queries, report.fidelity.top_10) == ("torch float32", 3, 10)
    assert report.fidelity.difference < 1e-5
    assert told == [(stage, done, 3) for stage in ("float32", "exported") for done in (1, 2, 3)]


def test_an_exported_folder_can_be_exported_again(tiny, tmp_path, texts):
    export(tiny["bert"], tmp_path / "one")
    export(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two/onnx/model.onnx_data").read_bytes() == (tmp_path / "one/onnx/model.onnx_data").read_bytes()
    assert listing(tmp_path / "two") == listing(tmp_path / "one")
    export(tmp_path / "one", tmp_path / "one", dtype="int8", texts=str(texts), force=True)
    assert {*listing(tmp_path / "one")} - {*listing(tmp_path / "two")} == {"onnx/model_qint8.onnx"}


def test_int8_of_the_built_in_model_is_smaller_and_keeps_the_order(tmp_path, texts):
    report = export("builtin/rerank", tmp_path / "made", dtype="int8", texts=str(texts), floor=8)
    fidelity = report.fidelity
    assert (fidelity.queries, fidelity.pairs, fidelity.ndcg_change) == (6, 72, None)
    assert 8 <= fidelity.top_10 <= 10
    assert 0.8 < fidelity.spearman < 0.9999
    floats = 4 * 15_220_000  # the model's parameters
    assert floats / 4 < report.size < floats / 3.8, "not all weights are int8"
    assert 0.01 < fidelity.difference < 2
    assert [name for name in listing(tmp_path / "made") if "/" in name] == ["onnx/model_qint8.onnx"]
    samples = read_samples(str(texts), 10).samples
    exact, made = (
        CrossEncoderRerankFunction(name, engine="onnx", device="cpu", dtype=dtype)
        for name, dtype in (("builtin/rerank", "float32"), (str(tmp_path / "made"), "int8"))
    )
    assert made.scorer.engine.dtype == "int8"
    scores = [
        np.array([reranker.score(sample.query, sample.documents) for sample in samples]) for reranker in (exact, made)
    ]
    assert fidelity.difference == pytest.approx(np.abs(scores[0] - scores[1]).max(), abs=1e-4)
    record = json.loads((tmp_path / "made/fidelity.json").read_text())["exports"]["onnx/model_qint8.onnx"]
    assert record["fidelity"] == fidelity.to_dict()
    assert (record["texts"], record["method"], record["reference"]) == ("texts.jsonl", "dynamic", "onnx float32")
    assert {"milvus-rerank", "onnxruntime", "onnx"} <= record["versions"].keys()


def test_a_folder_takes_another_precision_of_the_same_model_and_no_other(tiny, tmp_path, texts):
    made = tmp_path / "made"
    export(tiny["bert"], made)
    before = {name: (made / name).read_bytes() for name in listing(made) if name != "fidelity.json"}
    export(tiny["bert"], made, dtype="int8", texts=str(texts), force=True)
    after = {name: (made / name).read_bytes() for name in listing(made)}
    assert {**before, **after} == after
    assert json.loads(after["fidelity.json"])["exports"].keys() == {"onnx/model.onnx", "onnx/model_qint8.onnx"}
    with pytest.raises(InputError, match=r"holds onnx/model_qint8\.onnx already"):
        export(tiny["bert"], made, dtype="int8", texts=str(texts), force=True)
    with pytest.raises(InputError, match="with other weights; give another folder"):
        export(tiny["electra"], made)
    assert {name: (made / name).read_bytes() for name in listing(made)} == after
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("method", ["dynamic", "calibrated"])
def test_int8_for_openvino_is_calibrated_and_checked_on_different_queries(tiny, tmp_path, close, method):
    options = {"engine": "openvino", "dtype": "int8", "method": method, "texts": str(close), "force": True}
    report = export(tiny["bert"], tmp_path / "made", **options)
    assert (report.calibration_queries, report.fidelity.queries) == (1, 3)
    assert 0 < report.fidelity.difference < 0.2
    files = ["openvino/openvino_model_qint8.bin", "openvino/openvino_model_qint8.xml"]
    assert [name for name in listing(tmp_path / "made") if "/" in name] == files
    sample = read_samples(str(close), 1).samples[0]
    [(_, scores)] = score_without_torch(tmp_path / "made", [sample.query, *sample.documents], "int8", "openvino")
    exact = CrossEncoderRerankFunction(str(tiny["bert"]), engine="openvino").score(sample.query, sample.documents)
    assert 0 < np.abs(np.subtract(scores, exact)).max() < 0.2


def test_int8_for_openvino_takes_traced_graphs_too_and_needs_nncf_for_calibrated_alone(
    tiny, tmp_path, close, monkeypatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "nncf" else find_spec(name))
    options = {"engine": "openvino", "dtype": "int8", "texts": str(close), "force": True}
    report = export(tiny["deberta-v2"], tmp_path / "made", **options)
    assert 0 < report.fidelity.difference < 0.2
    graph = openvino.Core().read_model(tmp_path / "made/openvino/openvino_model_qint8.xml")
    kinds = [node.get_element_type().get_type_name() for node in graph.get_ops() if node.get_type_name() == "Constant"]
    assert kinds.count("i8") > 8
    with pytest.raises(MissingDependencyError, match=r"this export needs the package 'nncf'"):
        export(tiny["bert"], tmp_path / "other", method="calibrated", **options)


# When nothing is written


def test_below_the_floor_nothing_is_written_unless_forced(fragile, tmp_path, close):
    options = {"dtype": "int8", "texts": str(close), "floor": 10.0}
    report = export(fragile, tmp_path / "deep" / "made", **options)
    assert report.fidelity.top_10 < 8
    assert (report.written, list(tmp_path.iterdir())) == (False, [])
    forced = export(fragile, tmp_path / "deep" / "made", **options, force=True)
    assert (forced.written, forced.fidelity) == (True, report.fidelity)
    assert (tmp_path / "deep/made/onnx/model_qint8.onnx").is_file()


def test_what_fails_in_the_middle_leaves_nothing(tiny, tmp_path, texts):
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "exported":
            raise KeyboardInterrupt

    options = ExportOptions("onnx", dtype="int8", texts=str(texts))
    with pytest.raises(KeyboardInterrupt):
        export_model(ModelSource(str(tiny["bert"])), tmp_path / "made", options, stop)
    assert list(tmp_path.iterdir()) == []
    model = save_tiny_model("bert", tmp_path / "model")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read"):
        export(model, tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_with_other_files_is_left_alone(tiny, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files; give one that does not exist yet or is empty"):
        export(tiny["bert"], tmp_path)
    with pytest.raises(InputError, match="is a file; give a folder"):
        export(tiny["bert"], tmp_path / "notes.txt")
    assert listing(tmp_path) == ["notes.txt"]


def test_a_graph_cannot_have_other_files_copied(tiny, tmp_path):
    import onnx

    export(tiny["bert"], tmp_path / "one")
    path = tmp_path / "one/onnx/model.onnx"
    graph = onnx.load(path, load_external_data=False)
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../config.json"
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(ModelError, match=r"keeps weights in '\.\./config\.json', outside its own folder"):
        export(tmp_path / "one", tmp_path / "two")


def test_onnx_has_no_calibrated_int8(tiny, tmp_path, texts):
    with pytest.raises(InputError, match="'dynamic' only; use that, or engine 'openvino'"):
        export(tiny["bert"], tmp_path / "made", dtype="int8", method="calibrated", texts=str(texts))


def test_int8_without_texts_says_why_and_what_to_type(tiny, tmp_path):
    with pytest.raises(
        InputError, match=r"only written after a check on yours(.|\n)*--texts FILE(.|\n)*--texts builtin"
    ):
        export(tiny["bert"], tmp_path / "made", dtype="int8")


# Texts


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"query": "a"}', r"texts\.jsonl:2: 'documents' is missing; the object has the keys \['query'\]; expected"),
        ('{"query": "a", "documents": "b"}', r"texts\.jsonl:2: 'documents' is no list of strings"),
        ('{"query": "a", "documents": ["b", 3]}', r"texts\.jsonl:2: 'documents' is no list of strings"),
        ('{"documents": ["b"]}', r"texts\.jsonl:2: 'query' is missing; .*expected JSON lines of \{\"query\""),
        ('{"query": 1, "documents": ["b"]}', r"texts\.jsonl:2: 'query' is no string"),
        ("{", r"texts\.jsonl:2: is not JSON"),
    ],
)
def test_a_wrong_line_of_texts_is_named(tmp_path, line, message):
    good = json.dumps({"query": "a", "documents": ["b"] * 11})
    (tmp_path / "texts.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(InputError, match=message):
        read_samples(str(tmp_path / "texts.jsonl"), 10)


def test_texts_that_cannot_show_a_change_are_refused(tmp_path):
    with pytest.raises(InputError, match="no file or folder nowhere; expected JSON lines"):
        read_samples("nowhere", 10)
    path = write_jsonl(tmp_path / "short.jsonl", [{"query": "a", "documents": ["b"] * 10}])
    with pytest.raises(InputError, match=r"no query with more than 10 documents \(the most is 10\)"):
        read_samples(str(path), 10)


def test_queries_with_few_documents_are_left_out_and_the_rest_is_spread(tmp_path):
    records = [{"query": str(number), "documents": ["x"] * (5 if number == 3 else 11)} for number in range(10)]
    samples = read_samples(str(write_jsonl(tmp_path / "t.jsonl", records)), 4)
    assert [sample.query for sample in samples.samples] == ["0", "2", "5", "7"]
    assert (samples.name, samples.pairs, samples.judgments) == ("t.jsonl", 44, None)


def test_calibration_and_check_have_different_queries():
    texts = Samples("t", tuple(Sample(str(number), "", (), ()) for number in range(12)))
    calibration, checked = texts.split()
    assert [sample.id for sample in calibration.samples] == ["0", "5", "10"]
    assert [sample.id for sample in checked.samples] == ["1", "2", "3", "4", "6", "7", "8", "9", "11"]
    with pytest.raises(InputError, match="calibration and check need different ones"):
        Samples("t", texts.samples[:1]).split()


def test_a_beir_folder_gives_candidates_and_judgments():
    samples = read_samples("builtin", 5)
    assert (samples.name, len(samples.samples), samples.pairs) == ("builtin", 5, 250)
    first = samples.samples[0]
    assert (first.id, len(set(first.ids))) == ("q01", 50)
    assert "dartmouth-proposal" in first.ids[:10]
    assert samples.judgments["q01"]["dartmouth-proposal"] == 2


# Figures


def samples_of(*counts: int, judgments: dict | None = None) -> Samples:
    rows = (
        Sample(f"q{number}", "", tuple(f"d{place}" for place in range(count)), ("",) * count)
        for number, count in enumerate(counts)
    )
    return Samples("t", tuple(rows), judgments)


def test_figures_of_a_swap_at_the_tenth_place():
    falling = [float(number) for number in range(12, 0, -1)]
    swapped = [*falling[:9], 2.0, 3.5, 1.0]  # the tenth and the eleventh
    fidelity = compare_scores(samples_of(12, 12), [falling, falling], [swapped, falling])
    assert (fidelity.queries, fidelity.pairs) == (2, 24)
    assert (fidelity.top_10, fidelity.least_top_10) == (9.5, 9)
    assert fidelity.spearman == pytest.approx((1 - 6 * 2 / (12 * 143) + 1) / 2)
    assert fidelity.difference == 1.5
    assert fidelity.ndcg_change is None


def test_ties_are_ordered_by_place_in_both():
    rising, level = [float(number) for number in range(12)], [0.5] * 12
    assert compare_scores(samples_of(12), [level], [level]).top_10 == 10
    fidelity = compare_scores(samples_of(12), [rising], [level])  # the last ten against the first ten
    assert (fidelity.top_10, fidelity.spearman, fidelity.difference) == (8, 0, 10.5)


def test_rank_correlation_shares_ranks_among_equals():
    cases = {
        ((1, 2, 2, 3), (1, 2, 3, 4)): 4.5 / np.sqrt(4.5 * 5),
        ((1, 2, 3), (3, 2, 1)): -1,
        ((1, 10, 100), (0.1, 0.2, 0.3)): 1,
        ((1, 1, 1), (1, 2, 3)): 0,
        ((1, 1, 1), (2, 2, 2)): 1,
    }
    for (left, right), expected in cases.items():
        assert rank_correlation(np.array(left), np.array(right)) == pytest.approx(expected)


def test_ndcg_is_compared_where_judged():
    judgments = {"q0": {"d0": 1}, "elsewhere": {"d0": 1}}
    falling = [float(number) for number in range(12, 0, -1)]
    second = [11.5, 12.0, *falling[2:]]
    fidelity = compare_scores(samples_of(12, judgments=judgments), [falling], [second])
    assert fidelity.ndcg_before == pytest.approx(1)
    assert fidelity.ndcg_after == pytest.approx(1 / np.log2(3))
    assert fidelity.to_dict()["ndcg_change"] == pytest.approx(1 / np.log2(3) - 1)


# The command


def test_the_command_prints_figures_and_ends_with_1_below_the_floor(fragile, tmp_path, close):
    arguments = ["export", str(fragile), str(tmp_path / "made"), "--dtype", "int8", "--engine", "onnx"]
    arguments += ["--texts", str(close), "--floor", "10"]
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, list(tmp_path.iterdir())) == (1, [])
    assert "close.jsonl: 4 queries, 144 pairs" in done.stdout
    assert "of 10, floor 10; least of a query" in done.stdout
    for words in ("--engine openvino, whose int8 is more exact", 'dtype="auto"', "--force"):
        assert words in done.stderr
    done = CliRunner().invoke(app, [*arguments, "--force", "--json"])
    printed = json.loads(done.stdout)
    assert (done.exit_code, printed["written"], printed["file"]) == (0, True, "onnx/model_qint8.onnx")
    assert printed["fidelity"]["top_10"] < 8


def test_the_help_states_the_defaults_of_the_code():
    assert (command.FLOOR, command.QUERIES) == (FLOOR, CHECKED)
    assert f"[default: {FLOOR}]" in " ".join(CliRunner().invoke(app, ["export", "--help"]).stdout.split())


def test_a_method_for_float32_is_wrong_usage(tiny, tmp_path):
    done = CliRunner().invoke(app, ["export", str(tiny["bert"]), str(tmp_path / "made"), "--method", "dynamic"])
    assert done.exit_code == 2
    assert "float32 is exact" in done.stderr

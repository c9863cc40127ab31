"""Export a model as a folder that needs no torch: float32 or int8, checked on the user's texts."""

import json
import logging
import os
import platform
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from milvus_rerank.engines.base import Batch
from milvus_rerank.engines.cpu import multiplies_bytes
from milvus_rerank.engines.select import EngineName
from milvus_rerank.errors import InputError
from milvus_rerank.export.fidelity import Fidelity, Scores, compare_scores
from milvus_rerank.export.publish import RECORD, held_record, publish, workplace
from milvus_rerank.export.quantize import quantize
from milvus_rerank.export.samples import BUILTIN, QUERIES, Samples, read_samples, spread
from milvus_rerank.export.write import FLOAT32, copy_small_files, fetch_original, original_key, write_float32
from milvus_rerank.inventory import installed_version
from milvus_rerank.loading.load import CPU_BATCH_TOKENS, load_scorer
from milvus_rerank.loading.options import LoadOptions
from milvus_rerank.models import ModelSource
from milvus_rerank.onnx_graphs.files import GraphDtype, GraphEngine, Int8Method
from milvus_rerank.requirements import ENGINES as ENGINE_PACKAGES
from milvus_rerank.requirements import missing, require
from milvus_rerank.scoring.batching import cut
from milvus_rerank.validation import check_choice, check_count

logger = logging.getLogger(__name__)

FLOOR = 9.5
"""The number of top-10 documents that an export must share with float32; the mean over the queries.

Of the dynamic int8 forms of builtin/rerank, OpenVINO's shares 9.80 on the package's collection and 9.85 on cranfield
(20 queries each, Spearman 0.998 both times). ONNX Runtime's shares 9.15 and 8.90 (Spearman 0.982 and 0.972), and loses
0.02 of nDCG@10.
"""
CALIBRATION_PAIRS = 600
"""The most pairs to calibrate with: on 50 queries of cranfield and cisi, int8 shares 9.52 with 300, 9.60 with 600."""
_FILES = {
    ("openvino", "float32"): FLOAT32,
    ("onnx", "float32"): FLOAT32,
    ("openvino", "int8"): "openvino/openvino_model_qint8.xml",
    ("onnx", "int8"): "onnx/model_qint8.onnx",
}
_PACKAGES = ("milvus-rerank", "openvino", "nncf", "onnxruntime", "onnx", "torch", "transformers", "tokenizers", "numpy")

Progress = Callable[[str, int, int], object]
"""A function called with the stage, the amount done, and the total."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Options of an export.

    :param engine: ``openvino`` or ``onnx``: the engine that runs the check and that int8 is made for.
    :param dtype: ``float32`` or ``int8``.
    :param method: the method of int8 quantisation: ``dynamic`` or ``calibrated``.
    :param texts: the texts of the check, as :func:`~milvus_rerank.export.samples.read_samples` takes them; None for no
        check, which int8 does not allow.
    :param queries: the most queries to check with.
    :param floor: the number of top-10 documents that must be shared; the mean over the queries.
    :param max_length: the most tokens of a pair in the check; None for the model's limit.
    :param force: write the folder even below the floor.
    """

    engine: GraphEngine
    dtype: GraphDtype = "float32"
    method: Int8Method = "dynamic"
    texts: str | None = None
    queries: int = QUERIES
    floor: float = FLOOR
    max_length: int | None = None
    force: bool = False

    def check(self, model: str) -> None:
        """Raise if the options cannot be used; ``model`` is for the command in an error."""
        for name, choices in (("engine", GraphEngine), ("dtype", GraphDtype), ("method", Int8Method)):
            check_choice(getattr(self, name), name, get_args(choices))
        if self.engine == "onnx" and self.method == "calibrated":
            raise InputError("engine 'onnx' supports method 'dynamic', got 'calibrated'; use that or engine 'openvino'")
        check_count(self.queries, "queries")
        if not 0 <= self.floor <= 10:
            raise InputError(f"floor must be from 0 to 10 shared documents, got {self.floor}")
        if self.dtype == "int8" and self.texts is None:
            raise InputError(
                "int8 changes scores, and by how much depends on the texts, so it is only written after a check on "
                f"yours. Type: milvus-rerank export {model} FOLDER --dtype int8 --texts FILE, where FILE has lines of "
                '{"query": "...", "documents": ["...", ...]} or is a BEIR folder; or --texts builtin for the '
                "package's collection"
            )
        needed = list(ENGINE_PACKAGES[self.engine])
        if self.dtype == "int8" and self.method == "calibrated":
            needed.append("nncf")
        if self.texts is not None and (self.texts == BUILTIN or Path(self.texts).is_dir()):
            needed.append("ir_measures")
        if self.dtype == "float32" and self.texts is not None:
            needed += ENGINE_PACKAGES["torch"]
        require("this export", *needed)

    @property
    def file(self) -> str:
        """The graph's file name in the exported folder."""
        return _FILES[self.engine, self.dtype]

    @property
    def calibrated(self) -> bool:
        """True if making the graph needs texts, not only its check."""
        return self.dtype == "int8" and self.engine == "openvino"


@dataclass(frozen=True, slots=True)
class ExportReport:
    """The result of an export.

    :param model: the model's name.
    :param folder: the target folder.
    :param written: False if the fidelity is below the floor and nothing was written.
    :param options: the options of the export.
    :param size: the bytes of the graph and its weights.
    :param texts: the texts of the check; None for no check.
    :param calibration_queries: the number of other queries used for calibration.
    :param fidelity: the figures of the check.
    """

    model: str
    folder: Path
    written: bool
    options: ExportOptions
    size: int
    texts: str | None
    calibration_queries: int
    fidelity: Fidelity | None

    @property
    def reference(self) -> str | None:
        """The scores that the check compares with."""
        if self.fidelity is None:
            return None
        return f"{'torch' if self.options.dtype == 'float32' else self.options.engine} float32"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-safe Python values, with the versions of the packages used."""
        options = asdict(self.options)
        if self.options.dtype == "float32":
            del options["method"]
        return {
            "model": self.model,
            "folder": str(self.folder),
            "file": self.options.file,
            "written": self.written,
            **options,
            "texts": self.texts,
            "size": self.size,
            "calibration_queries": self.calibration_queries,
            "reference": self.reference,
            "fidelity": self.fidelity and self.fidelity.to_dict(),
            "machine": platform.platform(),
            "versions": {name: version for name in _PACKAGES if (version := installed_version(name))},
        }


def default_engine() -> GraphEngine:
    """Return ``openvino`` if it is installed, else ``onnx``."""
    return "onnx" if missing(*ENGINE_PACKAGES["openvino"]) else "openvino"


def export_model(
    source: ModelSource, target: Path, options: ExportOptions, progress: Progress = lambda stage, done, total: None
) -> ExportReport:
    """Write a model as a folder that loads without torch; the folder appears whole or not at all.

    An existing folder must be empty, or an export of the same model without this graph.

    :param source: the model.
    :param target: the folder to write.
    :param options: the options of the export.
    :param progress: called with the progress of the scoring.
    :returns: the report; below the floor nothing is written unless ``options.force`` is set.
    """
    options.check(source.name)
    if options.dtype == "int8" and multiplies_bytes() is False:
        logger.warning(
            "this CPU has neither VNNI nor AMX, so int8 brings little here: with OpenVINO it was slower than float32 "
            "(0.92 times), with ONNX Runtime 1.37 times as fast, but with 9 of the top 10 documents; on such a CPU use "
            "float32, and export int8 only for other machines"
        )
    destination = Path(os.path.abspath(target))
    calibration, checked = _texts(options)
    folder = fetch_original(source)
    key = original_key(folder)
    record = held_record(destination, key, options.file) or {"model": source.name, "key": key, "exports": {}}
    with workplace(destination) as work:
        exported = _make(source, folder, work, options, calibration)
        fidelity = _check(source, work, exported, options, checked, progress) if checked else None
        report = ExportReport(
            model=source.name,
            folder=target,
            written=fidelity is None or options.force or fidelity.top_10 >= options.floor,
            options=options,
            size=sum(path.stat().st_size for path in (exported / options.file).parent.iterdir()),
            texts=checked.name if checked else None,
            calibration_queries=len(calibration.samples) if calibration else 0,
            fidelity=fidelity,
        )
        if report.written:
            entry = {name: value for name, value in report.to_dict().items() if name not in ("folder", "written")}
            record["exports"][options.file] = entry
            (exported / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            publish(exported, destination, options.file)
    return report


def _texts(options: ExportOptions) -> tuple[Samples | None, Samples | None]:
    """Return the texts for calibration and those for the check: different queries."""
    if options.texts is None:
        return None, None
    texts = read_samples(options.texts, options.queries)
    return texts.split() if options.calibrated else (None, texts)


def _make(source: ModelSource, folder: Path, work: Path, options: ExportOptions, calibration: Samples | None) -> Path:
    """Write the float32 folder and, for int8, the int8 folder; return the requested folder."""
    base, exported = work / "float32", work / options.dtype
    write_float32(source, folder, base)
    if exported != base:
        copy_small_files(base, exported)
        (exported / options.file).parent.mkdir()
        batches = _batches(base, options, calibration) if calibration else []
        quantize(base / FLOAT32, exported / options.file, engine=options.engine, method=options.method, batches=batches)
    return exported


def _batches(base: Path, options: ExportOptions, calibration: Samples) -> list[Batch]:
    encoder = load_scorer(_load_options(ModelSource(str(base)), options.engine, "float32", options)).encoder
    pairs = [(sample.query, text) for sample in calibration.samples for text in sample.documents]
    chosen = spread(pairs, CALIBRATION_PAIRS)
    rows = encoder.rows(chosen, threading.Event())
    lengths = [encoder.length(row) for row in rows]
    return [encoder.batch([rows[index] for index in batch]) for batch in cut(lengths, CPU_BATCH_TOKENS)]


def _check(
    source: ModelSource, work: Path, exported: Path, options: ExportOptions, texts: Samples, progress: Progress
) -> Fidelity:
    """Compare int8 with float32 on the same engine, or float32 with torch."""
    reference = _load_options(ModelSource(str(work / "float32")), options.engine, "float32", options)
    if options.dtype == "float32":
        reference = _load_options(source, "torch", "float32", options)
    candidate = _load_options(ModelSource(str(exported)), options.engine, options.dtype, options)
    before = _scores(reference, texts, lambda done: progress("float32", done, len(texts.samples)))
    after = _scores(candidate, texts, lambda done: progress("exported", done, len(texts.samples)))
    return compare_scores(texts, before, after)


def _load_options(source: ModelSource, engine: EngineName, dtype: GraphDtype, options: ExportOptions) -> LoadOptions:
    return LoadOptions(source, device="cpu", engine=engine, dtype=dtype, max_length=options.max_length)


def _scores(options: LoadOptions, texts: Samples, progress: Callable[[int], object]) -> Scores:
    scorer = load_scorer(options)
    scores = []
    for done, sample in enumerate(texts.samples, 1):
        scores += scorer.score([(sample.query, sample.documents)])
        progress(done)
    return scores

"""Export a model, and list what is written."""

from pathlib import Path
from typing import Any

from milvus_rerank.export.run import ExportOptions, ExportReport, export_model
from milvus_rerank.models import ModelSource


def export(model: object, target: Path, **options: Any) -> ExportReport:
    return export_model(ModelSource(str(model)), target, ExportOptions(**{"engine": "onnx", **options}))


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

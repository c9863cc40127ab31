"""Selection of the engine that runs a model: a table of abilities, and a reason for each engine that is not taken."""

import logging
from dataclasses import dataclass

from milvus_rerank.errors import InputError
from milvus_rerank.loading.inspect import ModelInfo
from milvus_rerank.loading.options import LoadOptions
from milvus_rerank.models.model_type import ModelType
from milvus_rerank.onnx_graphs.architectures import float32_bytes
from milvus_rerank.onnx_graphs.files import find_carried
from milvus_rerank.requirements import ENGINES as PACKAGES
from milvus_rerank.requirements import missing, require

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Abilities:
    """Abilities of an engine.

    :param dtypes: the precisions that it runs.
    :param model_types: the types of model that it runs.
    :param needs_graph: whether it runs an ONNX graph, shipped with the model or built from the weights.
    :param on_gpu: whether it also runs on devices other than the CPU.
    """

    dtypes: frozenset[str]
    model_types: frozenset[ModelType]
    needs_graph: bool
    on_gpu: bool


_CLASSIFIERS: frozenset[ModelType] = frozenset({"classifier"})
_ALL: frozenset[ModelType] = frozenset({"classifier", "causal", "layerwise", "lightweight", "library"})
TABLE = {
    "openvino": Abilities(
        frozenset({"auto", "float32", "float16", "bfloat16", "int8"}), _CLASSIFIERS, needs_graph=True, on_gpu=False
    ),
    "onnx": Abilities(frozenset({"auto", "float32", "float16", "int8"}), _CLASSIFIERS, needs_graph=True, on_gpu=False),
    "torch": Abilities(frozenset({"auto", "float32", "float16", "bfloat16"}), _ALL, needs_graph=False, on_gpu=True),
}
"""Engines by name, the fastest on a CPU first."""

LARGE = 1_000_000_000
"""Bytes of float32 weights from which on ``onnx`` comes before ``openvino``: for a model of bge-reranker-v2-m3's shape
both took the same time, but OpenVINO's process held twice as much memory (benchmarks/results/replicas.json)."""


def select_engine(info: ModelInfo, options: LoadOptions, device: str) -> str:
    """Return the engine that runs a model.

    With ``engine="auto"`` that is the first engine of :data:`TABLE` that is installed and can run the model without a
    trace by torch. For models above :data:`LARGE` in float32, ``onnx`` comes first, which takes less memory. A debug
    log line says why each engine before it is not taken.

    :param info: the model.
    :param options: the requested engine and dtype, among others.
    :param device: the device, as :func:`~milvus_rerank.engines.select.choose_device` returns it.
    :returns: ``openvino``, ``onnx`` or ``torch``.
    :raises InputError: if no engine can run the model with these options, with the reason for each engine.
    :raises MissingDependencyError: if an engine that can run it is not installed.
    """
    reasons: dict[str, str] = {}
    by_size = float32_bytes(info.config) > LARGE and options.dtype == "float32"
    automatic = ("onnx", "openvino", "torch") if by_size else tuple(TABLE)
    for name in automatic if options.engine == "auto" else (options.engine,):
        reason = _reason_against(name, info, options, device)
        if not reason:
            skipped = "".join(f"; not {other}: {why}" for other, why in reasons.items())
            logger.debug("engine %s runs model %s%s", name, info.source.name, skipped)
            return name
        reasons[name] = reason
    raise _none_left(reasons, info, options, device)


def _reason_against(name: str, info: ModelInfo, options: LoadOptions, device: str) -> str:
    """Return the reason why an engine cannot run a model; "" if it can."""
    abilities = TABLE[name]
    if options.dtype not in abilities.dtypes or not (device == "cpu" or abilities.on_gpu):
        return f"it has no dtype {options.dtype!r} on {device}"
    if absent := missing(*PACKAGES[name]):
        return f"{' and '.join(absent)} not installed"
    model, other = f"model {info.source.name!r}", f"engine 'torch' runs it, {name!r} does not"
    if info.model_type not in abilities.model_types and not (info.head is not None and info.can_build):
        return f"{model} is not a sequence classifier: {other}"
    if not abilities.needs_graph:
        return ""
    if info.has_chat_template and options.flag is None:
        return f"{model} has a chat template: {other}"
    if info.head is not None:  # a graph that is shipped with it would lack the head
        return "" if options.dtype != "int8" else f"{model} consists of modules, which are not exported in int8"
    if find_carried(info.files, name, options.dtype) is not None:
        return ""
    if options.dtype == "int8":
        command = f"milvus-rerank export {info.source.name} FOLDER --dtype int8 --engine {name} --texts FILE"
        return (
            f"{model} carries no int8 files for engine {name!r}. Make them, checked on your own texts: "
            f"{command}; then load FOLDER"
        )
    if options.engine == "auto" and not info.can_build:
        return f"{model} must be traced by torch first; ask for engine={name!r} to do so"
    return ""


def _none_left(reasons: dict[str, str], info: ModelInfo, options: LoadOptions, device: str) -> InputError:
    """Return the error if no engine can run the model. Raise another error if only a package is missing."""
    on_device = {name: row for name, row in TABLE.items() if device == "cpu" or row.on_gpu}
    able = [name for name, row in on_device.items() if options.dtype in row.dtypes]
    if options.engine != "auto":
        if options.engine not in able:
            choices = " or ".join(map(repr, able)) or "another dtype"
            return InputError(f"engine {options.engine!r} has no dtype {options.dtype!r} on {device}; use {choices}")
        require(f"engine {options.engine!r}", *PACKAGES[options.engine])
        return InputError(reasons[options.engine])
    if not able:
        return InputError(f"dtype {options.dtype!r} needs the CPU, got device {device!r}")
    if all(missing(*PACKAGES[name]) for name in able):
        base = "onnx" if "onnx" in able else able[0]  # the engine that milvus-rerank itself installs
        require("running a cross-encoder", *PACKAGES[base])
    if "torch" in able:  # torch runs every model, so only its packages can be missing
        require(f"model {info.source.name!r}", *PACKAGES["torch"])
    why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    return InputError(f"no engine runs model {info.source.name!r} in {options.dtype} on {device}: {why}")

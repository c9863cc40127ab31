"""Weights in safetensors files: the place of each in its file, and whether the files are whole. Reads no numbers."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milvus_rerank.errors import ModelError
from milvus_rerank.models.files import check_file, read_config

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"

IN_GRAPHS = ("F32", "F16", "BF16")
"""Types that an ONNX graph reads from a model's own files."""

_LONGEST_HEADER = 100_000_000  # bytes; the format's own limit
_BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16}
_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_SCALES = re.compile(
    r"\.(SCB|absmax|quant_map|nested_absmax|weight_scale|weight_scale_inv|input_scale|scales|qweight|qzeros|g_idx)$"
    r"|\.(quant_state|weight_format)\b"
)
"""Names of what quantised weights keep beside their numbers: bitsandbytes, GPTQ, AWQ, compressed-tensors, fp8."""
_WRAPPERS = ("module.", "_orig_mod.")
_NEW_NAMES = {"gamma": "weight", "beta": "bias"}
_OLD_NAME = re.compile(r"(?<=LayerNorm\.)(gamma|beta)$")


@dataclass(frozen=True, slots=True)
class Tensor:
    """Place of one weight in a safetensors file.

    :param path: the file, not a link to it.
    :param dtype: the format's name of its type, such as ``F32`` or ``BF16``.
    :param shape: its shape.
    :param start: its first byte in the file.
    :param size: its bytes.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


def weight_files(folder: Path, whole: str = WHOLE, index: str = INDEX) -> list[Path]:
    """Return the files of a model's weights: a single file, the files of an index, or an empty list."""
    path = folder / whole
    if path.exists() or not (folder / index).exists():  # the order in which transformers looks
        return [path] if path.exists() else []
    return [folder / name for name in sorted(set(_weight_map(folder, index).values()))]


def check_weights(name: str, config: Mapping[str, Any], folder: Path) -> dict[str, Tensor]:
    """Check the files of a model's weights, in safetensors or pickled, before other packages read them.

    :param name: the model's name, for messages.
    :param config: its ``config.json``.
    :param folder: its folder.
    :returns: the weights in safetensors, as :func:`read_tensors` does.
    :raises ModelError: if a file is missing, incomplete or damaged, or if the weights are quantised.
    """
    check_not_quantised(name, config)
    tensors = read_tensors(folder)
    for path in () if tensors else weight_files(folder, PICKLED, PICKLED_INDEX):
        check_file(path)
    return tensors


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Return the place of each weight of a model, from the headers of its files.

    LayerNorm's old names from TensorFlow become the new ones, as in transformers.

    :param folder: the model's folder.
    :returns: the weights by name; empty for a model without safetensors.
    :raises ModelError: if a file is missing, incomplete or damaged, or if the weights are not plain numbers.
    """
    files = weight_files(folder)
    headers = {path.name: _read_header(path) for path in files}
    if len(files) == 1 and files[0].name == WHOLE:
        tensors = headers[WHOLE]
    else:
        tensors = {}
        for name, file in _weight_map(folder, INDEX).items() if files else ():
            if name not in headers[file]:
                raise ModelError(f"{folder / file} lacks the weight {name!r} that {INDEX} says it holds{_AGAIN}")
            tensors[name] = headers[file][name]
    for name, tensor in tensors.items():
        if _SCALES.search(name) or (tensor.dtype not in _FLOATS and name.endswith((".weight", ".bias"))):
            raise ModelError(
                f"{folder} holds quantised weights ({name!r} is {tensor.dtype}), which do not run here; "
                "use the float weights that they were made of"
            )
    for prefix in _WRAPPERS:
        if tensors and all(name.startswith(prefix) for name in tensors):
            raise ModelError(
                f"the names of all weights in {folder} begin with {prefix!r}: they were saved from a wrapped model. "
                f"Save the model inside, as wrapped.{prefix}save_pretrained(FOLDER)"
            )
    return {_OLD_NAME.sub(lambda found: _NEW_NAMES[found[0]], name): tensor for name, tensor in tensors.items()}


def read_array(tensor: Tensor) -> Any:
    """Return a weight as a read-only numpy array in its stored type, mapped from its file."""
    import ml_dtypes
    import numpy as np

    types = {"BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}
    stored = np.dtype(types.get(tensor.dtype, f"<{tensor.dtype[0].lower()}{_BITS.get(tensor.dtype, 8) // 8}"))
    data = np.memmap(tensor.path, np.uint8, "r", tensor.start, (tensor.size,))
    return np.frombuffer(data, stored).reshape(tensor.shape)


def check_not_quantised(name: str, config: Mapping[str, Any]) -> None:
    """Raise if a model's config says that its weights are quantised: without their scales the numbers mean nothing."""
    if config.get("quantization_config") is not None:
        raise ModelError(f"model {name!r} has quantised weights, which do not run here; use those it was made of")


_AGAIN = "; download the model again, or save it again"


def _weight_map(folder: Path, index: str) -> dict[str, str]:
    """Return the file name of each weight, by a model's index."""
    names, suffix = read_config(folder, index).get("weight_map"), ".bin" if index == PICKLED_INDEX else ".safetensors"
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise ModelError(f"{folder / index} must hold a 'weight_map' from weights to files{_AGAIN}")
    for name in set(names.values()):
        if Path(name).name != name or not name.endswith(suffix):
            raise ModelError(f"{folder / index} names {name!r}, expected a {suffix} file in its own folder")
    return names


def _read_header(path: Path) -> dict[str, Tensor]:
    check_file(path)
    size, target = path.stat().st_size, path.resolve()
    tensors: dict[str, Tensor] = {}
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
                raise ModelError(f"{path} is not a whole safetensors file ({size} bytes){_AGAIN}")
            entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        for name, entry in entries.items():
            (start, end), shape = map(int, entry["data_offsets"]), tuple(map(int, entry["shape"]))
            if not 0 <= start <= end or min(shape, default=0) < 0:
                raise ValueError("negative sizes")
            tensors[str(name)] = Tensor(target, str(entry["dtype"]), shape, 8 + length + start, end - start)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path} is not a safetensors file, or is damaged{_AGAIN}: {error}") from error
    for name, tensor in tensors.items():
        if tensor.start + tensor.size > size:
            end = max(tensor.start + tensor.size for tensor in tensors.values())
            raise ModelError(f"{path} is incomplete: it has {size} of {end} bytes{_AGAIN}")
        bits = _BITS.get(tensor.dtype)
        if bits is not None and math.prod(tensor.shape) * bits != 8 * tensor.size:
            raise ModelError(f"{path} is damaged: {name!r} has {tensor.size} bytes for shape {tensor.shape}{_AGAIN}")
    return tensors

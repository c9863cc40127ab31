"""Access to a model's files without torch or transformers: folder, config, weights, graphs and tokenizer."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from milvus_rerank.errors import ModelError
from milvus_rerank.models.source import ModelSource, model_folder, not_loaded
from milvus_rerank.progress import progress_bar

CONFIGS = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "chat_template.jinja",
    "modules.json",
    "*/config.json",
)
_WITH_TYPES = ("Bert", "Electra", "Deberta")
_GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")


def fetch_folder(source: ModelSource, patterns: tuple[str, ...], *, show_progress: bool = False) -> Path:
    """Return a local folder with the model's files, after downloading the missing files.

    :param source: the model, and whether the network may be used.
    :param patterns: the files to download, as globs such as ``onnx/*``; other files of a hub model are not downloaded.
    :param show_progress: show the hub client's progress bars.
    :returns: the built-in or local folder, or the hub client's snapshot.
    :raises ModelError: if the model is not found.
    """
    folder = model_folder(source.name)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    were_shown = not are_progress_bars_disabled()
    (enable_progress_bars if show_progress else disable_progress_bars)()
    try:
        return Path(
            snapshot_download(
                source.name,
                revision=source.revision,
                cache_dir=None if source.cache_dir is None else Path(source.cache_dir),
                local_files_only=source.local_files_only,
                allow_patterns=list(patterns),
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise not_loaded(source, error) from error
    finally:
        (enable_progress_bars if were_shown else disable_progress_bars)()


def list_files(folder: Path) -> tuple[str, ...]:
    """List the files of a model's folder that can hold weights or graphs.

    :param folder: the model's folder.
    :returns: sorted names relative to the folder, such as ``onnx/model.onnx``.
    """
    paths = [path for pattern in ("*", "onnx/*", "openvino/*") for path in folder.glob(pattern)]
    return tuple(sorted(path.relative_to(folder).as_posix() for path in paths if path.is_file()))


def list_hub_files(source: ModelSource) -> tuple[str, ...] | None:
    """List the files of a model on the hub without downloading them.

    :param source: the model, and whether the network may be used.
    :returns: sorted names such as ``onnx/model.onnx``; None if the hub does not answer.
    """
    if source.local_files_only:
        return None
    from huggingface_hub import HfApi

    try:
        return tuple(sorted(HfApi().list_repo_files(source.name, revision=source.revision)))
    except Exception:  # offline, or an error of the HTTP client, whose classes depend on the hub client's version
        return None


def read_config(folder: Path, name: str = "config.json", *, optional: bool = False) -> dict[str, Any]:
    """Return the values of one of a model's JSON files.

    :param folder: the model's folder.
    :param name: the file's name.
    :param optional: return an empty dict if the file does not exist.
    :returns: the values.
    :raises ModelError: if the file cannot be read or does not hold a JSON object.
    """
    if optional and not (folder / name).is_file():
        return {}
    try:
        values = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / name} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{folder / name} must hold a JSON object, got {type(values).__name__}")
    return values


def check_reranker(name: str, config: Mapping[str, Any]) -> None:
    """Raise if a model is not a cross-encoder with one label. Only such models can be exported.

    :param name: the model's name, for the message.
    :param config: its ``config.json``.
    :raises ModelError: if the model has another architecture, or zero or several labels.
    """
    architectures = list(config.get("architectures") or [])
    if architectures and not any("ForSequenceClassification" in kind for kind in architectures):
        raise ModelError(
            f"model {name!r} is a {', '.join(architectures)}; "
            "expected a cross-encoder: a ...ForSequenceClassification with one label"
        )
    if label_count(config) != 1:
        raise ModelError(f"model {name!r} has {label_count(config)} labels; expected one")


def check_not_quantised(name: str, config: Mapping[str, Any]) -> None:
    """Raise if a model's weights are quantised: without their scales the numbers in the files mean nothing.

    :param name: the model's name, for the message.
    :param config: its ``config.json``.
    :raises ModelError: if the config has a ``quantization_config``.
    """
    if config.get("quantization_config") is not None:
        raise ModelError(f"model {name!r} has quantised weights, which do not run here; use those it was made of")


def label_count(config: Mapping[str, Any]) -> int:
    """Return the number of labels of a classifier.

    :param config: its ``config.json``; transformers omits the number if it is two.
    :returns: the number.
    """
    return int(config.get("num_labels") or len(config.get("id2label") or {0: "", 1: ""}))


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that hold a model's weights.

    :param folder: the model's folder.
    :returns: a single file, the files of an index, or an empty list.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return sorted({folder / name for name in read_config(folder, index.name).get("weight_map", {}).values()})
    whole = folder / "model.safetensors"
    return [whole] if whole.is_file() else []


def content_key(files: Iterable[Path], *options: object) -> str:
    r"""Return a cache key for a result that is derived from files and options.

    :param files: files whose contents enter the key; their names do not.
    :param \*options: other values that enter the key, such as settings and versions.
    :returns: 32 hexadecimal digits.
    """
    digest = hashlib.sha256(repr(options).encode())
    for path in files:
        digest.update(path.stat().st_size.to_bytes(8, "little"))
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:32]


def read_weights(folder: Path, *, show_progress: bool = False) -> dict[str, Any]:
    """Return a model's weights.

    :param folder: a folder with :func:`weight_files`.
    :param show_progress: show a progress bar on stderr.
    :returns: numpy arrays by name, in their stored types.
    :raises ModelError: if a file cannot be read.
    """
    import ml_dtypes  # the import itself adds bfloat16 to numpy
    import numpy as np
    from safetensors import SafetensorError, deserialize, safe_open

    float8 = {"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}
    weights: dict[str, Any] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="numpy") as file:
                types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118  no mapping
                plain = [name for name, stored in types.items() if stored not in float8]
                with progress_bar("Loading weights", len(plain)) if show_progress else nullcontext() as bar:
                    for name in plain:
                        weights[name] = file.get_tensor(name)
                        if bar is not None:
                            bar.advance(1)
            if len(plain) < len(types):  # safetensors looks for these types in numpy, which lacks them
                for name, tensor in deserialize(path.read_bytes()):  # type: ignore[no-untyped-call]
                    if types[name] in float8:
                        values = np.frombuffer(tensor["data"], float8[types[name]])
                        weights[name] = values.reshape(tensor["shape"])
        except (OSError, SafetensorError, TypeError, ValueError) as error:
            raise ModelError(f"{path} cannot be read: {error}") from error
    return weights


class FileTokenizer:
    """Tokenizer from a ``tokenizer.json``, with those parts of transformers' interface that :class:`PairEncoder` needs.

    transformers takes seconds to import and 200 MB of memory. A test checks that the ids are the same.

    :param folder: a folder with ``tokenizer.json`` and optionally ``tokenizer_config.json``.
    :param config: the model's ``config.json``.
    :raises ModelError: if the tokenizer cannot be read.
    """

    is_fast = True

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        import tokenizers

        path = folder / "tokenizer.json"
        own = read_config(folder, "tokenizer_config.json", optional=True)
        try:
            self.backend_tokenizer: Any = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust library raises bare Exceptions
            raise ModelError(f"{path} cannot be read: {error}") from error
        self.backend_tokenizer.no_padding()
        self.backend_tokenizer.no_truncation()
        self.padding_side = own.get("padding_side", "right")
        self.truncation_side = own.get("truncation_side", "right")
        pad = own.get("pad_token") or "[PAD]"
        token = pad.get("content", "") if isinstance(pad, dict) else pad
        self.pad_token_id = self.backend_tokenizer.token_to_id(str(token))
        if self.pad_token_id is None:
            self.pad_token_id = config.get("pad_token_id")
        self.pad_token_type_id = own.get("pad_token_type_id", 0)
        self.model_max_length = int(min(own.get("model_max_length") or 1e30, 1e30))
        self.model_input_names = own.get("model_input_names") or _input_names(own, config)

    def __call__(
        self, text: Any, pair: Any = None, *, add_special_tokens: bool = True, return_token_type_ids: bool = True
    ) -> dict[str, Any]:
        """Encode a text, or lists of texts or of pairs, as a transformers tokenizer does."""
        if isinstance(text, str):
            encoding = self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens)
            return {"input_ids": encoding.ids, "token_type_ids": encoding.type_ids}
        rows = list(text) if pair is None else list(zip(text, pair, strict=True))
        encodings = self.backend_tokenizer.encode_batch(rows, add_special_tokens=add_special_tokens)
        return {
            "input_ids": [encoding.ids for encoding in encodings],
            "token_type_ids": [encoding.type_ids for encoding in encodings],
        }


def has_plain_tokenizer(folder: Path) -> bool:
    """Tell whether :class:`FileTokenizer` reads a folder's tokenizer as transformers would.

    :param folder: the model's folder.
    :returns: False without a ``tokenizer.json``, or if ``tokenizer_config.json`` overrides its text normalisation.
    """
    if not (folder / "tokenizer.json").is_file():
        return False
    normalizer = read_config(folder, "tokenizer.json").get("normalizer") or {}
    own = read_config(folder, "tokenizer_config.json", optional=True)
    if normalizer.get("type") != "BertNormalizer" or own.get("tokenizer_class") in _GENERIC:
        return True
    # BERT's classes take these from tokenizer_config.json, or use defaults, and ignore tokenizer.json.
    said = (own.get("do_lower_case", True), own.get("strip_accents"), own.get("tokenize_chinese_chars", True))
    return said == tuple(normalizer.get(name) for name in ("lowercase", "strip_accents", "handle_chinese_chars"))


def _input_names(own: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    kind = own.get("tokenizer_class") or str(config.get("model_type")).capitalize()
    types = ["token_type_ids"] if kind.startswith(_WITH_TYPES) else []
    return ["input_ids", *types, "attention_mask"]

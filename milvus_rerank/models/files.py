"""Access to a model's files without torch or transformers: folder, config, weights and tokenizer."""

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
    """Return the sorted names of files that can hold weights or graphs, such as ``onnx/model.onnx``."""
    paths = [path for pattern in ("*", "onnx/*", "openvino/*") for path in folder.glob(pattern)]
    return tuple(sorted(path.relative_to(folder).as_posix() for path in paths if path.is_file()))


def list_hub_files(source: ModelSource) -> tuple[str, ...] | None:
    """Return the sorted names of a model's files on the hub; None if the hub is not asked or does not answer."""
    if source.local_files_only:
        return None
    from huggingface_hub import HfApi

    try:
        return tuple(sorted(HfApi().list_repo_files(source.name, revision=source.revision)))
    except Exception:  # noqa: BLE001  offline, or an error of the HTTP client, whose classes depend on the hub client's version
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
    """Raise if a model is not a cross-encoder with one label. Only such models can be exported."""
    architectures = list(config.get("architectures") or [])
    if architectures and not any("ForSequenceClassification" in kind for kind in architectures):
        raise ModelError(
            f"model {name!r} is a {', '.join(architectures)}; "
            "expected a cross-encoder: a ...ForSequenceClassification with one label"
        )
    if (count := len(label_names(config))) != 1:
        raise ModelError(f"model {name!r} has {count} labels; expected one")


def check_not_quantised(name: str, config: Mapping[str, Any]) -> None:
    """Raise if a model's weights are quantised: without their scales the numbers in the files mean nothing."""
    if config.get("quantization_config") is not None:
        raise ModelError(f"model {name!r} has quantised weights, which do not run here; use those it was made of")


def label_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of a classifier's labels, with transformers' names for labels that its config omits."""
    names = {int(number): str(name) for number, name in (config.get("id2label") or {}).items()}
    count = int(config.get("num_labels") or len(names) or 2)  # transformers omits the number if it is two
    return tuple(names.get(number, f"LABEL_{number}") for number in range(count))


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model: a single file, the files of an index, or an empty list."""
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

    :param folder: a folder with ``tokenizer.json``.
    :param config: the model's ``config.json``.
    :param tokenizer_config: its ``tokenizer_config.json``; empty without that file.
    :raises ModelError: if the tokenizer cannot be read.
    """

    is_fast = True

    def __init__(self, folder: Path, config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> None:
        import tokenizers

        path = folder / "tokenizer.json"
        try:
            self.backend_tokenizer: Any = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust library raises bare Exceptions
            raise ModelError(f"{path} cannot be read: {error}") from error
        self.backend_tokenizer.no_padding()
        self.backend_tokenizer.no_truncation()
        get = tokenizer_config.get
        self.padding_side = get("padding_side", "right")
        self.truncation_side = get("truncation_side", "right")
        pad = get("pad_token") or "[PAD]"
        self.pad_token_id = self.backend_tokenizer.token_to_id(
            str(pad.get("content", "") if isinstance(pad, dict) else pad)
        )
        if self.pad_token_id is None:
            self.pad_token_id = config.get("pad_token_id")
        self.pad_token_type_id = get("pad_token_type_id", 0)
        self.model_max_length = int(min(get("model_max_length") or 1e30, 1e30))
        kind = get("tokenizer_class") or str(config.get("model_type")).capitalize()
        types = ["token_type_ids"] if kind.startswith(_WITH_TYPES) else []
        self.model_input_names = get("model_input_names") or ["input_ids", *types, "attention_mask"]
        self.is_plain = True
        """Whether transformers reads the file in the same way."""
        normalizer = self.backend_tokenizer.normalizer
        if type(normalizer).__name__ == "BertNormalizer" and get("tokenizer_class") not in _GENERIC:
            # BERT's classes take these from tokenizer_config.json, or use defaults, and ignore tokenizer.json.
            settings = get("do_lower_case", True), get("strip_accents"), get("tokenize_chinese_chars", True)
            in_file = normalizer.lowercase, normalizer.strip_accents, normalizer.handle_chinese_chars
            self.is_plain = settings == in_file

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


def read_tokenizer(
    folder: Path, config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]
) -> FileTokenizer | None:
    """Return a model's tokenizer without transformers; None if transformers would read the files in another way."""
    if not (folder / "tokenizer.json").is_file():
        return None
    tokenizer = FileTokenizer(folder, config, tokenizer_config)
    return tokenizer if tokenizer.is_plain else None

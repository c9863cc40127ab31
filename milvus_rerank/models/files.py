"""Access to a model's files without torch or transformers: folder, config, weights and tokenizer."""

import hashlib
import json
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from milvus_rerank.errors import ModelError
from milvus_rerank.models.config_schema import SCHEMAS, shown
from milvus_rerank.models.source import ModelSource, model_folder, not_loaded

CONFIGS = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "calibration.json",
    "chat_template.jinja",
    "modules.json",
    "*/config.json",
)
TOKENIZERS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "additional_chat_templates/*",
)
"""Files that transformers' tokenizers read, as globs."""
_HUB_TIMEOUT = 10.0  # seconds
_SAMPLE = 65_536  # bytes
_LARGEST_POINTER = 1024  # bytes
_LARGEST_JSON = 100_000_000  # bytes
_POINTER = b"version https://git-lfs.github.com/spec/"
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
        raise not_loaded(source, error) from None  # its chain of errors says nothing that a user could use
    finally:
        (enable_progress_bars if were_shown else disable_progress_bars)()


def is_pointer(path: Path) -> bool:
    """Tell whether a file is only a pointer of Git LFS to the file itself."""
    if path.stat().st_size >= _LARGEST_POINTER:
        return False
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


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
        # list_repo_files tries for half a minute where there is no network; this asks once.
        info = HfApi().model_info(source.name, revision=source.revision, timeout=_HUB_TIMEOUT)
        return tuple(sorted(file.rfilename for file in info.siblings or ()))
    except Exception:  # noqa: BLE001  offline, or an error of the HTTP client, whose classes depend on the hub client's version
        return None


def check_file(path: Path) -> None:
    """Raise if a file is missing, is not a regular file, or is only a pointer to the file itself.

    :param path: one of a model's files.
    :raises ModelError: with what to do about it.
    """
    try:
        status = path.stat()  # of the file that a link leads to, as in the hub client's cache
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{path} is not a regular file")
        pointer = is_pointer(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror or error}); download the model again") from error
    if pointer:
        raise ModelError(f"{path} is a Git LFS pointer, not the file itself; type in its folder: git lfs pull")
    if status.st_size == 0:
        raise ModelError(f"{path} is empty; download the model again")


def read_json(path: Path) -> Any:
    """Return the value of one of a model's JSON files; raise ModelError if it cannot be read."""
    check_file(path)
    try:
        if (size := path.stat().st_size) > _LARGEST_JSON:
            raise ModelError(f"{path} has {size} bytes, more than a model's JSON file can have ({_LARGEST_JSON})")
        text = path.read_text(encoding="utf-8")
        if text.startswith("\ufeff"):  # transformers reads no such file either
            raise ModelError(f"{path} begins with a byte order mark; save it as UTF-8 without one")
        return json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error


def read_config(folder: Path, name: str = "config.json", *, optional: bool = False) -> dict[str, Any]:
    """Return the values of one of a model's JSON files.

    :param folder: the model's folder.
    :param name: the file's name.
    :param optional: return an empty dict if the file does not exist.
    :returns: the values, checked as :mod:`~milvus_rerank.models.config_schema` says.
    :raises ModelError: if the file cannot be read, does not hold a JSON object, or holds a value that cannot be meant.
    """
    path = folder / name
    if optional and not path.exists():
        return {}
    values = read_json(path)
    if not isinstance(values, dict):
        raise ModelError(f"{path} must hold a JSON object, got {type(values).__name__}")
    for key, rule in SCHEMAS.get(path.name, {}).items():
        value = values.get(key)
        if value is not None and not rule.accepts(value):
            raise ModelError(f"{path}: {key!r} must be {rule.expected}, got {shown(value)}")
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


def label_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of a classifier's labels, with transformers' names for labels that its config omits."""
    names = {int(number): str(name) for number, name in (config.get("id2label") or {}).items()}
    count = int(config.get("num_labels") or len(names) or 2)  # transformers omits the number if it is two
    return tuple(names.get(number, f"LABEL_{number}") for number in range(count))


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


def identity_key(files: Iterable[Path], *options: object) -> str:
    r"""Return a cache key like that of :func:`content_key`, by the files' paths, sizes, times and samples.

    Samples of their bytes tell apart files of the same size and time, as package installers write them.

    :param files: files of any size; little of each is read.
    :param \*options: other values that enter the key.
    :returns: 32 hexadecimal digits.
    """
    known = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns, _sample(path)) for path in files]
    return content_key((), known, *options)


def fingerprint(folder: Path) -> str:
    """Return a key of a model's config and weights, the same one wherever the folder lies.

    :param folder: the model's folder.
    :returns: 32 hexadecimal digits, of names, sizes and samples; weights in safetensors come before all others.
    """
    weights = sorted(folder.glob("*.safetensors")) or sorted(
        path for path in folder.rglob("*") if path.suffix in (".bin", ".onnx", ".onnx_data", ".xml")
    )
    config = [path for path in (folder / "config.json",) if path.is_file()]
    return content_key(config, [(path.name, path.stat().st_size, _sample(path)) for path in weights])


def _sample(path: Path) -> str:
    """Return a hash of the first, the middle and the last bytes of a file."""
    digest, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file:
        for start in (0, max(0, (size - _SAMPLE) // 2), max(0, size - _SAMPLE)):
            file.seek(start)
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


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
        self.padding_side = get("padding_side") or "right"
        self.truncation_side = get("truncation_side") or "right"
        pad = get("pad_token") or "[PAD]"
        self.pad_token_id = self.backend_tokenizer.token_to_id(
            str(pad.get("content", "") if isinstance(pad, dict) else pad)
        )
        if self.pad_token_id is None:
            self.pad_token_id = config.get("pad_token_id")
        self.pad_token_type_id = get("pad_token_type_id") or 0
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


def check_vocabulary(name: str, tokenizer: Any, rows: int | None) -> None:
    """Raise if a tokenizer makes tokens that a model does not have: some engines read other memory in their place.

    :param name: the model's name, for the message.
    :param tokenizer: a :class:`FileTokenizer` or a tokenizer of transformers.
    :param rows: the rows of the model's table of tokens; None if they are unknown.
    :raises ModelError: with both figures.
    """
    core = getattr(tokenizer, "backend_tokenizer", tokenizer)
    highest = max(core.get_vocab().values(), default=0)
    if rows is not None and highest >= rows:
        raise ModelError(
            f"model {name!r} does not fit together: its tokenizer makes tokens up to {highest}, the model has {rows}; "
            "use the tokenizer that it was trained with"
        )


def read_tokenizer(
    folder: Path, config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]
) -> FileTokenizer | None:
    """Return a model's tokenizer without transformers; None if transformers would read the files in another way."""
    if not (folder / "tokenizer.json").is_file():
        return None
    tokenizer = FileTokenizer(folder, config, tokenizer_config)
    return tokenizer if tokenizer.is_plain else None

"""The config file: a TOML file with the settings of a search, read by the command line and from Python."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import tomlkit
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from tomlkit.exceptions import TOMLKitError

from milvus_rerank.choices import MAX_CANDIDATES, Dtype, EngineName, Mode
from milvus_rerank.config_errors import SECRETS, problem
from milvus_rerank.errors import InputError, write_errors
from milvus_rerank.steps import Pipeline
from milvus_rerank.validation import describe

Count = Annotated[int, Field(ge=1)]
Variable = Annotated[str, Field(pattern="^[A-Za-z_][A-Za-z0-9_]*$")]
"""The name of an environment variable."""


class Table(BaseModel):
    """A table of the config file. A key that is None is absent: the command or the function has its own default."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class MilvusTable(Table):
    """The Milvus to search.

    :param uri: a Milvus Lite file (``*.db``), or a server such as ``http://localhost:19530``.
    :param token_env: the environment variable that holds the token, unless ``MILVUS_TOKEN`` is set.
    :param db_name: the server's database.
    :param timeout: seconds that one call may take.
    """

    uri: str | None = None
    token_env: Variable | None = None
    db_name: str | None = None
    timeout: Annotated[float, Field(gt=0, le=86400)] | None = None

    @field_validator("uri")
    @classmethod
    def _has_no_password(cls, uri: str | None) -> str | None:
        if uri and "://" in uri and urlsplit(uri).password:
            raise ValueError("an address holds no password; set MILVUS_TOKEN in the environment")
        return uri

    def token(self) -> str:
        """Return the token from the environment.

        :returns: the token; "" for none.
        :raises InputError: if ``token_env`` names a variable that is not set.
        """
        return os.environ.get("MILVUS_TOKEN") or _variable(self.token_env, "[milvus] token_env") or ""


class CollectionTable(Table):
    """The collection to search.

    :param name: its name; the only collection if it is absent.
    :param text_field: the field to rerank by, a list of fields, or a template such as ``"{title}: {text}"``.
    :param vector_field: the field to search.
    :param mode: ``dense``, ``bm25`` or ``hybrid``.
    """

    name: str | None = None
    text_field: str | list[str] | None = None
    vector_field: str | None = None
    mode: Mode | None = None


class EmbedderTable(Table):
    """The embedder of queries and passages.

    :param name: as ``--embedder`` takes it; the one that the collection remembers if it is absent.
    """

    name: str | None = None


class RerankerTable(Table):
    """The reranker.

    :param name: a registered reranker; the right one for the model if it is absent.
    :param model: a built-in model, a folder, or a name on the model hub.
    :param engine: the engine of the model.
    :param dtype: the precision of the model.
    :param device: ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
    :param threads: the most CPU threads of the model.
    :param api_key_env: the environment variable that holds a service's key.
    :param options: any other options of the reranker.
    """

    name: str | None = None
    model: str | None = None
    engine: EngineName | None = None
    dtype: Dtype | None = None
    device: str | None = None
    threads: Count | None = None
    api_key_env: Variable | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("options")
    @classmethod
    def _are_not_elsewhere(cls, options: dict[str, Any]) -> dict[str, Any]:
        for key in options:
            if key in SECRETS:
                raise ValueError(
                    f"{key!r} is a secret, which belongs in the environment: name its variable, api_key_env"
                )
            if key == "model_name" or key in cls.model_fields:
                raise ValueError(f"{key!r} belongs in [reranker]{', as model' if key == 'model_name' else ''}")
        return options

    def to_options(self) -> dict[str, Any]:
        """Return the options of the reranker that are set, with a service's key.

        :returns: the options; the model is ``model_name``.
        :raises InputError: if ``api_key_env`` names a variable that is not set.
        """
        values = {
            "model_name": self.model,
            "engine": self.engine,
            "dtype": self.dtype,
            "device": self.device,
            "threads": self.threads,
            "api_key": _variable(self.api_key_env, "[reranker] api_key_env"),
        }
        return {key: value for key, value in values.items() if value is not None} | self.options


class SearchTable(Table):
    """Arguments of a search.

    :param candidates: the number of hits of the first stage to rerank.
    :param top_k: the number of results; 0 for all.
    :param threshold: the least rerank score of a result.
    :param output_fields: the fields to return.
    :param filter: Milvus' filter.
    :param instruction: says what is relevant, for a reranker that takes instructions.
    """

    candidates: Annotated[int, Field(ge=1, le=MAX_CANDIDATES)] | None = None
    top_k: Annotated[int, Field(ge=0, le=MAX_CANDIDATES)] | None = None
    threshold: float | None = None
    output_fields: list[str] | None = None
    filter: str | None = None
    instruction: str | None = None

    @model_validator(mode="after")
    def _fit_together(self) -> "SearchTable":
        if self.candidates is not None and (self.top_k or 0) > self.candidates:
            raise ValueError(f"candidates={self.candidates} is less than top_k={self.top_k}")
        return self


class Config(Table):
    """Settings of a search, in the tables of the config file.

    :param milvus: the Milvus to search.
    :param collection: the collection to search.
    :param embedder: the embedder of queries and passages.
    :param reranker: the reranker.
    :param search: arguments of a search.
    :param steps: steps after the reranker: a mapping for each, with its ``type`` and its options.
    """

    milvus: MilvusTable = MilvusTable()
    collection: CollectionTable = CollectionTable()
    embedder: EmbedderTable = EmbedderTable()
    reranker: RerankerTable = RerankerTable()
    search: SearchTable = SearchTable()
    steps: list[dict[str, Any]] = Field(default_factory=list)

    @field_validator("steps", mode="before")
    @classmethod
    def _are_steps(cls, steps: Any) -> Any:
        if not isinstance(steps, list):
            raise ValueError(f"expected a list of tables, each with a type, got {describe(steps)}")
        # Tables stay as they are: a date of the file is written back as a date.
        return [
            dict(step) if isinstance(step, Mapping) else table
            for step, table in zip(steps, Pipeline(steps).to_list(), strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the tables and keys that are set."""
        tables = self.model_dump(exclude_none=True, exclude_defaults=True)
        return {name: values for name, values in tables.items() if values}

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the file; one that exists keeps its comments and its order.

        :param path: the file.
        :raises InputError: if the file exists and is not TOML.
        :raises WriteError: if it cannot be written.
        """
        file = Path(path)
        document = _parse(file) if file.exists() else tomlkit.document()
        tables = self.to_dict()
        for name in [name for name in document if name not in tables]:
            del document[name]
        steps = tables.pop("steps", None)
        if steps is not None and document.get("steps") != steps:
            document["steps"] = tomlkit.item(steps)
        for name, values in tables.items():
            table: Any = document.setdefault(name, tomlkit.table())
            for key in [key for key in table if key not in values]:
                del table[key]
            for key, value in values.items():
                if key not in table or table[key] != value:
                    table[key] = value
        with write_errors(file, "choose another file"):
            beside = file.with_name(f".{file.name}.{os.getpid()}")
            beside.write_text(tomlkit.dumps(document), "utf-8")
            beside.replace(file)


def read_config(source: "str | os.PathLike[str] | Mapping[str, Any] | Config") -> Config:
    """Return the settings of a config file, or of a mapping with the same tables.

    :param source: a path, a mapping from names of tables to their keys, or a ``Config``, which is returned.
    :returns: the settings.
    :raises InputError: if the file does not exist or is not TOML, or a key is unknown or has a wrong value; it names
        the file, the key, and a near key if there is one.
    """
    if isinstance(source, Config):
        return source
    if isinstance(source, Mapping):
        name, values = "config", dict(source)
    elif isinstance(source, (str, os.PathLike)):
        name, values = os.fspath(source), _parse(Path(source)).unwrap()
    else:
        raise InputError(f"config must be a path of a TOML file, or a mapping of its tables, got {describe(source)}")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{name}: {problem(error, _keys())}") from None


def _parse(file: Path) -> tomlkit.TOMLDocument:
    try:
        return tomlkit.parse(file.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"the config file {file} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the config file {file} cannot be read: {error}") from None
    except TOMLKitError as error:
        raise InputError(f"the config file {file} is not TOML: {error}") from None


def _keys() -> dict[str, list[str]]:
    """Return the keys of each table; those of steps depend on their type, and are checked by the steps."""
    tables = {name: field.annotation for name, field in Config.model_fields.items()}
    return {name: list(getattr(table, "model_fields", ())) for name, table in tables.items()}


def _variable(name: str | None, key: str) -> str | None:
    if name is not None and not os.environ.get(name):
        raise InputError(f"{key} of the config names the environment variable {name}, which is not set")
    return os.environ[name] if name is not None else None

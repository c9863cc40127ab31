"""Registry of rerankers by name: shipped, from installed packages, and registered at run time."""

import importlib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milvus_rerank.errors import OptionError, RegistryError

if TYPE_CHECKING:
    from milvus_rerank.reranker.base import BaseRerankFunction

GROUP = "milvus_rerank.rerankers"
"""The entry point group: ``name = "module:factory"``."""

Factory = Callable[..., Any]

_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the registry.

    :param name: the reranker's name, as users type it.
    :param target: ``module:attribute``, or the class or function itself.
    :param origin: the source of the entry: a distribution with its version, or ``register()``.
    """

    name: str
    target: str | Factory
    origin: str

    def load(self) -> Factory:
        """Import the class or function.

        :returns: the class or function, to call with the reranker's options.
        :raises RegistryError: if it does not import or is not callable; the message names the entry and its origin.
        """
        if not isinstance(self.target, str):
            return self.target
        module, attribute = _split(self.target, self.name)
        try:
            factory: Any = importlib.import_module(module)
            for part in attribute.split("."):
                factory = getattr(factory, part)
        except Exception as error:  # a plugin's module may raise any exception, and the message must name the plugin
            raise RegistryError(
                f"reranker {self.name!r} of {self.origin} does not load: {self.target}: {type(error).__name__}: {error}"
            ) from error
        if not callable(factory):
            raise RegistryError(f"reranker {self.name!r} of {self.origin}: {self.target} is no class or function")
        return factory  # type: ignore[no-any-return]


class Registry:
    """A table of rerankers by name. The functions of this module use one shared registry.

    :param scan: returns the entries of installed packages, without importing a plugin; called once, at first use.
    """

    def __init__(self, scan: Callable[[], Iterable[Entry]]) -> None:
        self._scan = scan
        self._installed: Mapping[str, list[Entry]] | None = None
        self._registered: dict[str, Entry] = {}

    def register(self, name: str, target: str | Factory, *, replace: bool = False) -> None:
        """Register a reranker by name.

        :param name: letters, digits, ``-``, ``_`` and ``.``.
        :param target: a class or function that returns a reranker or any object with ``score(query, texts)``,
            or ``module:attribute`` to import it at first use.
        :param replace: replace an entry of the same name.
        :raises RegistryError: if the name is taken or the target has another form.
        """
        if not isinstance(name, str) or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise RegistryError(f"a reranker's name is made of letters, digits, '-', '_' and '.', got {name!r}")
        if isinstance(target, str):
            _split(target, name)
        elif not callable(target):
            raise RegistryError(
                f"the target of {name!r} must be a class, a function or 'module:attribute', got {target!r}"
            )
        taken = self._registered.get(name) or next(iter(self._table().get(name, [])), None)
        if taken is not None and not replace:
            raise RegistryError(
                f"reranker {name!r} is already registered by {taken.origin}; pass replace=True to take it"
            )
        self._registered[name] = Entry(name, target, "register()")

    def find(self, name: str) -> Entry:
        """Return the entry of a name.

        :param name: a registered name, or ``module:attribute``.
        :returns: the entry, not yet imported.
        :raises RegistryError: if the name is unknown, or two installed packages claim it.
        """
        if not isinstance(name, str):
            raise RegistryError(f"a reranker's name is a string, got {name!r}")
        if name in self._registered:
            return self._registered[name]
        installed = self._table().get(name, [])
        if len(installed) > 1:
            raise RegistryError(
                f"reranker {name!r} is claimed by {' and '.join(entry.origin for entry in installed)}; uninstall one, "
                f"or choose with register({name!r}, {installed[0].target!r}, replace=True)"
            )
        if installed:
            return installed[0]
        if ":" in name:
            return Entry(name, name, "its own name")
        known = ", ".join(sorted({*self._registered, *self._table()}))
        raise RegistryError(f"no reranker is named {name!r}; there are: {known}")

    def entries(self) -> list[Entry]:
        """Return all entries, including clashing entries, sorted by name, without importing any."""
        installed = [entry for name, group in self._table().items() if name not in self._registered for entry in group]
        return sorted([*self._registered.values(), *installed], key=lambda entry: (entry.name, entry.origin))

    def _table(self) -> Mapping[str, list[Entry]]:
        if self._installed is None:
            table: dict[str, list[Entry]] = {}
            for entry in self._scan():
                table.setdefault(entry.name, []).append(entry)
            self._installed = table
        return self._installed


def _split(target: str, name: str) -> tuple[str, str]:
    module, _, attribute = target.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")]):
        raise RegistryError(f"the target of {name!r} must be 'module:attribute', got {target!r}")
    return module, attribute


def scan_installed() -> list[Entry]:
    """Return the rerankers of installed distributions, including this package's, without importing them."""
    from importlib.metadata import entry_points

    points = {
        (point.name, point.value, f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package")
        for point in entry_points(group=GROUP)
    }
    return [Entry(*parts) for parts in sorted(points)]


_shared = Registry(scan_installed)


def register(name: str, target: str | Factory, *, replace: bool = False) -> None:
    """Register a reranker by a name for :func:`create`; see :meth:`Registry.register`."""
    _shared.register(name, target, replace=replace)


def available() -> list[Entry]:
    """Return all registered rerankers, sorted by name, without importing any."""
    return _shared.entries()


def create(name: str, *args: Any, **options: Any) -> "BaseRerankFunction":
    r"""Create a reranker by name.

    :param name: a name such as ``cross-encoder``, ``bge``, a plugin's name, or ``module:attribute``.
    :param \*args: arguments for the class or function.
    :param \**options: options for the class or function; the error for unknown options names them.
    :returns: a ``BaseRerankFunction``; a plugin that only scores gets wrapped.
    :raises OptionError: if the reranker does not take these options.
    :raises RegistryError: if the name is unknown or taken twice, or its target does not load or cannot score.
    """
    entry = _shared.find(name)
    factory = entry.load()
    _check_options(entry, factory, args, options)
    from milvus_rerank.reranker.custom import wrap

    return wrap(factory(*args, **options), name)


def load(name: str | os.PathLike[str], **options: Any) -> "BaseRerankFunction":
    r"""Return the right reranker for a name: a registered reranker, or the rerank function for a model.

    :param name: a registered name, such as ``lexical``; or a model: ``builtin/rerank``, a folder, or a name on the
        model hub. A registered name takes precedence over a folder of the same name.
    :param \*\*options: options of the reranker; the defaults are those of its class.
    :returns: the reranker. For a model, :class:`~milvus_rerank.reranker.bge.BGERerankFunction` if its files or the
        model catalogue say that it is a BGE reranker, else
        :class:`~milvus_rerank.reranker.cross_encoder.CrossEncoderRerankFunction`.
    :raises OptionError: if the reranker does not take these options.
    :raises RegistryError: if the name is not registered, has no slash, and is not a folder.
    :raises ModelError: if the model cannot be found, read or used for reranking.
    """
    text = os.fspath(name)
    if all(entry.name != text for entry in available()) and ("/" in text or "\\" in text or Path(text).is_dir()):
        from milvus_rerank.loading.inspect import inspect_model
        from milvus_rerank.loading.options import LoadOptions
        from milvus_rerank.models import ModelSource

        source = ModelSource(text, local_files_only=bool(options.get("local_files_only")))
        source = LoadOptions(source, hub=options.get("hub")).source
        kind = "bge" if inspect_model(source).is_bge else "cross-encoder"
        return create(kind, model_name=text, **options)
    try:
        return create(text, **options)
    except RegistryError as error:
        raise RegistryError(f"{error}; a model is named as 'builtin/rerank', './folder' or 'org/name'") from error


def find_loader(name: str | None, model: str | None) -> "Callable[..., BaseRerankFunction]":
    """Return the function that loads a reranker, given its options.

    :param name: a registered name; None for the right reranker for the model.
    :param model: a model; None for the reranker's default.
    :returns: a function of the options.
    """
    if name is None:
        return partial(load, model or "builtin/rerank")
    return partial(create, name) if model is None else partial(create, name, model_name=model)


def _check_options(entry: Entry, factory: Factory, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    try:
        signature = inspect.signature(factory)
    except ValueError:
        return  # some builtins have no signature; the call itself reports errors
    try:
        signature.bind(*args, **options)
    except TypeError as error:
        names = [parameter.name for parameter in signature.parameters.values() if parameter.kind not in _STARRED]
        wrong = next((name for name in options if name not in names), "")
        near = get_close_matches(wrong, names, 1)
        problem = f"there is no option {wrong!r}" if wrong else str(error)
        hint = f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(names) or 'none'}"
        raise OptionError(f"reranker {entry.name!r} of {entry.origin}: {problem}; {hint}") from error

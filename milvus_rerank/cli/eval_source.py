"""The searches that ``milvus-rerank eval`` measures: over a collection, or over a BEIR folder that it indexes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from milvus_rerank.choices import DEFAULT_URI, Mode
from milvus_rerank.cli import options, output
from milvus_rerank.errors import write_errors

if TYPE_CHECKING:
    from milvus_rerank.search import TwoStageSearch


@dataclass(frozen=True, slots=True)
class EvalSource:
    """A collection in Milvus, or a BEIR folder to index.

    :param corpus: the BEIR folder; None for a collection that is there.
    :param uri: the address of Milvus; None for the default, or for a temporary file for a BEIR folder.
    :param token: the server's token.
    :param db_name: the server's database.
    :param collection: the collection; None for the only one, or for that of the BEIR folder's name.
    :param embedder: the embedder; None for the one that the collection remembers, or for the built-in one.
    :param modes: the first stages; none for the collection's default.
    :param text_field: the text field, as ``--text-field`` takes it.
    :param vector_field: the field to search.
    :param timeout: the most seconds of a call to Milvus.
    """

    corpus: Path | None
    uri: str | None
    token: str
    db_name: str
    collection: str | None
    embedder: str | None
    modes: tuple[Mode, ...]
    text_field: str | None
    vector_field: str | None
    timeout: float

    @contextmanager
    def open(self) -> Iterator[dict[str, "TwoStageSearch[Any]"]]:
        """Yield a search for each first stage by its name, after indexing the BEIR folder."""
        from milvus_rerank.evaluation import stage_name
        from milvus_rerank.indexing import describe, embedder_of, load, only_collection, open_client, open_search

        exists, timeout = self.corpus is None, self.timeout
        with (
            self._address() as uri,
            open_client(uri, token=self.token, db_name=self.db_name, timeout=timeout, must_exist=exists) as client,
        ):
            name = self.collection if self.corpus is None else self._index(client, self.corpus)
            info = describe(client, name or only_collection(client, timeout), timeout)
            load(client, info, timeout)
            searches = [
                open_search(
                    client,
                    info,
                    mode=mode,
                    embedder=embedder,
                    text_field=options.read_text_field(self.text_field),
                    vector_field=self.vector_field,
                )
                for embedder in [cache(partial(embedder_of, info, self.embedder))]  # one for all first stages
                for mode in dict.fromkeys(self.modes) or [None]
            ]
            yield {stage_name(search): search for search in searches}

    @contextmanager
    def _address(self) -> Iterator[str]:
        if self.uri is not None or self.corpus is None:
            yield self.uri or DEFAULT_URI
            return
        with write_errors("a temporary folder", "set TMPDIR to a folder that can, or pass --uri FILE.db"):
            temporary = TemporaryDirectory(prefix="milvus-rerank-")
        with temporary as folder:
            yield str(Path(folder) / "evaluation.db")

    def _index(self, client: Any, corpus: Path) -> str:
        """Index a BEIR folder into the collection of its name; one that is there gets what it lacks."""
        from milvus_rerank.indexing import index_embedder, index_passages, load_embedder, open_corpus

        name = options.collection_name(corpus)
        with output.spinner("Loading the embedder"):
            encoder = load_embedder(self.embedder) if self.embedder else index_embedder(client, name, self.timeout)
        with open_corpus(corpus) as passages, output.progress_bars() as bars:
            task = bars.add_task("Indexing", total=passages.total)
            index_passages(
                client,
                name,
                passages,
                encoder,
                timeout=self.timeout,
                progress=lambda done: bars.advance(task, done),
            )
        return name

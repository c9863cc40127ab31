"""Index files into a Milvus collection for two-stage search."""

from milvus_rerank.indexing.client import open_client
from milvus_rerank.indexing.collection import count_rows, embedder_of, index_embedder, load
from milvus_rerank.indexing.corpus import CorpusOptions, Passage, corpus_file, open_corpus, read_passages
from milvus_rerank.indexing.embedders import load_embedder
from milvus_rerank.indexing.index import IndexReport, index_passages
from milvus_rerank.indexing.schema import CollectionInfo, Mode, describe, only_collection
from milvus_rerank.indexing.search import absent_keys, open_search, without_scores

__all__ = [
    "CollectionInfo",
    "CorpusOptions",
    "IndexReport",
    "Mode",
    "Passage",
    "absent_keys",
    "corpus_file",
    "count_rows",
    "describe",
    "embedder_of",
    "index_embedder",
    "index_passages",
    "load",
    "load_embedder",
    "only_collection",
    "open_client",
    "open_corpus",
    "open_search",
    "read_passages",
    "without_scores",
]

"""Run ``python -m milvus_rerank`` as the command ``milvus-rerank``."""

from milvus_rerank.cli import main

if __name__ == "__main__":
    main()

"""The rerank server: an application, and what runs it. Needs the extra ``server``."""

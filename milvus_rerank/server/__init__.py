"""The rerank server: an ASGI application and the process that serves it. Needs the extra ``server``."""

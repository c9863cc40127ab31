"""Rerank over HTTP: the providers, their JSON formats, the client that asks them, and a rerank function on top."""

"""Rerank over HTTP: providers, API formats, the client, and rerank functions."""

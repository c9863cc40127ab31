"""Rerank over HTTP: dialects and endpoints say whom to ask and how, calls ask, function is a rerank function of it."""

"""Pairs of query and document -> token ids -> batches sorted by length -> scores in the caller's order."""

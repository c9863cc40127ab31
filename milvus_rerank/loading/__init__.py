"""Inspect a model, select its engine, load it."""

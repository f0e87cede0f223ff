"""Transfers: what a run extracted, moved to where a pipeline needs it."""

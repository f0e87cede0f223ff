"""Operators that start agent runs and build agents."""

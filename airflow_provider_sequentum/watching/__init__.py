"""Waiting well: one watcher for everything that waits on one connection in a triggerer."""

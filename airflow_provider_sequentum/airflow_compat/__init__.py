"""Workarounds for the behavior of Airflow: one file for each, with the reason and the versions that need it, so that it
can be deleted when they are no longer supported.
"""

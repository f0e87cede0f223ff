"""Sensors that wait for runs that something else started."""

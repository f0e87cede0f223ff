"""What Airflow's own timing asks of a trigger."""

from __future__ import annotations

from datetime import timedelta

SHORTEST_TRIGGER_LIFE = 10.0
"""
Seconds before a trigger may fire. Airflow fails a task whose trigger fires while the scheduler has not yet taken in
that the task was deferred (apache/airflow #66374, #71580); with 8 seconds and more it was not seen to happen.
"""

BACKSTOP = timedelta(minutes=2)
"""How long after a trigger's own deadline Airflow's deferral timeout follows: no triggerer may be there to notice."""

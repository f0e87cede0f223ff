"""What happens to a run or a session, as data: pure functions and state machines, without I/O and without Airflow."""

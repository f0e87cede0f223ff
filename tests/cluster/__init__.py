"""A distributed Airflow under a storm: what is broken, what was promised, and what the ledger says came of it."""

"""Records between a run and the table they go to: compared and judged by DuckDB, in bounded memory."""

"""Records of CSV, JSON, NDJSON, Excel and Parquet files, one at a time in constant memory. Knows nothing of Airflow."""

"""Reading the records of CSV, JSON, NDJSON, Excel and Parquet files in constant memory, independently of Airflow."""

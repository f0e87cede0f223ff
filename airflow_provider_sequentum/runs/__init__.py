"""What happens to a run: decisions and procedures, without Airflow."""

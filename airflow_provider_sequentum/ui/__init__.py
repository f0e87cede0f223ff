"""What the provider adds to Airflow's own UI: a page in the navigation and a tab on each task instance."""

"""Apache Airflow provider for Sequentum Cloud."""

__version__ = "0.1.0"

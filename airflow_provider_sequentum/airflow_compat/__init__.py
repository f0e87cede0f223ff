"""What Airflow gets wrong or does differently from version to version: one file for each trap, with the reason and the
versions it holds for, so that it can be deleted when they are gone.
"""

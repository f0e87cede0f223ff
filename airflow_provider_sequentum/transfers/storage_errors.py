"""What goes wrong in object storage, as one error that says what became of the transfer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow.providers.common.compat.sdk import AirflowException

from airflow_provider_sequentum.api.errors import SequentumError
from airflow_provider_sequentum.exceptions import RunFilesUnavailable
from airflow_provider_sequentum.transfers.copying import Abandoned


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """
    Turn the operating system's and the object store's errors into ``RunFilesUnavailable``.

    Object stores have errors of their own, which are no ``OSError``: what is not ours is taken for theirs.

    :param what: what could not be done.
    """
    try:
        yield
    except (AirflowException, SequentumError, Abandoned):
        raise
    except Exception as error:
        raise RunFilesUnavailable(
            f"{what}: {str(error) or repr(error)}. Nothing half-written has been left under its final name, and this "
            "try has left the run's files untouched on the service. A retry goes on where it ended."
        ) from error

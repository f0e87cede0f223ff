from __future__ import annotations

import pytest

from airflow_provider_sequentum.api.errors import DownloadError
from airflow_provider_sequentum.exceptions import RunFilesUnavailable, SequentumRequestRefused
from airflow_provider_sequentum.transfers.copying import Abandoned
from airflow_provider_sequentum.transfers.storage_errors import storage_errors


class BotoError(Exception):
    """As the errors of the libraries for S3, Google and Azure: no ``OSError``."""


@pytest.mark.parametrize(
    ("error", "says"),
    [(OSError(28, "No space left"), "No space left"), (BotoError("down"), "down"), (BotoError(), "Boto")],
)
def test_a_stores_error_says_what_became_of_the_transfer(error: Exception, says: str) -> None:
    message = f"Could not write x: .*{says}.*untouched on the service"
    with pytest.raises(RunFilesUnavailable, match=message) as raised, storage_errors("Could not write x"):
        raise error
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        SequentumRequestRefused("gone"),
        DownloadError("cut", purpose="download", request="GET /x"),
        Abandoned(),
        KeyboardInterrupt(),
    ],
)
def test_what_is_not_the_stores_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, storage_errors("Could not write x"):
        raise error
    assert raised.value is error

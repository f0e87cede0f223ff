from __future__ import annotations

import logging

import httpx
import pytest

from airflow_provider_sequentum.api.transport import quiet_http_logs


def test_only_our_own_requests_are_kept_out_of_httpx_s_log(caplog: pytest.LogCaptureFixture) -> None:
    transport = httpx.MockTransport(lambda _request: httpx.Response(200))
    # Airflow, once another test has loaded it, raises the level of this logger.
    with caplog.at_level(logging.INFO, logger="httpx"), httpx.Client(transport=transport) as client:
        with quiet_http_logs():
            client.get("https://storage.example/file?signature=secret")
        client.get("https://other.example/of-somebody-else")

    assert "secret" not in caplog.text
    assert "of-somebody-else" in caplog.text


@pytest.mark.parametrize("name", ["httpcore.connection", "httpcore.http11", "httpcore.proxy"])
def test_httpcore_is_kept_quiet_too(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger=name), quiet_http_logs():
        logging.getLogger(name).debug("Location: https://storage.example/?signature=secret")

    assert caplog.text == ""

from __future__ import annotations

import httpx

from airflow_provider_sequentum.api.transport import READ_SIZE, wide_reads


class NetworkStream:
    def __init__(self) -> None:
        self.asked: list[tuple[int, float | None]] = []

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self.asked.append((max_bytes, timeout))
        return b"data"


def test_reads_are_widened_within_the_block_only() -> None:
    stream = NetworkStream()
    response = httpx.Response(200, extensions={"network_stream": stream})

    with wide_reads(response):
        assert stream.read(65_536, timeout=3.0) == b"data"
        stream.read(2 * READ_SIZE)
    stream.read(65_536)

    assert stream.asked == [(READ_SIZE, 3.0), (2 * READ_SIZE, None), (65_536, None)]


def test_a_response_without_a_socket_is_left_alone() -> None:
    response = httpx.Response(200, content=b"a")
    with wide_reads(response):
        assert response.read() == b"a"


def test_a_connection_that_two_threads_widen_one_after_the_other_serves_both() -> None:
    stream = NetworkStream()
    response = httpx.Response(200, extensions={"network_stream": stream})

    with wide_reads(response):
        # The first body has been read, so the pool has given its connection to the second.
        second = wide_reads(response)
        second.__enter__()
    assert stream.read(1) == b"data"
    second.__exit__(None, None, None)
    stream.read(2)

    assert stream.asked == [(1, None), (2, None)]

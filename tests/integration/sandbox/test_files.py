from __future__ import annotations

import gzip
from pathlib import Path

import httpx
import pytest

from airflow_provider_sequentum.sandbox import ExtraFile, Sandbox
from tests.integration.sandbox.client import Api, plain

RECORDS: list[dict[str, object]] = [{"name": "Chair, oak", "price": 9.5}, {"name": "Desk", "price": None}]
CSV = b'name,price\r\n"Chair, oak",9.5\r\nDesk,\r\n'


@pytest.fixture
def link(sandbox: Sandbox, api: Api) -> str:
    agent = sandbox.add_agent("Prices", records=RECORDS)
    run_id = api.finished(agent.id)
    data = api.get(f"/agent/{agent.id}/run/{run_id}/files")[0]
    return f"/agent/{agent.id}/run/{run_id}/file/{data['id']}/download"


def location(api: Api, link: str) -> str:
    return str(api.http.get(link).headers["location"])


def test_files_are_listed_with_their_true_size(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices", records=RECORDS)
    run_id = api.start(agent.id)
    assert api.get(f"/agent/{agent.id}/run/{run_id}/files") == []
    sandbox.advance(5)
    data, log = api.get(f"/agent/{agent.id}/run/{run_id}/files")
    assert set(data) == {"id", "name", "fileType", "fileSize", "created", "regionId"}
    assert (data["name"], data["fileType"], data["fileSize"]) == ("output.csv", 1, len(CSV))
    assert (log["name"], log["fileType"]) == ("log.txt", 6)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_download_redirects_to_another_port(sandbox: Sandbox, api: Api, link: str, code: int) -> None:
    sandbox.dialect.download = code  # type: ignore[assignment]
    answer = api.http.get(link)
    assert answer.status_code == code
    target = httpx.URL(answer.headers["location"])
    assert target.port != httpx.URL(sandbox.base_url).port
    assert plain.get(target).content == CSV


def test_a_download_may_be_the_body_itself(sandbox: Sandbox, api: Api, link: str) -> None:
    sandbox.dialect.download = 200
    assert api.http.get(link).content == CSV


def test_storage_serves_ranges(api: Api, link: str) -> None:
    answer = plain.get(location(api, link), headers={"Range": "bytes=5-9"})
    assert (answer.status_code, answer.content) == (206, CSV[5:10])
    assert answer.headers["content-range"] == f"bytes 5-9/{len(CSV)}"
    assert plain.get(location(api, link), headers={"Range": f"bytes={len(CSV)}-"}).status_code == 416


def test_storage_refuses_and_records_a_key_without_keeping_it(sandbox: Sandbox, api: Api, link: str) -> None:
    answer = plain.get(location(api, link), headers={"Authorization": f"ApiKey {sandbox.api_key}"})
    assert answer.status_code == 400
    (leak,) = sandbox.ledger.leaks
    assert (leak.scheme, leak.known_key) == ("ApiKey", True)
    assert sandbox.api_key not in sandbox.ledger.model_dump_json()


def test_following_a_redirect_without_the_key_leaves_no_leak(sandbox: Sandbox, api: Api, link: str) -> None:
    assert plain.get(location(api, link)).status_code == 200
    assert sandbox.ledger.leaks == []


def test_a_signed_link_expires(sandbox: Sandbox, api: Api, link: str) -> None:
    target = location(api, link)
    sandbox.advance(sandbox.settings.signed_url_seconds)
    assert plain.get(target).status_code == 403
    assert plain.get(location(api, link)).status_code == 200


@pytest.mark.parametrize(
    "change", [("signature=", "signature=0"), ("expires=1", "expires=2"), ("/storage/1", "/storage/2")]
)
def test_a_changed_link_is_refused(api: Api, link: str, change: tuple[str, str]) -> None:
    assert plain.get(location(api, link).replace(*change)).status_code == 403


def test_a_signed_link_is_not_kept_in_the_ledger(sandbox: Sandbox, api: Api, link: str) -> None:
    target = location(api, link)
    plain.get(target)
    assert target.split("signature=")[1] not in sandbox.ledger.model_dump_json()


def test_a_broken_download_can_be_resumed(sandbox: Sandbox, api: Api, link: str) -> None:
    sandbox.fail_next("GET /storage/*", fault="truncated", after_bytes=10)
    target, got = location(api, link), bytearray()

    def read(answer: httpx.Response) -> None:
        for chunk in answer.iter_raw():
            got.extend(chunk)

    with plain.stream("GET", target) as answer, pytest.raises(httpx.RemoteProtocolError):
        read(answer)
    assert got == CSV[:10]
    assert got + plain.get(target, headers={"Range": "bytes=10-"}).content == CSV


def test_files_of_any_name_and_from_disk(sandbox: Sandbox, api: Api, tmp_path: Path) -> None:
    big = tmp_path / "big.bin"
    big.write_bytes(bytes(3_000_000))
    names = ["../../x", "/etc/passwd", "a\0b", "x\r\nSet-Cookie: y", "ü" * 300, "same", "same", ""]
    extra = [ExtraFile(name=name, content="hostile") for name in names] + [ExtraFile(name="big", path=big)]
    agent = sandbox.add_agent("Prices", records=[], extra_files=extra)
    run_id = api.finished(agent.id)
    files = api.get(f"/agent/{agent.id}/run/{run_id}/files")
    assert [file["name"] for file in files] == [*names, "big", "log.txt"]
    for file in files[:-2]:
        answer = plain.get(location(api, f"/agent/{agent.id}/run/{run_id}/file/{file['id']}/download"))
        assert (answer.content, "set-cookie" in answer.headers) == (b"hostile", False)
    answer = plain.get(location(api, f"/agent/{agent.id}/run/{run_id}/file/{files[-2]['id']}/download"))
    assert len(answer.content) == files[-2]["fileSize"] == 3_000_000


@pytest.mark.parametrize("output", ["json", "ndjson"])
def test_other_formats_are_delivered(sandbox: Sandbox, api: Api, output: str) -> None:
    agent = sandbox.add_agent("Prices", records=RECORDS, output=output)  # type: ignore[arg-type]
    run_id = api.finished(agent.id)
    data = api.get(f"/agent/{agent.id}/run/{run_id}/files")[0]
    assert data["name"] == f"output.{output}"
    answer = plain.get(location(api, f"/agent/{agent.id}/run/{run_id}/file/{data['id']}/download"))
    assert b'"Chair, oak"' in answer.content


def test_an_unknown_file_is_a_404(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices")
    run_id = api.finished(agent.id)
    assert api.http.get(f"/agent/{agent.id}/run/{run_id}/file/1/download").status_code == 404


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "zstd"])
@pytest.mark.parametrize("download", [200, 302])
def test_storage_may_keep_files_encoded(sandbox: Sandbox, api: Api, link: str, encoding: str, download: int) -> None:
    sandbox.dialect.content_encoding = encoding  # type: ignore[assignment]
    sandbox.dialect.download = download  # type: ignore[assignment]
    url = location(api, link) if download == 302 else f"{api.http.base_url}{link.removeprefix('/')}"
    headers = {"Accept-Encoding": "identity", **({} if download == 302 else dict(api.http.headers))}
    with plain.stream("GET", url, headers=headers) as answer:
        stored = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == encoding
    assert int(answer.headers["content-length"]) == len(stored)
    content = raw_zstd_blocks(stored) if encoding == "zstd" else gzip.decompress(stored)
    assert (stored != CSV, content) == (True, CSV)


@pytest.mark.parametrize("size", [0, 1, 128 * 1024, 128 * 1024 + 1, 300_000])
def test_a_zstandard_file_is_as_long_as_its_blocks(sandbox: Sandbox, api: Api, size: int) -> None:
    agent = sandbox.add_agent("Prices", records=[], extra_files=[ExtraFile(name="a", content="x" * size)])
    sandbox.dialect.content_encoding = "zstd"
    run_id = api.finished(agent.id)
    with plain.stream("GET", location(api, f"/agent/{agent.id}/run/{run_id}/file/1001/download")) as answer:
        assert raw_zstd_blocks(b"".join(answer.iter_raw())) == b"x" * size


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_listed_size_is_of_the_content_or_of_what_is_stored(sandbox: Sandbox, api: Api, encoding: str) -> None:
    agent = sandbox.add_agent("Prices", records=RECORDS)
    run_id = api.finished(agent.id)
    sandbox.dialect.content_encoding = encoding  # type: ignore[assignment]
    assert api.get(f"/agent/{agent.id}/run/{run_id}/files")[0]["fileSize"] == len(CSV)
    sandbox.dialect.file_size = "stored"
    stored = api.get(f"/agent/{agent.id}/run/{run_id}/files")[0]["fileSize"]
    with plain.stream("GET", location(api, f"/agent/{agent.id}/run/{run_id}/file/1001/download")) as answer:
        assert int(answer.headers["content-length"]) == stored != len(CSV)


def test_files_without_a_kind(sandbox: Sandbox, api: Api) -> None:
    agent = sandbox.add_agent("Prices", extra_files=[ExtraFile(name="a.csv", content="a", file_type=None)])
    run_id = api.finished(agent.id)
    path = f"/agent/{agent.id}/run/{run_id}/files"
    assert [file["fileType"] for file in api.get(path)] == [1, None, 6]
    sandbox.fail_next(f"GET {path}", "altered", values={"fileType": None}, where={"name": "output.csv"})
    assert [file["fileType"] for file in api.get(path)] == [None, None, 6]


def raw_zstd_blocks(frame: bytes) -> bytes:
    """Read a Zstandard frame of raw blocks as RFC 8878 describes it."""
    assert frame[:5] == b"\x28\xb5\x2f\xfd\x00"  # magic number; neither content size, checksum nor dictionary
    window = 1 << (10 + (frame[5] >> 3))
    content, at, is_last = b"", 6, False
    while not is_last:
        header = int.from_bytes(frame[at : at + 3], "little")
        is_last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        assert (kind, size <= min(window, 128 * 1024)) == (0, True)
        content += frame[at + 3 : at + 3 + size]
        at += 3 + size
    assert at == len(frame)
    return content

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_sequentum.sandbox import Sandbox
from airflow_provider_sequentum.sandbox.cli import _announce, main
from tests.integration.sandbox.client import plain, until

COMMAND = [
    sys.executable,
    "-c",
    "import sys; from airflow_provider_sequentum.sandbox.cli import main; sys.exit(main())",
]


def serve(tmp_path: Path, *arguments: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    ready = tmp_path / "ready.json"
    ready.unlink(missing_ok=True)
    process = subprocess.Popen(
        [*COMMAND, "--port", "0", "--ready-file", str(ready), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    until(lambda: ready.exists() or process.poll() is not None, 60)
    assert process.poll() is None, process.communicate()[0]
    assert ready.stat().st_mode & 0o077 == 0
    return process, json.loads(ready.read_text())


def end(process: subprocess.Popen[str], with_signal: signal.Signals) -> str:
    process.send_signal(with_signal)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return output


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_interrupted(tmp_path: Path, with_signal: signal.Signals) -> None:
    process, described = serve(tmp_path)
    headers = {"Authorization": f"ApiKey {described['api_key']}"}
    names = [agent["name"] for agent in plain.get(f"{described['base_url']}/api/v1/agent/all", headers=headers).json()]
    assert names == ["chemical_elements", "us_states"]
    output = end(process, with_signal)
    assert f"AIRFLOW_CONN_SEQUENTUM_DEFAULT='{described['connection']}'" in output
    assert "Traceback" not in output


def test_agents_may_be_added_while_it_announces_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that use the sandbox do not wait until it has been started again."""
    with Sandbox() as sandbox:
        sandbox.add_agent("First")

        def add_an_agent(*printed: Any, **_: Any) -> None:
            if "records)" in printed[0]:
                sandbox.add_agent(f"Added meanwhile {len(said)}")
            said.append(printed[0])

        said: list[str] = []
        monkeypatch.setattr("builtins.print", add_an_agent)
        _announce(sandbox, None)
    assert [line for line in said if "First" in line or "meanwhile" in line] == [said[-2]]
    assert said[-1] == "Press Ctrl-C to stop."


def test_it_remembers_across_a_kill(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    process, described = serve(tmp_path, "--state-file", str(state))
    agent_id = plain.get(f"{described['base_url']}/sandbox/agents").json()[0]["id"]
    headers = {"Authorization": f"ApiKey {described['api_key']}"}
    run = plain.post(f"{described['base_url']}/api/v1/agent/{agent_id}/start", headers=headers).json()
    assert str(run["id"]) in state.read_text()
    process.kill()
    process.communicate()
    process, described = serve(tmp_path, "--state-file", str(state))
    listed = plain.get(f"{described['base_url']}/api/v1/agent/{agent_id}/runs", headers=headers).json()
    assert [found["id"] for found in listed] == [run["id"]]
    end(process, signal.SIGTERM)


def test_a_key_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQUENTUM_SANDBOX_API_KEY", "sk-mine")
    process, described = serve(tmp_path, "--no-sample-agents")
    assert described["api_key"] == "sk-mine"
    end(process, signal.SIGTERM)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--data-folder", "nowhere"], "nowhere"),
        (["--rate-limit", "0"], "rate_limit"),
        (["--time-scale", "0"], "time scale"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--port", "0", *arguments]) == 2
    error = capsys.readouterr().err
    assert problem in error
    assert error.startswith("sequentum-sandbox: ")


def test_help_says_how_to_use_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for word in ("sandbox_outcome", "AIRFLOW_CONN_SEQUENTUM_DEFAULT", "asks_twice", "--state-file", "/docs"):
        assert word in text


def test_a_name_is_allowed_by_an_option(tmp_path: Path) -> None:
    process, described = serve(tmp_path, "--allow-host", "sandbox", "--allow-host", "box.internal")
    names = ("sandbox:8765", "box.internal", "localhost", "evil.internal")
    answers = [plain.get(described["base_url"], headers={"Host": name}).status_code for name in names]
    end(process, signal.SIGTERM)
    assert answers == [200, 200, 200, 403]


def test_a_name_with_a_scheme_cannot_be_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--port", "0", "--allow-host", "http://sandbox"]) == 2
    assert "not the name or address of a host" in capsys.readouterr().err

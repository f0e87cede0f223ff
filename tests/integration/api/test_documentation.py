"""The examples of the client's documentation run as they stand."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_sequentum.api import ClientSettings, SequentumClient
from airflow_provider_sequentum.sandbox import Sandbox

if TYPE_CHECKING:
    import pytest

GUIDE = Path(__file__).parents[3] / "docs" / "python-client.md"


def test_the_examples_of_the_guide_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    examples = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    with Sandbox(time_scale=100) as service:
        agent = service.add_agent("Prices", records=[{"sku": "A1"}])
        monkeypatch.setenv("SEQUENTUM_API_KEY", service.api_key)
        monkeypatch.setenv("SEQUENTUM_BASE_URL", service.base_url)
        monkeypatch.setattr(time, "sleep", lambda seconds, sleep=time.sleep: sleep(seconds / 100))

        namespace: dict[str, object] = {}
        for example in examples:
            exec(compile(example, str(GUIDE), "exec"), namespace)

        with SequentumClient(ClientSettings(api_key=service.api_key, base_url=service.base_url)) as client:
            service.fail_next("POST /agent/{agent_id}/start", "reset_after")
            found = namespace["start_or_find"](client, agent.id)  # type: ignore[operator]

    assert len(examples) >= 4
    assert "A1" in (tmp_path / "output.csv").read_text()
    assert found == service.ledger.runs(agent.id)[-1].run_id

"""The example with the sensor on a real Airflow: the run is started once, waited for by the sensor, and landed."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import pytest

from tests.system.quickstart import read_data_file

if TYPE_CHECKING:
    from tests.system.stage import Stage

pytestmark = pytest.mark.slow


def test_the_sensor_waits_for_the_run_that_the_operator_started(stage: Stage) -> None:
    assert stage.sandbox is not None
    agent_id = int(stage.example_agent_id)
    before = len(stage.sandbox.ledger.starts(agent_id))
    run = stage.airflow.wait(stage.airflow.trigger("start_then_wait"), timeout=240)
    assert run.state == "success", stage.airflow.states(run)

    [started] = stage.sandbox.ledger.starts(agent_id)[before:]
    assert int(stage.airflow.xcom(run, "start_run")) == started.run_id
    assert int(stage.airflow.xcom(run, "wait_for_run")) == started.run_id
    with (stage.lake / "latest" / "output.csv").open(newline="") as file:
        assert list(csv.reader(file))[1:] == [list(row) for row in read_data_file()[1]]

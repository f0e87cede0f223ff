"""After a whole pipeline has run, the API key is in no file and no table but that of the connections."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from tests.cluster.canary import Search, Sighting
from tests.cluster.evidence import KEY_TABLES, Database
from tests.system.harness.database import Postgres

if TYPE_CHECKING:
    from tests.system.stage import Stage


def tables(stage: Stage) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield every table that must not hold a key, with its rows."""
    if isinstance(stage.airflow.database, Postgres):
        yield from Database(stage.airflow.database.dsn).tables()
        return
    with closing(sqlite3.connect(stage.airflow.home / "airflow.db")) as connection:
        connection.row_factory = sqlite3.Row
        names = [row["name"] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for name in names:
            if name not in KEY_TABLES:
                yield name, [dict(row) for row in connection.execute(f'SELECT * FROM "{name}"')]


def test_the_key_is_nowhere_and_what_is_no_secret_is_found(stage: Stage) -> None:
    assert stage.sandbox is not None
    run = stage.airflow.wait(stage.airflow.trigger("quickstart"), timeout=240)
    assert run.state == "success"
    needles = {"key": stage.sandbox.api_key, "session": stage.airflow.xcom(run, "build_agent", "session_id")}
    search = Search(needles, stage.airflow.fernet_key)
    found: list[Sighting] = [*search.in_files(stage.airflow.home), *search.in_files(stage.lake)]
    for table, rows in tables(stage):
        found += search.in_rows(table, rows)
    places = {name: {sighting.place for sighting in found if sighting.needle == name} for name in needles}
    assert places["key"] == set()
    assert stage.sandbox.ledger.leaks == []
    assert any(place.startswith("file logs/") for place in places["session"])
    assert {"column xcom.value", "column rendered_task_instance_fields.rendered_fields"} & places["session"]

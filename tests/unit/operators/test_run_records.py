"""CheckRunRecordsOperator on real files, without a service: it needs none."""

from __future__ import annotations

import datetime as dt
import io
import json
import logging
import re
import shutil
import sys
from collections import defaultdict
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.providers.common.compat.sdk import Asset

from airflow_provider_sequentum.api.agents import Agent
from airflow_provider_sequentum.api.call import Call
from airflow_provider_sequentum.api.parsing import Page
from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.exceptions import (
    RunFilesUnavailable,
    RunRecordsRejected,
    RunRecordsUnreadable,
    SequentumRequestRefused,
    SequentumSkipped,
)
from airflow_provider_sequentum.hooks.connection import SequentumConnection
from airflow_provider_sequentum.hooks.pins import pin_key
from airflow_provider_sequentum.operators.run_records import RECORDS_KEY, CheckRunRecordsOperator
from airflow_provider_sequentum.records.columns import choose_types
from airflow_provider_sequentum.records.excel import SheetWriter
from airflow_provider_sequentum.records.formats import RecordsUnreadable
from airflow_provider_sequentum.records.reading import read_records
from airflow_provider_sequentum.records.writing import RecordFile, write_parquet
from tests.support.landing import FakeTaskInstance
from tests.support.variables import Variables, variables

__all__ = ["variables"]

HEAD = "sku,name,price\n"


def rows(run: int, count: int = 200, price: str = "{:.2f}") -> str:
    """The records of a run: prices change a little from run to run."""
    random = Random(run)
    lines = [
        f"S{number:04d},Thing {number % 7},{price.format(10 + number % 50 + (0.1 if random.random() < 0.05 else 0.0))}"
        for number in range(count)
    ]
    return HEAD + "\n".join(lines) + "\n"


class Checks:
    """Checks of an agent's runs in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ti = FakeTaskInstance()
        self.extras: dict[Any, Any] = defaultdict(lambda: SimpleNamespace(extra={}))

    def land(self, run: int, text: str, name: str = "rows.csv") -> str:
        path = self.folder / f"run-{run}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    def check(self, run: int, text: str | None = None, **parameters: Any) -> list[str]:
        files = parameters.pop("files", None) or [self.land(run, rows(run) if text is None else text)]
        options = {"agent_id": 7, "contract": {"key": "sku"}, "profiles": str(self.folder / "profiles"), **parameters}
        operator = CheckRunRecordsOperator(task_id="check", run_id=run, files=files, outlets=[Asset("a")], **options)
        return self.execute(operator)

    def execute(self, operator: CheckRunRecordsOperator) -> list[str]:
        self.operator = operator
        context: Any = {"ti": self.ti, "task": operator, "outlet_events": self.extras}
        return operator.execute(context)

    def good_runs(self, last: int) -> None:
        """Leave what good runs leave: one is checked, and the others were like it."""
        self.check(1)
        profiles = self.folder / "profiles"
        for run in range(2, last + 1):
            (profiles / f"run-{run}.json").write_text(json.dumps({**self.profile(1), "run_id": run}))
        shutil.copy(profiles / "run-1.parquet", profiles / f"run-{last}.parquet")

    def profile(self, run: int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "profiles" / f"run-{run}.json").read_text())
        return found

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = self.ti.pushed[RECORDS_KEY]
        return found


@pytest.fixture
def checks(tmp_path: Path) -> Checks:
    return Checks(tmp_path)


def test_an_agent_can_be_named(checks: Checks, monkeypatch: pytest.MonkeyPatch) -> None:
    agents = Page([Agent(id=8, name="Prices DE"), Agent(id=7, name="Prices")])
    monkeypatch.setattr(SequentumConnection, "send", lambda hook, call: agents)
    checks.check(1, agent_id=None, agent_name="Prices")
    assert checks.report["agent_id"] == 7
    with pytest.raises(SequentumRequestRefused, match=r"no agent with the name 'Price'\. Nothing was published"):
        checks.check(1, agent_id=None, agent_name="Price")


def test_good_runs_pass_and_leave_a_profile_each(checks: Checks) -> None:
    for run in range(1, 6):
        assert checks.check(run) == [str(checks.folder / f"run-{run}" / "rows.csv")]
    assert checks.report["verdict"] == "passed"
    assert checks.report["learnt_from"] == 4
    assert [extra.extra[RECORDS_KEY]["run_id"] for extra in checks.extras.values()] == [5]
    profiles = {path.name for path in (checks.folder / "profiles").iterdir()}
    assert {f"run-{run}.json" for run in range(1, 6)} <= profiles
    assert sorted(name for name in profiles if name.endswith(".parquet")) == [
        f"run-{run}.parquet" for run in (2, 3, 4, 5)
    ]
    assert checks.profile(5)["change"]["run_id"] == 4


def test_the_log_has_the_result_of_every_check(
    checks: Checks, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = [{"rule": "filled", "column": "sku", "on_breach": "quarantine"}]
    with caplog.at_level(logging.INFO):
        checks.check(1)
        checks.check(2)
        checks.check(3, "sku\n1\n", profiles=None, contract={})
        checks.check(4, "sku,price\n1,2\n,3\n", profiles=None, contract={"rules": rules})
        with pytest.raises(RunRecordsRejected):
            checks.check(5, profiles=None, contract={"rules": [{"rule": "records", "minimum": 10_000}]})
    logged = " ".join((caplog.text + capsys.readouterr().out).split())
    name = "_sequentum_check_run-{0}.html"
    page = f"Report: {checks.folder}/run-{{0}}/checked/{name}"
    assert f"of run 1 of agent 7: passed. Compared with 0 earlier good runs. {page.format(1)}" in logged
    assert "of run 2 of agent 7: passed. Compared with 1 earlier good run. Report:" in logged
    assert f"Checked 1 record of run 3 of agent 7: passed. {page.format(3)}" in logged
    assert f"Checked 2 records of run 4 of agent 7: warned, 1 in quarantine. {page.format(4)}" in logged
    assert f"of run 5 of agent 7: failed. {page.format(5)}" in logged


def test_a_learnt_breach_fails_and_with_few_runs_it_warns(checks: Checks) -> None:
    checks.good_runs(4)
    checks.check(5, rows(5, price="{:.2f} EUR"))
    assert checks.report["verdict"] == "warned"
    checks.good_runs(7)
    with pytest.raises(RunRecordsRejected, match="price") as caught:
        checks.check(8, rows(8, price="{:.2f} EUR"))
    assert (caught.value.agent_id, caught.value.run_id) == (7, 8)
    assert checks.report["verdict"] == "failed"
    assert checks.profile(8)["verdict"] == "failed"
    checks.check(9)
    assert checks.report["learnt_from"] == 7, "a run that failed is not learnt from"


@pytest.mark.parametrize("code", ["10E500", "9" * 320])
def test_a_code_that_looks_like_an_infinite_number_does_not_damage_the_profile(checks: Checks, code: str) -> None:
    for run in (1, 2):
        assert checks.check(run, rows(run) + f"{code},Thing,{code}\n")
    rules = [{"rule": "range", "column": "price", "minimum": 0}]
    with pytest.raises(RunRecordsRejected, match=r"not within 0\.0 or more"):
        checks.check(3, rows(3) + f"S,Thing,{code}\n", contract={"rules": rules})


def test_however_many_runs_fail_the_last_good_ones_are_what_a_run_is_compared_with(checks: Checks) -> None:
    """Else an outage that lasts long enough would pass, and later runs be compared with it."""
    checks.good_runs(6)
    profiles = checks.folder / "profiles"
    broken = {**checks.profile(1), "verdict": "failed"}
    for run in range(7, 60):
        (profiles / f"run-{run}.json").write_text(json.dumps({**broken, "run_id": run}))
    with pytest.raises(RunRecordsRejected, match="price"):
        checks.check(60, rows(60, price="{:.2f} EUR"))
    assert checks.report["learnt_from"] == 6
    assert "the last 30 runs" in Path(checks.report["page"]).read_text()


def test_however_many_runs_fail_the_records_of_the_last_good_one_are_kept(checks: Checks) -> None:
    checks.good_runs(6)
    for run in range(7, 13):
        with pytest.raises(RunRecordsRejected):
            checks.check(run, rows(run, price="{:.2f} EUR"))
    checks.check(13)
    assert checks.profile(13)["change"]["run_id"] == 6
    kept = sorted(path.name for path in (checks.folder / "profiles").glob("*.parquet"))
    assert kept == ["run-10.parquet", "run-11.parquet", "run-12.parquet", "run-13.parquet", "run-6.parquet"]


def test_a_person_accepts_a_change(checks: Checks) -> None:
    checks.good_runs(6)
    with pytest.raises(RunRecordsRejected):
        checks.check(7, rows(7, count=400))
    profile = checks.folder / "profiles" / "run-7.json"
    profile.write_text(profile.read_text().replace('"failed"', '"accepted"'))
    checks.check(7, rows(7, count=400))
    assert checks.report["verdict"] == "accepted"
    assert checks.profile(7)["verdict"] == "accepted"
    checks.check(8, rows(8, count=400))
    assert checks.report["verdict"] == "passed"


def test_a_retry_replaces_its_own_profile_and_compares_with_the_same_runs(checks: Checks) -> None:
    checks.good_runs(6)
    checks.check(7)
    before = checks.profile(7)
    checks.check(7)
    assert checks.profile(7) == before
    checks.check(3)
    assert checks.report["learnt_from"] == 2, "an earlier run that is cleared knows nothing of later ones"


@pytest.mark.parametrize(
    ("on_drift", "error"), [("warn", None), ("skip", SequentumSkipped), ("fail", RunRecordsRejected)]
)
def test_what_a_learnt_breach_means(checks: Checks, on_drift: str, error: type[Exception] | None) -> None:
    checks.good_runs(6)
    if error is None:
        assert checks.check(7, HEAD + "S1,,\n" * 200, on_drift=on_drift, contract={})
    else:
        with pytest.raises(error):
            checks.check(7, HEAD + "S1,,\n" * 200, on_drift=on_drift, contract={})
    assert not (checks.folder / "run-7" / "checked" / "rows.csv").exists()


def test_quarantine(checks: Checks) -> None:
    contract = {
        "columns": {"sku": "string", "price": "number"},
        "schema_contract": {"columns": "discard_value"},
        "rules": [
            {"rule": "range", "column": "price", "minimum": 0, "on_breach": "quarantine"},
            {"rule": "filled", "column": "sku", "on_breach": "quarantine"},
        ],
    }
    paths = checks.check(1, "sku,price,new\n1,2.50,x\n2,-1,\n,-3,\n3,4.00,\n", contract=contract)
    folder = checks.folder / "run-1" / "checked"
    assert paths == [str(folder / "rows.csv")]
    assert (folder / "rows.csv").read_text() == "sku,price\n1,2.50\n3,4.00\n"
    bad = (folder / "quarantine_rows.csv").read_text().splitlines()
    assert bad[0] == "sku,price,new,_quarantine_reason"
    assert bad[1] == "2,-1,,not within 0.0 or more"
    assert bad[2] == ",-3,,not within 0.0 or more; no value"
    assert checks.report["quarantined_records"] == 2
    lineage = checks.operator.get_openlineage_facets_on_complete(None)
    assert lineage is not None
    assert [dataset.name for dataset in lineage.outputs] == [
        str(folder / "rows.csv"),
        str(folder / "quarantine_rows.csv"),
    ]


def test_lineage_of_a_check_that_failed(checks: Checks) -> None:
    contract = {"rules": [{"rule": "filled", "column": "sku"}]}
    with pytest.raises(RunRecordsRejected):
        checks.check(1, "sku,price\n,1\n", contract=contract)
    lineage = checks.operator.get_openlineage_facets_on_complete(None)
    assert lineage is not None
    (file,), outputs = lineage.inputs, lineage.outputs
    assert (file.name, outputs) == (str(checks.folder / "run-1" / "rows.csv"), [])
    assertions = file.inputFacets["dataQualityAssertions"].assertions
    assert [(each.assertion, each.column, each.success) for each in assertions] == [
        ("records_check", None, False),
        ("filled", "sku", False),
    ]


@pytest.mark.parametrize("name", ["rows.json", "rows.ndjson"])
def test_quarantine_of_json(checks: Checks, name: str) -> None:
    records = [{"sku": "1", "n": 1}, {"sku": None, "n": 2}, {"sku": "3", "n": {"a": None}}]
    text = json.dumps(records) if name.endswith(".json") else "\n".join(map(json.dumps, records))
    contract = {"rules": [{"rule": "filled", "column": "sku", "on_breach": "quarantine"}]}
    (path,) = checks.check(1, files=[checks.land(1, text, name)], contract=contract)
    passed = Path(path).read_text()
    assert (json.loads(passed) if name.endswith(".json") else [json.loads(line) for line in passed.splitlines()]) == [
        records[0],
        records[2],
    ]


FILLED = {"rules": [{"rule": "filled", "column": "sku", "on_breach": "quarantine"}]}


@pytest.mark.parametrize("name", ["rows.csv", "rows.json", "rows.ndjson"])
@pytest.mark.parametrize(
    ("encoding", "given"),
    [("cp1252", True), ("utf-16", False), ("utf-16-le", True), ("utf-8-sig", False), ("iso2022_jp", True)],
)
def test_what_passes_keeps_its_encoding(checks: Checks, name: str, encoding: str, given: bool) -> None:
    """What reads the landed files reads those that passed: they are returned in the same place."""
    word = "日本" if encoding == "iso2022_jp" else "é€"
    text = {
        "csv": f"sku,{word}\r\n1,{word}\r\n,{word}\r\n",
        "json": f'[{{"sku": 1, "{word}": "{word}"}},\n{{"sku": "", "{word}": "\\ud83d\\ude00"}}]\n',
        "ndjson": f'{{"sku": 1, "{word}": "\\ud83d\\ude00"}}\n{{"sku": "", "{word}": ""}}\n',
    }[name.rpartition(".")[2]]
    landed = Path(checks.land(1, "", name))
    landed.write_bytes(text.encode(encoding))
    rules = [*FILLED["rules"], {"rule": "allowed", "column": "sku", "values": ["1", "Ω"], "on_breach": "quarantine"}]
    options = {"encoding": encoding} if given else {}
    (path,) = checks.check(1, files=[str(landed)], contract={"rules": rules}, **options)
    (bad,) = checks.report["quarantined"]
    for passed, number in ((path, 1), (bad, 1)):
        with Path(passed).open("rb") as file:
            assert len(list(read_records(file, name, **options))) == number
    kept = Path(path).read_bytes()
    assert word in kept.decode(encoding) or json.dumps(word)[1:-1] in kept.decode(encoding)
    with landed.open("rb") as before, Path(path).open("rb") as after:
        assert list(read_records(after, name, **options)) == list(read_records(before, name, **options))[:1]


def test_a_reason_is_written_in_any_encoding(checks: Checks) -> None:
    contract = {"rules": [{"rule": "allowed", "column": "sku", "values": ["1", "Ω"], "on_breach": "quarantine"}]}
    landed = Path(checks.land(1, ""))
    landed.write_bytes("sku\n1\né\n".encode("cp1252"))
    checks.check(1, files=[str(landed)], contract=contract, encoding="cp1252")
    (bad,) = checks.report["quarantined"]
    assert Path(bad).read_text("cp1252").splitlines()[1] == "é,\"none of '1', '\\u03a9'\""


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.json", "rows.ndjson", "rows.xlsx"])
def test_a_file_of_which_no_record_passes_can_be_read(checks: Checks, name: str) -> None:
    """A run with several files: tasks after the check read them all."""
    records, kind = [{"sku": "", "n": "1"}], name.rpartition(".")[2]
    landed = Path(checks.land(1, "sku\tn\n\t1\n" if kind == "tsv" else "sku,n\n,1\n", name))
    if kind in ("json", "ndjson"):
        landed.write_text(json.dumps(records if kind == "json" else records[0]))
    if kind == "xlsx":
        with SheetWriter(stream := io.BytesIO(), name) as sheet:
            sheet.start(["sku", "n"])
            sheet.write({"sku": None, "n": 1})
            sheet.end()
        landed.write_bytes(stream.getvalue())
    good = checks.land(1, "sku,n\n7,1\n", "good.csv")
    empty = checks.land(1, "sku,n\n", "empty.csv")
    paths = checks.check(1, files=[str(landed), good, empty], contract=FILLED)
    assert [list(read(Path(path))) for path in paths] == [[], [{"sku": "7", "n": "1"}], []]
    if kind == "csv":
        assert Path(paths[0]).read_text() == "sku,n\n"


def test_all_in_quarantine_fails(checks: Checks) -> None:
    contract = {"rules": [{"rule": "filled", "column": "sku", "on_breach": "quarantine"}]}
    with pytest.raises(RunRecordsRejected, match="none passed"):
        checks.check(1, "sku,price\n,1\n", contract=contract)


def test_the_page_escapes_what_a_site_says(checks: Checks) -> None:
    attack = "<script>alert(1)</script>"
    contract = {"rules": [{"rule": "allowed", "column": attack, "values": ["x"], "on_breach": "warn"}]}
    checks.check(1, f'"{attack}",b\n"{attack}",1\n"{attack}",2\n', contract=contract)
    page = Path(checks.report["page"]).read_text()
    assert attack not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    ("parameters", "error", "words"),
    [
        ({"files": []}, SequentumRequestRefused, "at least one"),
        ({"agent_id": "x"}, SequentumRequestRefused, "agent_id must be"),
        ({"on_drift": "ignore"}, SequentumRequestRefused, "on_drift must be"),
        ({"pin_version": "maybe"}, SequentumRequestRefused, "pin_version must be"),
        ({"learn_from": 3}, SequentumRequestRefused, "5 to 30"),
        ({"contract": {"rules": [{"rule": "sql"}]}}, SequentumRequestRefused, "contract is refused"),
        ({"contract": {"rules": [{"rule": "filled", "column": "never"}]}}, RunRecordsRejected, "never"),
        ({"contract": {"key": "never"}}, RunRecordsRejected, "never"),
        ({"profiles": "relative"}, SequentumRequestRefused, "profiles: "),
    ],
)
def test_bad_input(checks: Checks, parameters: dict[str, Any], error: type[Exception], words: str) -> None:
    operator = CheckRunRecordsOperator(
        task_id="check", **{"agent_id": 7, "run_id": 1, "files": [checks.land(1, rows(1))], **parameters}
    )
    with pytest.raises(error, match=words):
        checks.execute(operator)
    assert not checks.extras


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("", RunRecordsUnreadable, "0 bytes"),
        (HEAD, RunRecordsRejected, "the files contain none"),
        ("a,b\n1\n", RunRecordsUnreadable, "cells"),
        (
            ",".join(f"c{n}" for n in range(2_001)) + "\n" + ",".join("1" * 2_001) + "\n",
            RunRecordsUnreadable,
            "2,001 columns",
        ),
    ],
)
def test_bad_files(checks: Checks, text: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        checks.check(1, text, contract={})
    assert not checks.extras


def test_records_without_fields(checks: Checks) -> None:
    with pytest.raises(RunRecordsUnreadable, match=r"cannot be checked\. None of the 2 records has a field\."):
        checks.check(1, files=[checks.land(1, "[{}, {}]", "rows.json")], contract={})


def test_other_columns_than_ever(checks: Checks) -> None:
    checks.good_runs(6)
    with pytest.raises(RunRecordsRejected, match="missing"):
        checks.check(7, "id,title\n1,a\n", contract={})


def test_a_file_that_is_gone(checks: Checks) -> None:
    with pytest.raises(RunFilesUnavailable):
        checks.check(1, files=[str(checks.folder / "gone.csv")])


def test_profiles_of_another_agent_and_damaged_ones(checks: Checks) -> None:
    checks.check(1)
    with pytest.raises(SequentumRequestRefused, match="belongs to agent 7, not 8"):
        checks.check(2, agent_id=8)
    profile = checks.folder / "profiles" / "run-1.json"
    profile.write_text(profile.read_text()[:100])
    with pytest.raises(SequentumRequestRefused, match=r"run-1\.json is damaged or is not a profile"):
        checks.check(2)
    assert not (checks.folder / "profiles" / "run-2.json").exists()


def test_keys_that_are_empty_or_repeat_are_drift_and_no_error(checks: Checks) -> None:
    checks.good_runs(6)
    for text in (rows(7).replace("S", ""), HEAD + ",Thing 1,10.00\n" * 200):
        with pytest.raises(RunRecordsRejected):
            checks.check(7, text)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """A service where each run has the version 30, but run 9 none; and what it is asked."""
    asked: list[tuple[str, int, int]] = []

    def send(hook: SequentumConnection, call: Call[Run]) -> Run:
        agent_id, run_id = (int(part) for part in re.findall(r"[0-9]+", call.path.partition("/agent/")[2]))
        asked.append((hook.sequentum_conn_id, agent_id, run_id))
        version = None if run_id == 9 else 30
        return Run.model_validate({"id": run_id, "configId": agent_id, "configVersion": version})

    monkeypatch.setattr(SequentumConnection, "send", send)
    return asked


def test_a_run_that_passed_pins_its_version(
    checks: Checks, asked: list[tuple[str, int, int]], variables: Variables
) -> None:
    checks.check(1)
    checks.check(1, pin_version="", sequentum_conn_id="other")
    assert asked == []
    checks.check(1, pin_version="true", sequentum_conn_id="other")
    assert asked == [("other", 7, 1)]
    assert variables == {pin_key("other", 7): "30"}
    checks.check(9, pin_version=True, sequentum_conn_id="other")
    assert variables == {pin_key("other", 7): "30"}


@pytest.mark.parametrize("on_breach", ["warn", "skip", "fail"])
def test_a_run_with_a_breach_pins_nothing(
    checks: Checks, asked: list[tuple[str, int, int]], variables: Variables, on_breach: str
) -> None:
    contract = {"rules": [{"rule": "filled", "column": "never", "on_breach": on_breach}]}
    with suppress(RunRecordsRejected, SequentumSkipped):
        checks.check(1, contract=contract, pin_version=True)
    assert checks.report["verdict"] != "passed"
    assert (asked, variables) == ([], {})


def test_an_accepted_run_pins_its_version(
    checks: Checks, asked: list[tuple[str, int, int]], variables: Variables
) -> None:
    contract = {"rules": [{"rule": "filled", "column": "never", "on_breach": "warn"}]}
    checks.check(1, contract=contract)
    profile = checks.folder / "profiles" / "run-1.json"
    profile.write_text(profile.read_text().replace('"warned"', '"accepted"'))
    checks.check(1, contract=contract, pin_version=True)
    assert variables == {pin_key("sequentum_default", 7): "30"}


def test_without_the_extra(checks: Checks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(ImportError, match=r"airflow-provider-sequentum\[quality\]"):
        checks.check(1)


def test_a_contract_of_the_standard(checks: Checks) -> None:
    (checks.folder / "contract.yaml").write_text(
        "apiVersion: v3.1.0\nkind: DataContract\nschema:\n- name: a\n  properties:\n  - {name: sku, required: true}\n"
    )
    path = str(checks.folder / "contract.yaml")
    checks.check(1, contract=None, contract_file=path)
    with pytest.raises(RunRecordsRejected, match="filled 'sku'"):
        checks.check(2, 'sku\n1\n" "\n', contract=None, contract_file=path)


def test_a_contract_file_that_cannot_be_read(checks: Checks) -> None:
    with pytest.raises(RunFilesUnavailable, match=r"Could not read .*missing\.yaml.*Nothing was checked\. A retry"):
        checks.check(1, contract=None, contract_file=str(checks.folder / "missing.yaml"))


DAY = dt.datetime.fromisoformat("2024-01-05T10:00:00")
TYPED: list[dict[str, Any]] = [
    {"sku": "=1+1", "price": 2.5, "n": 2**53 + 1, "ok": True, "at": DAY},
    {"sku": "2", "price": -1.0, "n": 2, "ok": False, "at": DAY},
    {"sku": None, "price": -3.0, "n": None, "ok": None, "at": None},
    {"sku": "#N/A", "price": 0.1 + 0.2, "n": 4, "ok": True, "at": DAY},
]
BOTH = {
    "rules": [
        {"rule": "range", "column": "price", "minimum": 0, "on_breach": "quarantine"},
        {"rule": "filled", "column": "sku", "on_breach": "quarantine"},
    ]
}


def workbook(path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(list(TYPED[0]))
    for record in TYPED:
        book.active.append(list(record.values()))
        for cell in book.active[book.active.max_row]:
            if isinstance(cell.value, str):
                cell.data_type = "s"
    book.save(path)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.xlsx"])
def test_quarantine_of_files_with_types(checks: Checks, name: str) -> None:
    """What passed is read as the landed file is: numbers, times, and text that looks like a formula."""
    path = Path(checks.land(1, "", name))
    workbook(path) if name.endswith("xlsx") else pq.write_table(pa.Table.from_pylist(TYPED), path)
    landed = read(path)
    passed = checks.check(1, files=[str(path)], contract=BOTH)
    folder = checks.folder / "run-1" / "checked"
    assert passed == [str(folder / name)]
    assert read(folder / name) == [landed[0], landed[3]]
    assert (landed[0]["sku"], landed[3]["sku"], landed[0]["at"]) == ("=1+1", "#N/A", DAY)
    assert read(folder / f"quarantine_{name}") == [
        {**landed[1], "_quarantine_reason": "not within 0.0 or more"},
        {**landed[2], "_quarantine_reason": "not within 0.0 or more; no value"},
    ]
    assert checks.report["quarantined_records"] == 2


def read(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as file:
        return list(read_records(file, path.name))


def test_what_passes_of_parquet_keeps_its_types(checks: Checks) -> None:
    """Also of a column whose values are dropped in some records, of lists, and of a file without records."""
    table = pa.table(
        {
            "sku": pa.array(["1", "x", "3"]).dictionary_encode(),
            "tags": pa.array([["a"], None, [None, "b"]]),
            "price": pa.array([Decimal("1.50"), Decimal("2.50"), Decimal("-1.00")]),
            "new": pa.array([1, 2, 3], pa.int16()),
        }
    )
    paths = [Path(checks.land(1, "", name)) for name in ("none.parquet", "rows.parquet")]
    pq.write_table(table.slice(0, 0), paths[0])
    pq.write_table(table, paths[1])
    contract = {
        "columns": {"sku": "integer", "tags": "string", "price": "number"},
        "schema_contract": "discard_value",
        "rules": [{"rule": "range", "column": "price", "minimum": 0, "on_breach": "quarantine"}],
    }
    passed = checks.check(1, files=[str(path) for path in paths], contract=contract)
    none, rows = (pq.read_table(path) for path in passed)
    assert none.schema == rows.schema
    assert rows.schema.types == table.schema.types[:3]
    assert rows.to_pylist() == [
        {"sku": "1", "tags": ["a"], "price": Decimal("1.50")},
        {"sku": None, "tags": None, "price": Decimal("2.50")},
    ]
    [bad] = pq.read_table(checks.folder / "run-1" / "checked" / "quarantine_rows.parquet").to_pylist()
    assert bad == {**table.to_pylist()[2], "_quarantine_reason": "not within 0.0 or more"}


def partitions(checks: Checks, work: Path) -> list[str]:
    """Land rows as two partitions."""
    source = work / "rows.csv"
    source.write_text("region,sku,price\nE/U,1,2.5\nE/U,,3\nUS,3,-4\nUS,4,5\n")
    file, folder = RecordFile(source, source.name), checks.folder / "run-1"
    types = choose_types([file.types()], {}, {})
    paths = []
    for part in write_parquet(file, list(types), types, ["region"], work, lambda: None):
        path = folder / part.folder / "rows.parquet"
        path.parent.mkdir(parents=True)
        paths.append(str(part.path.rename(path)))
    return paths


def test_partitions_that_passed_are_partitions(checks: Checks, tmp_path: Path) -> None:
    checks.folder = tmp_path / "lake"
    paths = partitions(checks, tmp_path)
    passed = checks.check(1, files=paths, contract=BOTH)
    folder = checks.folder / "run-1" / "checked"
    assert passed == [str(folder / f"region={name}" / "rows.parquet") for name in ("E%2FU", "US")]
    assert [record for path in passed for record in read(Path(path))] == [
        {"region": "E/U", "sku": 1, "price": 2.5},
        {"region": "US", "sku": 4, "price": 5.0},
    ]
    assert pq.ParquetFile(passed[0]).schema_arrow.names == ["sku", "price"]
    bad = [str(folder / "_quarantine" / f"region={name}" / "rows.parquet") for name in ("E%2FU", "US")]
    assert checks.report["quarantined"] == bad
    assert [record["_quarantine_reason"] for path in bad for record in read(Path(path))] == [
        "no value",
        "not within 0.0 or more",
    ]


@pytest.mark.parametrize(
    "contract",
    [
        {"columns": {"sku": "integer"}, "schema_contract": {"columns": "discard_value"}},
        {"columns": {"region": "integer"}, "schema_contract": {"data_type": "discard_value"}},
    ],
)
def test_the_column_that_names_the_folders_cannot_be_emptied(
    checks: Checks, tmp_path: Path, contract: dict[str, Any]
) -> None:
    checks.folder = tmp_path / "lake"
    paths = partitions(checks, tmp_path)
    with pytest.raises(RunRecordsUnreadable, match="because it is a partition column"):
        checks.check(1, files=paths, contract=contract)


@pytest.mark.parametrize("form", [str, lambda folder: f"{folder}/", lambda folder: folder.as_uri()])
@pytest.mark.parametrize("is_partitioned", [False, True])
def test_no_landed_file_is_overwritten(checks: Checks, tmp_path: Path, form: Any, is_partitioned: bool) -> None:
    checks.folder = tmp_path / "lake"
    paths = partitions(checks, tmp_path) if is_partitioned else [checks.land(1, "sku,price\n1,2.50\n,3\n4,-1\n")]
    before = [Path(path).read_bytes() for path in paths]
    with pytest.raises(RunRecordsUnreadable, match=r"rows\..*' would overwrite a landed file. Choose another dest"):
        checks.check(1, files=paths, contract=BOTH, destination=form(checks.folder / "run-1"))
    assert [Path(path).read_bytes() for path in paths] == before
    good = {"rules": [{"rule": "filled", "column": "price", "on_breach": "quarantine"}]}
    assert checks.check(1, files=paths, contract=good, destination=form(checks.folder / "run-1")) == paths


@pytest.mark.parametrize("order", [1, -1])
def test_what_passed_of_a_file_is_not_the_quarantine_of_another(checks: Checks, order: int) -> None:
    paths = [checks.land(1, "sku,price\n1,2\n,3\n", name) for name in ("rows.csv", "quarantine_rows.csv")][::order]
    with pytest.raises(RunRecordsUnreadable, match=r"Two files would have the name 'quarantine_rows\.csv'"):
        checks.check(1, files=paths, contract=BOTH)


def test_a_workbook_holds_each_value_as_it_is() -> None:
    records: list[dict[str, Any]] = [
        {"": None, "a": "=1+1", "b": 0.1 + 0.2, "c": 2**53 + 1},
        {"": "x", "a": " é\n", "b": 1e300, "c": -7},
        {"": True, "a": dt.time(10, 30), "b": DAY, "c": "7"},
    ]
    with SheetWriter(file := io.BytesIO(), "rows.xlsx") as sheet:
        sheet.start(records[0])
        for record in records:
            sheet.write(record)
        sheet.end()
    file.seek(0)
    assert list(read_records(file, "rows.xlsx")) == records


@pytest.mark.parametrize(("value", "says"), [("x" * 40_000, "32,767 characters"), ("a\x01b", "a\ufffdb")])
def test_what_no_workbook_holds_is_not_cut_off(value: str, says: str) -> None:
    with (
        pytest.raises(RecordsUnreadable, match=f"cannot be written after row 0: .*{says}"),
        SheetWriter(io.BytesIO(), "rows.xlsx") as sheet,
    ):
        sheet.write({"a": value})

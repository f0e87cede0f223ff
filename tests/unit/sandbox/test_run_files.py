from __future__ import annotations

import csv
import importlib.util
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sequentum.sandbox.agents import ExtraFile
from airflow_provider_sequentum.sandbox.run_files import RunFile, check_output, files_of, render
from airflow_provider_sequentum.sandbox.run_plan import RunPlan
from airflow_provider_sequentum.sandbox.runs import RunOptions, observe
from tests.unit.sandbox.world import World

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@given(st.lists(st.fixed_dictionaries({"a": text, "b,c": text, 'd"': text}), max_size=5))
def test_csv_says_what_went_in(records: list[dict[str, str]]) -> None:
    assert list(csv.DictReader(io.StringIO(render(records, "csv").decode(), newline=""))) == records


@given(st.lists(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | text), max_size=5))
def test_json_says_what_went_in(records: list[dict[str, Any]]) -> None:
    assert json.loads(render(records, "json")) == records
    # By line feeds only: JSON text may hold other line separators as they are.
    assert [json.loads(line) for line in render(records, "ndjson").decode().split("\n")[:-1]] == records


def test_records_may_differ_in_their_fields() -> None:
    assert render([{"a": 1}, {"b": [1, True]}], "csv") == b'a,b\r\n1,\r\n,"[1, true]"\r\n'


def test_a_format_without_its_library_is_refused_early() -> None:
    for output, library in (("parquet", "pyarrow"), ("xlsx", "openpyxl")):
        if importlib.util.find_spec(library) is None:
            with pytest.raises(ValueError, match=f"needs the package {library}"):
                check_output(output)  # type: ignore[arg-type]
        else:
            assert render([{"a": 1}], output)  # type: ignore[arg-type]


def files(world: World, after: float, options: RunOptions | None = None, **agent: Any) -> list[RunFile]:
    subject = world.agent(agent.pop("plan", RunPlan(duration=10)), **agent)
    run = world.engine.start(subject.id, options or RunOptions())
    world.clock.advance(after)
    return files_of(run, subject, observe(run, world.engine.settle()))


def test_there_are_no_files_before_the_end(world: World) -> None:
    assert files(world, 9.9) == []


def test_data_comes_first_then_the_log(world: World) -> None:
    found = files(world, 10)
    assert [(file.name, file.file_type) for file in found] == [("output.csv", 1), ("log.txt", 6)]
    assert [file.render().decode().count("\n") for file in found if file.render] == [11, 3]


def test_a_html_log_is_left_when_asked_for(world: World) -> None:
    found = files(world, 10, RunOptions(log_mode="TextAndHtml"))
    assert (found[-1].name, found[-1].file_type) == ("log.html", 7)


def test_names_are_escaped_in_the_html_log(world: World) -> None:
    agent = world.engine.add_agent("<script>", [{"a": 1}], world.clock.now(), plan=RunPlan(duration=1))
    run = world.engine.start(agent.id, RunOptions(log_mode="TextAndHtml"))
    world.clock.advance(1)
    html = files_of(run, agent, observe(run, world.engine.settle()))[-1].render
    assert html is not None
    assert b"<script>" not in html()


def test_a_failure_leaves_what_it_extracted(world: World) -> None:
    found = files(world, 10, plan=RunPlan(outcome="Failure", duration=10))
    assert found[0].render is not None
    assert found[0].render().count(b"\n") == 6


def test_a_skipped_run_leaves_nothing(world: World) -> None:
    assert files(world, 10, plan=RunPlan(outcome="Skipped")) == []


def test_separate_exports_share_the_records(world: World) -> None:
    found = files(world, 10, RunOptions(parallelism=3, parallel_export="Separated"))[:-1]
    assert [file.name for file in found] == ["output_1.csv", "output_2.csv", "output_3.csv"]
    assert sum(file.render().count(b"\n") - 1 for file in found if file.render) == 10


def test_an_export_without_records_has_their_columns(world: World) -> None:
    options = RunOptions(parallelism=3, parallel_export="Separated")
    found = files(world, 10, options, records=2)[:-1]
    lines = [file.render().splitlines() for file in found if file.render]
    assert [len(each) for each in lines] == [2, 2, 1]
    assert len({each[0] for each in lines}) == 1


def test_further_files_keep_whatever_name_they_have(world: World) -> None:
    found = files(world, 10, extra_files=[ExtraFile(name="../../etc/x\0", content="bad")])
    assert found[1].name == "../../etc/x\0"
    assert found[1].render is not None
    assert found[1].render() == b"bad"


def test_ids_differ(world: World) -> None:
    ids = [file.id for file in files(world, 10, extra_files=[ExtraFile(name="a"), ExtraFile(name="a")])]
    assert len(set(ids)) == len(ids) == 4

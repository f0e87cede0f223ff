from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_sequentum.api.runs import Run
from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.operators.space_run import StartSpaceRunsOperator
from airflow_provider_sequentum.runs.record import RunConfig
from airflow_provider_sequentum.spaces.record import (
    AgentEnd,
    EndKind,
    SpaceConfig,
    SpaceRecord,
)
from tests.support.service import START

CONFIG = SpaceConfig(space_id=1, input_parameters='{"a": 1}', timeout=100.0)
INTENT = SpaceRecord(config=CONFIG, fingerprint=CONFIG.fingerprint(), max_tries=2, requested_at=START, deadline=START)


def run(run_id: int, **fields: Any) -> Run:
    times = {"created": START.isoformat(), "startTime": START.isoformat(), "endTime": START.isoformat()}
    counts = {"dataCount": 123456, "exportCount": 123456, "errorCount": 12, "pageCount": 123456, "runTimeSec": 12345}
    ids = {"id": run_id, "configId": run_id - 100, "status": 6, "tableType": "run"}
    return Run.model_validate({**ids, **times, **counts, **fields})


def full_record(agents: int) -> SpaceRecord:
    """Return the largest record of so many agents: all ended badly, with as much to say as can be."""
    record = INTENT.updated(runs={}, replaced=dict.fromkeys(range(1, agents + 1), (1, 2, 3)))
    for agent in range(1, agents + 1):
        record = record.with_run(agent, record.intent_of(agent).started(100_000 + agent).restarting(START, START))
        end = AgentEnd.of(EndKind.RETRIED, "x" * 4000, run(100_000 + agent, message="y" * 2000), {"note": "z" * 4000})
        record = record.updated(ended={**record.ended, agent: end})
    return record


def through_json(record: SpaceRecord) -> SpaceRecord:
    return SpaceRecord.from_json(json.loads(json.dumps(record.to_json())))


@pytest.mark.parametrize(
    "record",
    [
        INTENT,
        INTENT.updated(runs={}),
        INTENT.updated(runs={7: INTENT.intent_of(7).started(101)}, not_started={8: "why"}, is_incomplete=True),
        INTENT.updated(replaced={7: (101, 102)}, is_ambiguous=True, is_guess=True),
        INTENT.updated(ended={7: AgentEnd.of(EndKind.SUCCEEDED, "", run(107), {"cost": 1.5})}),
    ],
)
def test_a_record_outlives_its_json(record: SpaceRecord) -> None:
    assert through_json(record) == record


def test_the_record_of_many_runs_stays_small() -> None:
    assert len(json.dumps(full_record(100).to_json())) < 64_000


def test_what_a_run_has_in_common_with_the_others_is_recorded_once() -> None:
    own = CONFIG.of_agent(7)
    record = INTENT.intent_of(7).updated(config=own, fingerprint=own.fingerprint(), deadline=START).started(101)
    slim = INTENT.with_run(7, record).to_json()["runs"]["7"]
    assert slim == {
        "agent_id": 7,
        "run_id": 101,
        "max_tries": 2,
        "requested_at": START.isoformat().replace("+00:00", "Z"),
    }


def test_texts_of_ended_runs_keep_their_beginning_and_their_end() -> None:
    message = f"Run 101 of agent 7 ended: Failure. {'x' * 5000} The next attempt restarts it in place."
    ended = {agent: AgentEnd.of(EndKind.RETRIED, message, run(107), {"cost": 1.5}) for agent in range(40)}
    read = through_json(INTENT.updated(ended=ended)).ended[7]
    assert read.message.startswith("Run 101 of agent 7 ended: Failure.")
    assert "[cut]" in read.message
    assert read.message.endswith("The next attempt restarts it in place.")
    assert (read.extras, read.kind) == ({"cost": 1.5}, EndKind.RETRIED)
    last = read.last_run(7, 107)
    assert last is not None
    assert (last.id, last.agent_id, last.data_count, last.message) == (107, 7, 123456, None)


def test_what_a_later_version_adds_is_ignored_and_what_an_earlier_one_lacks_has_a_default() -> None:
    value = INTENT.updated(runs={7: INTENT.intent_of(7).started(101)}).to_json()
    value["more"] = value["config"]["more"] = value["runs"]["7"]["more"] = 1
    for absent in ("fingerprint", "max_tries", "ended", "replaced", "is_incomplete"):
        value.pop(absent, None)
    value["config"].pop("on_partial")
    read = SpaceRecord.from_json(value)
    assert (read.known_runs[7].run_id, read.replaced, read.ended, read.max_tries) == (101, {}, {}, None)
    assert read.config == CONFIG


@pytest.mark.parametrize("value", [None, 1, [], "x", {"format": 1, "space_id": 1}, {"runs": 3}, {"runs": {"x": {}}}])
def test_what_cannot_be_read_is_never_no_record(value: object) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        SpaceRecord.from_json(value)


def test_agents_whose_run_was_not_found_count_as_not_started() -> None:
    runs = {7: INTENT.intent_of(7).started(101), 8: INTENT.intent_of(8)}
    record = INTENT.updated(runs=runs, not_started={9: "why"})
    assert record.is_in_doubt
    known = record.without_doubts()
    assert (set(known.known_runs), set(known.not_started), known.is_in_doubt) == ({7}, {8, 9}, False)


# What the parameters mean


class Lazy:
    """The output of a mapped task, which is read from XComs as it is asked for."""

    def __iter__(self) -> Any:
        return iter([1, 2])


@pytest.mark.parametrize(
    ("name", "value", "means"),
    [
        ("input_parameters", {"a": Lazy()}, '{"a": [1, 2]}'),
        (
            "input_parameters",
            {"day": START.date(), "at": START},
            '{"at": "2026-11-22T09:00:00+00:00", "day": "2026-11-22"}',
        ),
        ("input_parameters", "", None),
        ("stop_grace", 0, 0.0),
        ("stop_grace", "", 45.0),
        ("restart_delay", "0", 0.0),
        ("timeout", timedelta(minutes=1), 60.0),
        ("timeout", None, None),
        ("on_partial", "", "fail"),
        ("restarts", "2", 2),
        ("space_id", "7", 7),
        ("report_cost", "True", True),
    ],
)
def test_what_a_parameter_means(name: str, value: object, means: object) -> None:
    arguments: dict[str, Any] = {"space_id": 1, name: value}
    operator = StartSpaceRunsOperator(task_id="t", **arguments)
    assert getattr(SpaceConfig.of(operator), name) == means


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stop_grace", True),
        ("space_id", True),
        ("restarts", -1),
        ("on_partial", "x"),
        ("input_parameters", {"a": b"x"}),
    ],
)
def test_what_a_parameter_may_not_be(name: str, value: object) -> None:
    arguments: dict[str, Any] = {"space_id": 1, name: value}
    operator = StartSpaceRunsOperator(task_id="t", **arguments)
    with pytest.raises(SequentumRequestRefused, match=f"^{name} "):
        SpaceConfig.of(operator)


def test_other_inputs_are_another_piece_of_work_and_another_policy_is_not() -> None:
    assert CONFIG.fingerprint() == CONFIG.updated(timeout=5.0, on_partial="warn").fingerprint()
    assert CONFIG.fingerprint() != CONFIG.updated(input_parameters=None).fingerprint()
    assert CONFIG.fingerprint() != CONFIG.updated(space_id=2).fingerprint()


def test_each_agent_is_handled_as_the_space_is() -> None:
    own = CONFIG.updated(restarts=3, on_empty="skip").of_agent(7)
    assert (own.agent_id, own.input_parameters, own.restarts, own.on_empty) == (7, '{"a": 1}', 3, "skip")
    assert RunConfig.from_json(own.to_json()) == own  # which is not parsed, since that of the space was

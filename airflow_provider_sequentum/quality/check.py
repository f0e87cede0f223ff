"""The check of a run's records, from the landed files to the report, without Airflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from airflow_provider_sequentum.quality.contract import Contract
from airflow_provider_sequentum.quality.drift import MIN_RUNS, find_drift
from airflow_provider_sequentum.quality.engine import Table, Workspace
from airflow_provider_sequentum.quality.history import Folder, History, StoredPath, read_history
from airflow_provider_sequentum.quality.judge import Breach, Judgement, judge
from airflow_provider_sequentum.quality.passing import write_passed
from airflow_provider_sequentum.quality.profile import Profile, compare, profile
from airflow_provider_sequentum.quality.report import MAX_LINES, Report, page
from airflow_provider_sequentum.records.formats import RecordsUnreadable, TextOptions

MAX_COLUMNS = 2_000
"""The maximum number of columns. In a table with more, values are probably used as column names."""


@dataclass(frozen=True)
class Check:
    """What to check, and against what.

    :param files: the landed files.
    :param profiles: the folder with the profiles of the agent's runs; ``None`` does not compare with earlier runs.
    :param destination: where the files that passed and the report are written.
    :param on_drift: what to do about drift.
    :param learn_from: the number of the last good runs to compare with.
    """

    agent_id: int
    run_id: int
    files: Sequence[StoredPath]
    contract: Contract
    profiles: Folder | None
    destination: Folder
    on_drift: str
    learn_from: int
    text_options: TextOptions

    @property
    def page_name(self) -> str:
        """The file name of the report's page."""
        return f"_sequentum_check_run-{self.run_id}.html"


def check_records(check: Check, workspace: Workspace) -> Report:
    """Check records and write the report, the files that passed and, last, the run's profile.

    :raises SequentumRequestRefused: the contract cannot be checked.
    :raises ValueError: the profiles belong to another agent, or are damaged.
    :raises RecordsUnreadable: a file cannot be read or, if records have to be removed from it, written.
    """
    history = None if check.profiles is None else read_history(check.profiles, check.agent_id, check.run_id)
    loaded = workspace.load(check.files, **check.text_options)
    if loaded.records and not loaded.columns:
        raise RecordsUnreadable(f"None of the {loaded.records:,} records has a field.")
    if len(loaded.columns) > MAX_COLUMNS:
        raise RecordsUnreadable(
            f"The records have {len(loaded.columns):,} columns, and at most {MAX_COLUMNS:,} are checked. "
            "Are values used as the names of fields?"
        )
    # Compared as text, because both the number in a price and the way it is written show whether the agent still finds
    # the price.
    table = loaded.as_text()
    judgement = judge(table, check.contract)
    found = profile(
        table, agent_id=check.agent_id, run_id=check.run_id, key=check.contract.key, filled=judgement.filled
    )
    learnt = history.learnt(check.learn_from) if history else []
    found = _with_change(found, table, history, learnt, check.contract.key)
    is_accepted = history is not None and history.own is not None and history.own.verdict == "accepted"
    report = Report(
        profile=found,
        breaches=[*judgement.breaches, *_learnt_breaches(check, found, learnt, is_accepted)],
        learnt_from=len(learnt),
        is_accepted=is_accepted,
        paths=[str(file) for file in check.files],
    )
    if report.is_good and judgement.removal:
        _take_out(check, table, judgement, report)
    _write(check, report, history, table)
    return report


def _with_change(
    found: Profile, table: Table, history: History | None, learnt: Sequence[Profile], key: Sequence[str]
) -> Profile:
    before = history.records_before(table, found.run_id, learnt) if history and key and found.records else None
    change = None if before is None else compare(table, before[0], key, before[1])
    return found.model_copy(update={"change": change})


def _learnt_breaches(check: Check, found: Profile, learnt: Sequence[Profile], is_accepted: bool) -> list[Breach]:
    if not found.records:
        return []
    on_breach = check.on_drift if len(learnt) >= MIN_RUNS and not is_accepted else "warn"
    return [Breach("learnt", drift.column, on_breach, str(drift)) for drift in find_drift(found, learnt)]


def _take_out(check: Check, table: Table, judgement: Judgement, report: Report) -> None:
    passed = write_passed(table, judgement.removal, check.files, check.destination, **check.text_options)
    report.paths, report.quarantined, report.quarantined_records = passed.paths, passed.quarantined, passed.records
    report.written = [*passed.paths, *passed.quarantined]
    if passed.records == table.records:
        report.breaches.append(Breach("records", None, "fail", "all of them were quarantined, none passed"))


def _write(check: Check, report: Report, history: History | None, table: Table) -> None:
    found = {"verdict": report.verdict, "breaches": report.lines()[:MAX_LINES]}
    saved = report.profile.model_copy(update=found)
    content = page(report, history.earlier if history else []).encode()
    with check.destination.write(check.page_name) as stream:
        stream.write(content)
    report.page = str(check.destination.path / check.page_name)
    if history is not None:
        history.save(saved, table)

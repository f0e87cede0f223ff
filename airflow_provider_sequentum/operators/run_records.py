"""The operator that checks a run's records before they are loaded."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_sequentum.exceptions import (
    RunRecordsRejected,
    RunRecordsUnreadable,
    SequentumSkipped,
    about_run,
    value_errors_as_exceptions,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_sequentum.quality.check import Check
    from airflow_provider_sequentum.quality.contract import Contract
    from airflow_provider_sequentum.quality.report import Report
    from airflow_provider_sequentum.transfers.configurations import CheckConfig
    from airflow_provider_sequentum.transfers.landing import LandingFolder

log = logging.getLogger(__name__)

RECORDS_KEY = "records_check"
"""XCom key of the report."""


class CheckRunRecordsOperator(BaseOperator):
    """Check the records of landed files against a contract, and against what the agent delivered in its last good runs.

    Returns the paths that passed: the landed files, or new ones without the records that were quarantined. The report
    is pushed under the XCom key ``records_check``, added to the extra of the asset events, and written as an HTML page
    next to the files. Files are read one record at a time. Needs the extra ``quality``.

    ``None`` and an empty string leave a parameter unset.

    :param agent_id: the agent, as an int or a string of digits. Give this or ``agent_name``.
    :param agent_name: the agent's exact and unique name. Adds one API request.
    :param run_id: the run, as an int or a string of digits. Runs with lower ids are earlier ones.
    :param files: one or several landed files, as ``RunFilesToObjectStorageOperator`` returns them.
    :param contract: a mapping with ``columns``, ``key``, ``rules`` and ``schema_contract``, or a
        ``quality.contract.Contract``. Not a template. Default: no rules.
    :param contract_file: instead, the path of a file of the Open Data Contract Standard, version 3.1.0.
    :param contract_schema: the schema object in that file. Default: the only one.
    :param profiles: the folder for the profiles of the agent's runs. Each agent needs its own, and each of several
        checks of an agent's records too. Default: the records are not compared with earlier runs.
    :param on_drift: what to do if the records drifted, compared with earlier runs: ``fail`` (default), ``warn`` or
        ``skip``. With fewer than five earlier good runs, drift only causes a warning.
    :param learn_from: number of the last good runs to compare with, 5 to 30. Default 20.
    :param destination: the folder for files that passed, the quarantine and the report. Default: ``checked`` in the
        folder that the files have in common.
    :param pin_version: pin the run's version of the agent, for ``expected_version="pinned"`` of
        ``StartAgentRunOperator``, if there are no breaches or a person has accepted the run. Adds one API request.
        Default: False.
    :param sequentum_conn_id: the Airflow connection to Sequentum Cloud, for ``agent_name`` and ``pin_version``.
        Default: ``sequentum_default``.
    :param encoding: of text files. Default: by their byte order mark, else UTF-8.
    :param delimiter: of CSV files. Default: a comma, a tab in ``.tsv``.
    :param storage_conn_id: the connection of the object storage, if it is not part of the paths.
    :raises RunRecordsRejected: a rule with ``on_breach="fail"`` is broken, or the records drifted. Not retried.
    :raises SequentumSkipped: the worst breach says ``skip``.
    :raises SequentumRequestRefused: a parameter, the contract or the folder of profiles is wrong.
    :raises RunRecordsUnreadable: a file is not of the type that its name says, or cannot be written without some
        records.
    :raises RunFilesUnavailable: the storage failed, or the memory or temporary disk was not enough.
    """

    template_fields: Sequence[str] = (
        "agent_id",
        "agent_name",
        "run_id",
        "files",
        "contract_file",
        "contract_schema",
        "profiles",
        "on_drift",
        "learn_from",
        "destination",
        "pin_version",
        "sequentum_conn_id",
        "encoding",
        "delimiter",
        "storage_conn_id",
    )
    ui_color = "#e3f1ee"

    def __init__(
        self,
        *,
        agent_id: int | str | None = None,
        agent_name: str | None = None,
        run_id: int | str,
        files: str | Sequence[str],
        contract: Mapping[str, Any] | Contract | None = None,
        contract_file: str | None = None,
        contract_schema: str | None = None,
        profiles: str | None = None,
        on_drift: str | None = "fail",
        learn_from: int | str | None = 20,
        destination: str | None = None,
        pin_version: bool | str = False,
        sequentum_conn_id: str = "sequentum_default",
        encoding: str | None = None,
        delimiter: str | None = None,
        storage_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.agent_id = agent_id
        self.agent_name = agent_name
        self.run_id = run_id
        self.files = files
        self.contract = contract
        self.contract_file = contract_file
        self.contract_schema = contract_schema
        self.profiles = profiles
        self.on_drift = on_drift
        self.learn_from = learn_from
        self.destination = destination
        self.pin_version = pin_version
        self.sequentum_conn_id = sequentum_conn_id
        self.encoding = encoding
        self.delimiter = delimiter
        self.storage_conn_id = storage_conn_id
        self._checked: tuple[CheckConfig, Report] | None = None

    def execute(self, context: Context) -> list[str]:
        """Check the records. Returns the paths that passed."""
        from airflow_provider_sequentum.hooks.connection import SequentumConnection
        from airflow_provider_sequentum.quality.check import check_records
        from airflow_provider_sequentum.quality.engine import open_workspace
        from airflow_provider_sequentum.records.formats import RecordsUnreadable
        from airflow_provider_sequentum.reporting.asset_events import add_extra
        from airflow_provider_sequentum.transfers.configurations import CheckConfig

        config = CheckConfig.of(self)
        with closing(SequentumConnection(config.sequentum_conn_id)) as hook:
            config = config.with_agent_id(hook)
        with value_errors_as_exceptions(config.fate):
            check = _check(config)
            with about_run(check.agent_id, check.run_id), open_workspace() as workspace:
                try:
                    report = check_records(check, workspace)
                except RecordsUnreadable as error:
                    message = f"The records cannot be checked. {error} Nothing was published."
                    raise RunRecordsUnreadable(message) from error
        self._checked = config, report
        for breach in report.breaches:
            self.log.warning("Run %s of agent %s: %s", report.run_id, report.agent_id, str(breach)[:2000])
        self.log.info("%s", report.sentence(was_compared=check.profiles is not None))
        context["ti"].xcom_push(key=RECORDS_KEY, value=report.summary())
        with about_run(check.agent_id, check.run_id):
            _raise_verdict(report)
            if config.pin_version and report.verdict in ("passed", "accepted"):
                _pin(report, config.sequentum_conn_id)
        add_extra(context, {RECORDS_KEY: report.summary()})
        return report.paths

    def get_openlineage_facets_on_complete(self, task_instance: object) -> OperatorLineage[Any, Any] | None:  # noqa: ARG002
        """Return what was read and what was found; called by the OpenLineage provider, if it is installed."""
        from airflow_provider_sequentum.reporting.lineage import check_lineage
        from airflow_provider_sequentum.transfers.destination import open_destination

        if self._checked is None:
            return None
        config, report = self._checked
        read, written = (
            [open_destination(path, config.storage_conn_id) for path in paths]
            for paths in (config.files, report.written)
        )
        return check_lineage(read, written, report)


def _pin(report: Report, conn_id: str) -> None:
    from airflow_provider_sequentum.api import runs
    from airflow_provider_sequentum.hooks.connection import SequentumConnection
    from airflow_provider_sequentum.hooks.pins import move_pin

    hook = SequentumConnection(conn_id)
    try:
        version = hook.send(runs.status(report.agent_id, report.run_id)).config_version
    finally:
        hook.close()
    if version is None:
        log.warning("The service does not state the version of run %s. Nothing was pinned.", report.run_id)
    else:
        move_pin(conn_id, report.agent_id, version)


def _check(config: CheckConfig) -> Check:
    from airflow_provider_sequentum.quality.check import Check
    from airflow_provider_sequentum.transfers.destination import common_folder, open_destination
    from airflow_provider_sequentum.transfers.landing import CHECKED_FOLDER, LandingFolder, StoredFile

    def folder(place: str) -> LandingFolder:
        found = LandingFolder(open_destination(place, config.storage_conn_id))
        found.make()
        return found

    return Check(
        agent_id=config.agent_id,
        run_id=config.run_id,
        files=[StoredFile(open_destination(file, config.storage_conn_id)) for file in config.files],
        contract=_contract(config),
        profiles=None if config.profiles is None else folder(config.profiles),
        destination=folder(config.destination or f"{common_folder(config.files)}/{CHECKED_FOLDER}"),
        on_drift=config.on_drift,
        learn_from=config.learn_from,
        text_options=config.text_options,
    )


def _contract(config: CheckConfig) -> Contract:
    from airflow_provider_sequentum.quality.contract import parse_contract, parse_odcs, refused
    from airflow_provider_sequentum.transfers.destination import open_destination
    from airflow_provider_sequentum.transfers.landing import storage_errors

    if config.contract_file is None:
        return parse_contract({} if config.contract is None else config.contract)
    path = open_destination(config.contract_file, config.storage_conn_id)
    with storage_errors(f"Could not read {path}", "Nothing was checked. A retry reads it again."):
        content = path.read_bytes()
    try:
        return parse_odcs(content.decode(), config.contract_schema)
    except UnicodeDecodeError as error:
        raise refused(f"{path} is not UTF-8 text: {error}") from None


def _raise_verdict(report: Report) -> None:
    if report.is_good:
        return
    from airflow_provider_sequentum.runs.describe import counted

    kind = RunRecordsRejected if report.verdict == "failed" else SequentumSkipped
    raise kind(
        f"The records of run {report.run_id} of agent {report.agent_id} broke: {'; '.join(report.lines()[:5])} "
        f"({counted(len(report.breaches), 'breach', 'breaches')}, all in {report.page})"
    )

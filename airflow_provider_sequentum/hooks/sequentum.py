"""The hook, for ``@task`` code and for Airflow's connection form."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_sequentum.exceptions import (
    AgentRunTimeout,
    RunFilesUnavailable,
    RunRecordsUnreadable,
    SequentumException,
    SequentumRequestRefused,
    about_run,
    client_errors_as_exceptions,
    doubt_about,
    value_errors_as_exceptions,
)
from airflow_provider_sequentum.get_provider_info import CONNECTION_FIELDS, get_provider_info
from airflow_provider_sequentum.hooks.connection import CONN_TYPE, DEFAULT_CONN_ID, SequentumConnection
from airflow_provider_sequentum.parameters import (
    is_unset,
    optional,
    parse_delimiter,
    parse_encoding,
    parse_id,
    parse_json_object,
    parse_named,
    parse_seconds,
    parse_text,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

    import pandas as pd
    import pyarrow as pa

    from airflow_provider_sequentum.api import SequentumClient
    from airflow_provider_sequentum.api.agents import Agent
    from airflow_provider_sequentum.api.parsing import Page
    from airflow_provider_sequentum.api.runs import Run
    from airflow_provider_sequentum.api.schedules import Schedule
    from airflow_provider_sequentum.hooks.port import ClientPort
    from airflow_provider_sequentum.records.formats import TextOptions
    from airflow_provider_sequentum.runs.wait import WaitSpec

T = TypeVar("T")

log = logging.getLogger(__name__)


class SequentumHook(SequentumConnection):
    """Interact with Sequentum Cloud, using an Airflow connection.

    These methods cover what ``@task`` functions need most: :meth:`list_agents`, :meth:`start_run`,
    :meth:`wait_for_run`, :meth:`get_run`, :meth:`iter_records` and :meth:`cost_of`. For everything else, :meth:`send`
    sends a request made by one of the functions of ``airflow_provider_sequentum.api`` and returns the typed response::

        from airflow_provider_sequentum.api import runs

        run = SequentumHook().send(runs.status(agent_id=7, run_id=42))

    The connection is looked up for the first request. The API is documented at
    https://docs.sequentum.com/api-reference/introduction.

    :param sequentum_conn_id: the connection, of type ``sequentum``: its password is the API key, its host the base URL
        (production by default).
    """

    conn_name_attr = "sequentum_conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = CONN_TYPE
    hook_name = "Sequentum Cloud"

    def get_conn(self) -> SequentumClient:
        """Return the client of this hook's connection. It stays open until :meth:`close` is called."""
        return self.client

    def start_run(
        self,
        *,
        agent_id: int | str,
        input_parameters: Mapping[str, Any] | str | None = None,
        credit_limit: float | str | None = None,
        credit_limit_period: str = "day",
    ) -> Run:
        """Start a run of an agent and return its record immediately. The caller is responsible for the run.

        If the calling task fails or is killed, the run is not stopped, and a retry that calls this method again starts
        another run. ``StartAgentRunOperator`` prevents both. For other start options, send ``runs.start(...)``.

        :param agent_id: the agent.
        :param input_parameters: the agent's input parameters, as a mapping or as JSON text.
        :param credit_limit: do not start the run if its forecast cost, based on the agent's bills, exceeds what is left
            of this limit in ``credit_limit_period``. Runs that are not billed yet do not count. Adds one API request.
            Default: no limit.
        :param credit_limit_period: ``day`` (default) or ``month``, in UTC.
        :raises CreditLimitReached: the start would exceed ``credit_limit``; nothing was started.
        :raises SequentumRequestRefused: the service refused the start, or a parameter is invalid.
        :raises SequentumUnavailable: the message says whether a run may have been started.
        """
        from airflow_provider_sequentum.api import runs

        agent = self._parsed("agent_id", parse_id, agent_id)
        inputs = None if is_unset(input_parameters) else input_parameters
        if inputs is not None:
            inputs = self._parsed("input_parameters", parse_json_object, inputs)
        if not is_unset(credit_limit):
            self._check_credit_limit(agent, credit_limit, credit_limit_period)
        with about_run(agent):
            try:
                return self.send(runs.start(agent, input_parameters=inputs))
            except Exception:
                raise
            except BaseException:  # Ctrl-C, a timeout of Airflow: no response will show what became of the start
                log.warning("Interrupted while starting a run of agent %s. %s", agent, doubt_about("It"))
                raise

    def wait_for_run(
        self,
        *,
        agent_id: int | str,
        run_id: int | str,
        timeout: float | str | timedelta | None = None,
        poll_interval: float | str | timedelta | None = None,
    ) -> Run:
        """Wait until a run has succeeded, and return its record. This blocks and occupies a worker slot.

        This method never stops the run.

        :param agent_id: the agent.
        :param run_id: the run.
        :param timeout: how long to wait, in seconds or as a ``timedelta``. Default: no limit.
        :param poll_interval: minimum number of seconds between two polls. By default it depends on the age of the run.
        :raises AgentRunFailure: the run ended in Failure.
        :raises AgentRunFailed: the run ended in Failure and was archived.
        :raises AgentRunStopped: the run was stopped.
        :raises SequentumSkipped: the service skipped the run.
        :raises AgentRunTimeout: ``timeout`` expired; the run may be active.
        :raises SequentumRequestRefused: the service has not known the run for a minute, or a parameter is invalid.
        :raises SequentumUnavailable: the service has been unavailable for ten minutes.
        """
        from airflow_provider_sequentum.hooks.port import ClientPort
        from airflow_provider_sequentum.runs.wait import PollOutcome, WaitSpec, wait_for_runs

        port = ClientPort(self)
        agent, number = self._parsed("agent_id", parse_id, agent_id), self._parsed("run_id", parse_id, run_id)
        seconds = self._parsed("timeout", optional(parse_seconds, None), timeout)
        interval = self._parsed("poll_interval", optional(parse_seconds, None), poll_interval)
        port.deadline = None if seconds is None else port.now() + timedelta(seconds=seconds)
        spec = WaitSpec(agent_id=agent, run_id=number, deadline=port.deadline, poll_interval=interval)
        with about_run(agent, number), client_errors_as_exceptions(self.sequentum_conn_id):
            [(outcome, run)] = wait_for_runs(port, [spec])
            if not isinstance(outcome, PollOutcome):
                outcome.args = (f"{outcome} Run {number} of agent {agent} was not stopped.",)
                raise outcome
            return _require_success(port, spec, run, is_late=outcome is PollOutcome.DEADLINE)

    def get_run(self, *, agent_id: int | str, run_id: int | str) -> Run:
        """Return the record of a run: its status, counts and times.

        :param agent_id: the agent.
        :param run_id: the run.
        """
        from airflow_provider_sequentum.api import runs

        agent, run = self._parsed("agent_id", parse_id, agent_id), self._parsed("run_id", parse_id, run_id)
        with about_run(agent, run):
            return self.send(runs.status(agent, run))

    def list_agents(self, *, name: str | None = None, space_id: int | str | None = None) -> list[Agent]:
        """Return the agents that the key has access to.

        :param name: part of the name, ignoring case. Default: all agents.
        :param space_id: only agents of this space.
        """
        from airflow_provider_sequentum.api import agents

        wanted = self._parsed("name", optional(parse_text, None), name)
        space = self._parsed("space_id", optional(parse_id, None), space_id)
        listed: Page[Agent] = self.send(agents.list_agents(name=wanted, space_id=space))
        return list(listed)

    def cost_of(self, *, agent_id: int | str, run_id: int | str) -> float | None:
        """Return what a run cost, in credits; ``None`` if that is not known.

        The cost is known once the run has ended and the service has billed it, if the key may read billing.

        :param agent_id: the agent.
        :param run_id: the run.
        """
        from airflow_provider_sequentum.hooks.port import ClientPort
        from airflow_provider_sequentum.runs.cost import read_cost

        run = self.get_run(agent_id=agent_id, run_id=run_id)
        with client_errors_as_exceptions(self.sequentum_conn_id):
            return read_cost(ClientPort(self), run)

    def iter_records(
        self,
        agent_id: int | str,
        run_id: int | str,
        *,
        pattern: str = "*",
        encoding: str | None = None,
        delimiter: str | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yield the records of a run as dictionaries, one at a time and in constant memory.

        They come from the delivered files, in the order of the file ids: CSV (values are strings), JSON, NDJSON, Excel
        (extra ``excel``) and Parquet (extra ``arrow``). A file is downloaded when its first record is needed.

        :param agent_id: the agent.
        :param run_id: the run, which must have ended.
        :param pattern: a shell pattern such as ``*.csv``; only files with matching names are read.
        :param encoding: the encoding of text files. Default: by their byte order mark, else UTF-8.
        :param delimiter: the delimiter of CSV files. Default: a comma, or a tab in ``.tsv``.
        :raises RunRecordsUnreadable: a file is damaged, or does not contain records; the message names the file and
            the position.
        :raises RunFilesUnavailable: the run is still active, an entry in the service's list of files cannot be read, or
            the worker's disk is full.
        :raises SequentumRequestRefused: the run or its files no longer exist, or none of the files of a run with
            records matches the pattern.
        """
        from airflow_provider_sequentum.records.reading import read_records

        form = self._parsed_form(encoding, delimiter)
        return self._read_files(agent_id, run_id, pattern, partial(read_records, **form))

    def iter_record_batches(
        self,
        agent_id: int | str,
        run_id: int | str,
        *,
        pattern: str = "*",
        encoding: str | None = None,
        delimiter: str | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Yield the records of a run as typed Arrow record batches. Needs the extra ``arrow``.

        Parameters, records and errors are those of :meth:`iter_records`. All batches of a file have the same schema,
        which is inferred from the whole file. Different files may have different schemas.
        """
        from airflow_provider_sequentum.records.reading import read_arrow

        form = self._parsed_form(encoding, delimiter)
        return self._read_files(agent_id, run_id, pattern, partial(read_arrow, **form))

    def get_pandas_df(self, agent_id: int | str, run_id: int | str, **options: Any) -> pd.DataFrame:
        """Return all records of a run as a pandas data frame, in memory. Needs the extra ``pandas``.

        A column of integers with missing values has one of pandas' nullable types, such as ``Int64``.

        :param options: the options of :meth:`iter_record_batches`.
        """
        from airflow_provider_sequentum.records.arrow import frame_of

        frame: pd.DataFrame = frame_of(self.iter_record_batches(agent_id, run_id, **options))
        return frame

    def list_paused_schedules(self, agent_id: int | str) -> list[Schedule]:
        """Return the schedules of an agent that are paused, whoever paused them.

        After ``PauseAgentSchedulesOperator``, another task has to resume the schedules. If that task never ran, this
        method finds the schedules that are still paused; ``updated`` is the time since when they are.

        :param agent_id: the agent.
        :raises SequentumUnavailable: some of the schedules cannot be read.
        """
        from airflow_provider_sequentum.hooks.port import ClientPort
        from airflow_provider_sequentum.runs.schedules import list_all_schedules

        agent = self._parsed("agent_id", parse_id, agent_id)
        with about_run(agent), client_errors_as_exceptions(self.sequentum_conn_id):
            listed = list_all_schedules(ClientPort(self), agent)
        return [schedule for schedule in listed if schedule.is_enabled is False]

    def test_connection(self) -> tuple[bool, str]:
        """Check the key for the *Test* button of the form, and return the organization and the number of agents."""
        from airflow_provider_sequentum.api import SequentumClient, agents
        from airflow_provider_sequentum.runs.describe import counted

        try:
            # A user is waiting, so the request is not repeated.
            once = replace(self.settings, max_attempts=1)
            with client_errors_as_exceptions(self.sequentum_conn_id), SequentumClient(once) as client:
                page = client.send(agents.list_agents(page=1, records_per_page=1))
                whom = _organization_of(client)
        except SequentumException as error:
            return False, str(error)
        count = len(page) if page.total_record_count is None else page.total_record_count
        return True, f"Connected to {self.settings.base_url} as {whom}; {counted(count, 'agent')} visible."

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the form's custom fields, for Airflow 2.11 to 3.1. Newer versions read the provider's metadata."""
        from flask_appbuilder.fieldwidgets import BS3TextFieldWidget
        from wtforms import BooleanField, IntegerField, StringField
        from wtforms.validators import Optional

        # Airflow supports only these field types and passwords; with any other, it drops the whole connection type.
        kinds = {"boolean": BooleanField, "integer": IntegerField}
        widgets: dict[str, Any] = {}
        for name, field in CONNECTION_FIELDS.items():
            kind = kinds.get(field["schema"]["type"][0], StringField)
            options: dict[str, Any] = {"default": field["schema"].get("default"), "description": field["description"]}
            if kind is not BooleanField:
                options |= {"widget": BS3TextFieldWidget(), "validators": [Optional()]}
            widgets[name] = kind(field["label"], **options)
        return widgets

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return the labels and placeholders of the form's standard fields, for Airflow 2.11 to 3.1."""
        behaviour = get_provider_info()["connection-types"][0]["ui-field-behaviour"]
        return {key.replace("-", "_"): value for key, value in behaviour.items()}

    def _parsed(self, name: str, parse: Callable[[Any], T], value: object) -> T:
        with value_errors_as_exceptions(f"Nothing was sent (connection {self.sequentum_conn_id!r})."):
            return parse_named(name, parse, value)

    def _parsed_form(self, encoding: object, delimiter: object) -> TextOptions:
        return {
            "encoding": self._parsed("encoding", optional(parse_encoding, None), encoding),
            "delimiter": None if delimiter in (None, "") else self._parsed("delimiter", parse_delimiter, delimiter),
        }

    def _check_credit_limit(self, agent_id: int | str, limit: float | str | None, period: str) -> None:
        from airflow_provider_sequentum.hooks.port import ClientPort
        from airflow_provider_sequentum.runs.record import RunConfig
        from airflow_provider_sequentum.runs.spend import check_credit_limit

        config = RunConfig.of(self, agent_id=agent_id, credit_limit=limit, credit_limit_period=period)
        if config.credit_limit_period == "dag_run":
            raise SequentumRequestRefused(
                "credit_limit_period must be 'day' or 'month', not 'dag_run', because other tasks do not know which "
                "runs the hook starts. Nothing was started."
            )
        with client_errors_as_exceptions(self.sequentum_conn_id):
            check_credit_limit(ClientPort(self), config)

    def _read_files(
        self, agent_id: int | str, run_id: int | str, pattern: str, read: Callable[[IO[bytes], str], Iterator[T]]
    ) -> Iterator[T]:
        """Yield the results of ``read`` for each delivered file whose name matches the pattern."""
        from airflow_provider_sequentum.api import files
        from airflow_provider_sequentum.records.formats import format_of
        from airflow_provider_sequentum.runs.describe import counted
        from airflow_provider_sequentum.runs.files import (
            listing,
            select,
            why_incomplete,
            why_records_missing,
            why_removed,
        )

        wanted = self._parsed("pattern", optional(parse_text, "*"), pattern)
        run = self.get_run(agent_id=agent_id, run_id=run_id)
        with about_run(run.agent_id, run.id):
            if reason := why_incomplete(run):
                raise RunFilesUnavailable(f"Run {run.id} of agent {run.agent_id}: {reason}")
            listed = self.send(files.list_files(run.agent_id, run.id))
            if listed.left_out:
                raise RunFilesUnavailable(
                    f"Run {run.id} of agent {run.agent_id}: {counted(listed.left_out, 'file')} in the service's list "
                    "cannot be read, so records may be missing."
                )
            selection = select(listed, None, [wanted])
            other = selection.delivered_left_out
            if other and not selection.chosen and (run.data_count or run.export_count):
                raise SequentumRequestRefused(
                    f"Run {run.id} of agent {run.agent_id} has records, but none of its files matches "
                    f"pattern={wanted!r}: {listing(other)}"
                )
            if reason := why_removed(run, listed) or why_records_missing(run, selection):
                raise SequentumRequestRefused(f"Run {run.id} of agent {run.agent_id}: {reason}")
            with _naming_run(run):
                for file in selection.chosen:
                    format_of(file.name or "")
            for file in selection.chosen:
                with _temporary_file(file.name) as stream:
                    with client_errors_as_exceptions(self.sequentum_conn_id), _naming_disk(file.name):
                        self.client.download(agent_id=run.agent_id, run_id=run.id, file=file, destination=stream)
                        stream.seek(0)
                    with _naming_run(run):
                        yield from read(stream, file.name or "")


def _require_success(port: ClientPort, spec: WaitSpec, run: Run | None, *, is_late: bool) -> Run:
    """Return the run if it succeeded; otherwise raise the exception that a task fails with.

    :param run: its latest record; ``None`` if none was read in time.
    """
    from airflow_provider_sequentum.api.run_status import status_name
    from airflow_provider_sequentum.runs.describe import describe_run
    from airflow_provider_sequentum.runs.outcome import failure_for
    from airflow_provider_sequentum.runs.phases import Phase, phase_of

    if run is not None and phase_of(run) is Phase.SUCCEEDED:
        return run
    if run is not None and not is_late:
        raise failure_for(port, run, "This call only waits; nothing restarts the run.")
    state = "not known to have ended" if run is None else f"still {describe_run(run)}"
    raise AgentRunTimeout(
        f"Run {spec.run_id} of agent {spec.agent_id} was {state} when the timeout of the wait expired. It was not "
        "stopped.",
        agent_id=spec.agent_id,
        run_id=spec.run_id,
        status=None if run is None else status_name(run.status),
    )


def _temporary_file(name: str | None) -> IO[bytes]:
    """Return an unnamed file on the worker's disk, which disappears even if the process is killed."""
    with _naming_disk(name):
        return tempfile.TemporaryFile()


@contextmanager
def _naming_disk(name: str | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFilesUnavailable(
            f"{name!r} could not be saved in the worker's temporary folder {tempfile.tempdir or ''} to be read: "
            f"{error}. To use another folder, set TMPDIR. The run's files on the service are unchanged."
        ) from error


@contextmanager
def _naming_run(run: Run) -> Iterator[None]:
    from airflow_provider_sequentum.records.formats import RecordsUnreadable

    try:
        yield
    except RecordsUnreadable as error:
        raise RunRecordsUnreadable(
            f"The records of run {run.id} of agent {run.agent_id} cannot be read. {error} The files on the service are "
            "unchanged. Exclude this one with a pattern, or land it and inspect it."
        ) from error


def _organization_of(client: SequentumClient) -> str:
    # No endpoint returns the owner of a key. The organization that is billed comes closest.
    from airflow_provider_sequentum.api import billing
    from airflow_provider_sequentum.api.errors import SequentumError
    from airflow_provider_sequentum.runs.describe import format_credits

    try:
        account = client.send(billing.credits())
    except SequentumError as error:
        if error.status_code in (401, 403):
            return "an organization whose billing this key may not read"
        return f"an organization that could not be looked up ({type(error).__name__})"
    number = "of unknown number" if account.organization_id is None else account.organization_id
    return f"organization {number} with {format_credits(account.available_credits)} left"

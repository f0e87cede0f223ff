"""The port of a single agent's run within a space."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_sequentum.api.errors import ConnectionNotMade, SequentumError
from airflow_provider_sequentum.jobs.record import Stored
from airflow_provider_sequentum.jobs.siblings import Announcement, Claim
from airflow_provider_sequentum.runs.record import RunRecord
from airflow_provider_sequentum.spaces.record import SpaceRecord
from airflow_provider_sequentum.spaces.start import claim_runs

if TYPE_CHECKING:
    from airflow_provider_sequentum.api import Call, Reply
    from airflow_provider_sequentum.jobs.port import Port

T = TypeVar("T")


class Outage:
    """Detects that the service is down, so that the agents of a space do not wait for a response one after another.

    If requests for one agent fail, the cause may be that agent. If requests for the next agent fail too, the cause is
    the service.
    """

    def __init__(self) -> None:
        self._failing: set[int] = set()
        self._error: SequentumError | None = None

    def check(self, agent_id: int, call: Call[Any]) -> None:
        """Refuse a call while the service is down.

        :raises ConnectionNotMade: there was no response for two agents in a row.
        """
        if len(self._failing - {agent_id}) > 1:
            raise ConnectionNotMade(
                f"The service did not respond for other agents, so nothing was sent: {self._error}",
                purpose=call.purpose,
                request=call.request,
            )

    def answered(self) -> None:
        """Process a response of any kind."""
        self._failing.clear()

    def failed(self, agent_id: int, error: SequentumError) -> None:
        """Process an error."""
        if not error.transient:
            self.answered()
            return
        self._failing.add(agent_id)
        self._error = error


def _of_space(name: str) -> Any:
    """Return the property that is the attribute ``name`` of the space's port."""
    return property(
        lambda self: getattr(self._port, name),
        lambda self, value: setattr(self._port, name, value),
    )


class AgentPort:
    """Saves the record of an agent's run within that of the space. Everything else is delegated to the space's port.

    :param port: the port of the space.
    :param agent_id: the agent.
    :param record: the record of its run within that of the space.
    :param outage: the errors of all agents' ports since the space last started to send requests.
    """

    deadline: datetime | None = _of_space("deadline")
    is_recorded: bool = _of_space("is_recorded")
    is_asking_airflow: bool = _of_space("is_asking_airflow")

    def __init__(self, port: Port, agent_id: int, record: RunRecord | None, outage: Outage) -> None:
        self._port = port
        self._agent_id = agent_id
        self._outage = outage
        self._record = record
        self.hook = port.hook
        self.now, self.sleep = port.now, port.sleep
        self.claims, self.push, self.asking_airflow = port.claims, port.push, port.asking_airflow
        self.announcements = port.announcements
        self.connect, self.hurry, self.close = port.connect, port.hurry, port.close
        self.raise_interruption = port.raise_interruption

    @property
    def record(self) -> Stored | None:
        """The agent's record, which is part of that of the space."""
        return self._record

    @record.setter
    def record(self, record: Stored | None) -> None:
        self._record = record if isinstance(record, RunRecord) else None
        self._port.record = self._space().with_run(self._agent_id, self._record)

    def send(self, call: Call[T], *, budget_share: float = 1.0, within: float | None = None) -> T:
        """Send a request and return the parsed response."""
        return self.exchange(call, budget_share=budget_share, within=within).value

    def exchange(self, call: Call[T], *, budget_share: float = 1.0, within: float | None = None) -> Reply[T]:
        """Send a request and return the parsed response with the service's time.

        :raises ConnectionNotMade: see :class:`Outage`.
        """
        self._outage.check(self._agent_id, call)
        try:
            reply = self._port.exchange(call, budget_share=budget_share, within=within)
        except SequentumError as error:
            self._outage.failed(self._agent_id, error)
            raise
        self._outage.answered()
        return reply

    def save(self, record: Stored | None) -> None:
        """Save the agent's record within that of the space; ``None`` means that nothing was started."""
        self.record = record
        self._port.save(self._port.record)

    def claim(self, claim: Claim) -> None:
        """Claim the runs of all agents of the space, because a claim replaces the previous one."""
        claim_runs(self._port, self._space(), further=claim.run_ids, is_answered=claim.is_answered)

    def announce(self, announcement: Announcement) -> Announcement:
        """Announce the starts of all agents of the space, because an announcement replaces the previous one."""
        made = self._space().starts_announced
        others = tuple(start for start in made if start.agent_id != self._agent_id)
        return self._port.announce(announcement.updated(starts=(*others, *announcement.starts)))

    def _space(self) -> SpaceRecord:
        record = self._port.record
        if not isinstance(record, SpaceRecord):
            raise RuntimeError("The runs of a space have no record: start_or_join comes first.")  # noqa: TRY004
        return record

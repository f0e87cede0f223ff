"""The port of one agent's run among those of a space."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_sequentum.api.errors import ConnectionNotMade, SequentumError
from airflow_provider_sequentum.jobs.record import Claim, Stored
from airflow_provider_sequentum.runs.record import RunRecord
from airflow_provider_sequentum.spaces.record import SpaceRecord
from airflow_provider_sequentum.spaces.start import claim_runs

if TYPE_CHECKING:
    from airflow_provider_sequentum.api import Call, Reply
    from airflow_provider_sequentum.jobs.port import JobPort

T = TypeVar("T")


class Outage:
    """Notices that the service is down, so that not every agent of a space waits for an answer in turn.

    One agent for which nothing is answered has a problem of its own; when the next one has it too, it is the service's.
    """

    def __init__(self) -> None:
        self._failing: set[int] = set()
        self._error: SequentumError | None = None

    def check(self, agent_id: int, call: Call[Any]) -> None:
        """Do not let a call be sent while the service is down.

        :raises ConnectionNotMade: nothing was answered for two agents in a row.
        """
        if len(self._failing - {agent_id}) > 1:
            raise ConnectionNotMade(
                f"The service did not answer for other agents, so nothing was sent: {self._error}",
                purpose=call.purpose,
                request=call.request,
            )

    def answered(self) -> None:
        """Take in an answer, whatever it says."""
        self._failing.clear()

    def failed(self, agent_id: int, error: SequentumError) -> None:
        """Take in an error."""
        if error.transient:
            self._failing.add(agent_id)
            self._error = error
        else:
            self._failing.clear()


class AgentPort:
    """Saves the record of an agent's run as a part of the space's; everything else is the port of the space.

    :param port: the port of the space.
    :param agent_id: the agent.
    :param record: what the space's record says of its run.
    :param outage: what the ports of all agents have met since the space last asked anew.
    """

    def __init__(self, port: JobPort, agent_id: int, record: RunRecord | None, outage: Outage) -> None:
        self._port = port
        self._agent_id = agent_id
        self._outage = outage
        self.record: Stored | None = record
        self.hook = port.hook

    @property
    def deadline(self) -> datetime | None:
        """When the attempt gives up."""
        return self._port.deadline

    @deadline.setter
    def deadline(self, deadline: datetime | None) -> None:
        self._port.deadline = deadline

    @property
    def is_recorded(self) -> bool:
        """Whether the space's record is where the next attempt finds it."""
        return self._port.is_recorded

    @is_recorded.setter
    def is_recorded(self, is_recorded: bool) -> None:
        self._port.is_recorded = is_recorded

    @property
    def is_asking_airflow(self) -> bool:
        """Whether Airflow's supervisor is being asked something."""
        return self._port.is_asking_airflow

    @is_asking_airflow.setter
    def is_asking_airflow(self, is_asking: bool) -> None:
        self._port.is_asking_airflow = is_asking

    def send(self, call: Call[T], *, budget_share: float = 1.0, within: float | None = None) -> T:
        """Send a call and return its answer."""
        return self.exchange(call, budget_share=budget_share, within=within).value

    def exchange(self, call: Call[T], *, budget_share: float = 1.0, within: float | None = None) -> Reply[T]:
        """Send a call and return its answer with the service's time.

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

    def now(self) -> datetime:
        """Return the time."""
        return self._port.now()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        self._port.sleep(seconds)

    def save(self, record: Stored | None) -> None:
        """Save the agent's record within the space's; ``None`` says that nothing was started."""
        self.record = record
        self._port.save(self._space().with_run(self._agent_id, record if isinstance(record, RunRecord) else None))

    def claim(self, claim: Claim) -> None:
        """Tell the mapped siblings of all runs of the space: a claim replaces the one before."""
        record = self._space().with_run(self._agent_id, self.record if isinstance(self.record, RunRecord) else None)
        claim_runs(self._port, record, further=claim.run_ids, is_answered=claim.is_answered)

    def claims(self) -> list[Claim]:
        """Return what the mapped siblings have claimed."""
        return self._port.claims()

    def push(self, key: str, value: object) -> None:
        """Push an XCom."""
        self._port.push(key, value)

    def hurry(self) -> None:
        """Go on without regard to the request budget."""
        self._port.hurry()

    def close(self) -> None:
        """Close nothing: the space's port is closed with the space."""

    def _space(self) -> SpaceRecord:
        record = self._port.record
        if not isinstance(record, SpaceRecord):
            raise RuntimeError("The runs of a space have no record: start_or_join comes first.")  # noqa: TRY004
        return record

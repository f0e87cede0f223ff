"""What the tasks of one DAG run tell each other before they start something, so that no run is taken or paid twice.

Mapped tasks that may start the same agent at the same moment claim their runs; tasks with a credit limit announce what
they are about to spend. Each writes an XCom of its own and reads those of the others.
"""

from collections.abc import Sequence
from typing import NamedTuple

from airflow_provider_sequentum.jobs.record import Stored


class Claim(Stored):
    """What a mapped task says to its siblings, which may well start the same agent at the same time.

    :param agent_id: the agent, ``None`` for all agents of a space.
    :param run_ids: the runs it has started; empty while a start is unanswered.
    :param has_lost_run: whether it may have had runs, before those that it names, that could not be distinguished from
        others.
    :param map_index: which of the siblings it is.
    """

    agent_id: int | None = None
    run_ids: tuple[int, ...] = ()
    is_answered: bool = True
    has_lost_run: bool = False
    map_index: int = -1


class PlannedStart(Stored):
    """A start of a run, as a task announces it to the other tasks of its DAG run.

    :param agent_id: the agent; 0 for all agents of a space that the task does not know.
    :param credits: what it is expected to cost; ``None`` if the task does not know.
    :param run_id: the run, once the service has answered; 0 if it could not be determined.
    """

    agent_id: int = 0
    credits: float | None = None
    run_id: int | None = None


class Announcement(Stored):
    """What a task with a credit limit tells the other tasks of its DAG run.

    :param task_id: the task.
    :param map_index: which of its mapped siblings it is.
    :param starts: the starts it has made, or is free to make, in all its tries.
    :param pending: the starts that it would like to make, all of them or none: one, or one for each agent of a space.
    """

    task_id: str = ""
    map_index: int = -1
    starts: tuple[PlannedStart, ...] = ()
    pending: tuple[PlannedStart, ...] = ()


class Announced(NamedTuple):
    """What is known of the other tasks of a DAG run that have a credit limit.

    :param others: what they have announced.
    :param silent_running: how many are running and have announced nothing yet.
    :param silent_ended: how many have failed, or wait for their next attempt, without an announcement.
    """

    others: Sequence[Announcement] = ()
    silent_running: int = 0
    silent_ended: int = 0

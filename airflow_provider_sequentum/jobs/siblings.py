"""The messages that the tasks of a DAG run exchange before they start runs, so that none is adopted or paid for twice.

Mapped tasks, which may start the same agent at the same time, claim their runs. Tasks with a credit limit announce what
they are about to spend. Each task writes its own XCom and reads those of the others.
"""

from collections.abc import Sequence
from typing import NamedTuple

from airflow_provider_sequentum.jobs.record import Stored


class Claim(Stored):
    """The message of a mapped task to its siblings, which may start the same agent at the same time.

    :param agent_id: the agent; ``None`` for all agents of a space.
    :param run_ids: the runs that it has started; empty while a start is unanswered.
    :param is_answered: whether each of its starts has a response.
    :param has_lost_run: whether it may have had earlier runs that could not be distinguished from others.
    :param map_index: its map index.
    """

    agent_id: int | None = None
    run_ids: tuple[int, ...] = ()
    is_answered: bool = True
    has_lost_run: bool = False
    map_index: int = -1


class PlannedStart(Stored):
    """A start of a run that a task announces to the other tasks of its DAG run.

    :param agent_id: the agent; 0 for all agents of a space that the task does not know.
    :param credits: the forecast of its cost; ``None`` if there is none.
    :param run_id: the run, once the service has responded; 0 if it could not be determined.
    """

    agent_id: int = 0
    credits: float | None = None
    run_id: int | None = None


class Announcement(Stored):
    """The message of a task with a credit limit to the other tasks of its DAG run.

    :param task_id: the task.
    :param map_index: its map index.
    :param starts: the starts that it has made, or may make, in all its attempts.
    :param pending: the starts that it wants to make, all or none: one, or one for each agent of a space.
    """

    task_id: str = ""
    map_index: int = -1
    starts: tuple[PlannedStart, ...] = ()
    pending: tuple[PlannedStart, ...] = ()


class Announced(NamedTuple):
    """What is known about the other tasks of a DAG run that have a credit limit.

    :param others: what they have announced.
    :param silent_running: how many are running and have not announced anything yet.
    :param silent_ended: how many have failed or are up for retry without an announcement.
    """

    others: Sequence[Announcement] = ()
    silent_running: int = 0
    silent_ended: int = 0

"""The pinned version of an agent, which its tasks expect. It is stored in an Airflow Variable.

A Variable outlives DAG runs in every version of Airflow, and a user can read, edit and delete it.
"""

from __future__ import annotations

import logging

from airflow.providers.common.compat.sdk import Variable

from airflow_provider_sequentum.exceptions import SequentumRequestRefused
from airflow_provider_sequentum.parameters import is_unset, parse_id

log = logging.getLogger(__name__)


def pin_key(conn_id: str, agent_id: int) -> str:
    """Return the key of the Variable. It contains the connection, because ids are only unique within one service."""
    return f"sequentum_pinned_version_{conn_id}_{agent_id}"


def read_pin(conn_id: str, agent_id: int) -> int | None:
    """Return the pinned version; ``None`` if there is none.

    :raises SequentumRequestRefused: the Variable does not contain a version.
    """
    key = pin_key(conn_id, agent_id)
    # Positional, because the parameter has a different name in Airflow 2.
    value = Variable.get(key, None)
    if is_unset(value):
        log.info("No version of agent %s is pinned yet. The first run whose task succeeds pins its own.", agent_id)
        return None
    try:
        return parse_id(value)
    except ValueError as error:
        raise SequentumRequestRefused(
            f"The Variable {key!r} {error}. Nothing was started. Set it to a version number, or delete it."
        ) from None


def move_pin(conn_id: str, agent_id: int, version: int) -> None:
    """Pin a version."""
    key = pin_key(conn_id, agent_id)
    Variable.set(key, str(version), description=f"Version of Sequentum agent {agent_id} that tasks expect")
    log.info("Pinned version %s of agent %s, in the Variable %r.", version, agent_id, key)

"""
A person answers what the Agent Builder asks.

The builder's question becomes a *required action* in the Airflow UI. The person's answer becomes the next message of
the conversation, approval saves the agent, and giving up cancels the session. It needs Airflow 3.1 or later (the DAG
processor of 3.0 ends when it sees this file) and the connection ``sequentum_default``.

A DAG has no loops, so the rounds of the conversation are laid out one after the other: as many as ``ROUNDS`` answers
can be given, and after the last one there is only approving or giving up. Everything here is made of operators that
exist: the session's id and the builder's last message are handed on by XCom.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG, Param, task
from airflow.providers.standard.operators.hitl import HITLOperator

from airflow_provider_sequentum.operators.agent_builder import AgentBuilderOperator

ROUNDS = 3
ANSWER, APPROVE, GIVE_UP = "Answer", "Approve", "Give up"
PROMPT = "From the list of US states, extract the state, its abbreviation, its capital and the date of its admission."
NO_OPINION = "Decide as you think best."
"""The answer of a person who writes nothing."""
ONE_BRANCH_CAME_HERE = "none_failed_min_one_success"


def ask(number: int, speaker: str, options: list[str]) -> HITLOperator:
    """
    Return the task that shows a person what the builder said last, and waits for a choice.

    :param number: which question this is.
    :param speaker: the task in which the builder said it.
    :param options: the choices.
    """
    answer = Param(None, type=["null", "string"], format="multiline", title="Your answer")
    return HITLOperator(
        task_id=f"ask_{number}",
        subject="The Agent Builder waits for you",
        body=(
            f"{{% set session = ti.xcom_pull(task_ids='{speaker}', key='session') %}}"
            "**It says:** {{ session.last_message or 'nothing' }}\n\n"
            "**It has found:** {{ session.total_rows or 0 }} rows{% if session.columns %} with "
            "{{ session.columns | join(', ') }}{% endif %}"
        ),
        options=options,
        params={"answer": answer} if ANSWER in options else {},
        # Airflow can fail a task that is answered within seconds (apache/airflow #66374, #71580): then it asks again.
        retries=2,
        retry_delay=timedelta(seconds=1),
    )


@task.branch
def go_on(choice: dict[str, Any], answer: str) -> str:
    """
    Return the task that the person's choice leads to.

    :param choice: what the person chose.
    :param answer: the task that sends an answer.
    """
    return {ANSWER: answer, APPROVE: "save", GIVE_UP: "give_up"}[choice["chosen_options"][0]]


with DAG(
    "person_in_the_loop",
    schedule=None,
    description="Build an agent in a conversation with a person",
    doc_md=__doc__,
    tags=["sequentum"],
    params={
        "prompt": Param(PROMPT, type="string", minLength=10, maxLength=5000, format="multiline"),
        "agent_name": Param("US states", type="string", minLength=1),
    },
) as dag:
    # [START howto_session_in_parts]
    begin = AgentBuilderOperator(task_id="begin", prompt="{{ params.prompt }}", finish=False, deferrable=True)
    session_id = begin.output["session_id"]
    save = AgentBuilderOperator(
        task_id="save",
        session_id=session_id,
        agent_name="{{ params.agent_name }}",
        trigger_rule=ONE_BRANCH_CAME_HERE,
    )
    give_up = AgentBuilderOperator(
        task_id="give_up", session_id=session_id, on_ready="cancel", trigger_rule=ONE_BRANCH_CAME_HERE
    )
    # [END howto_session_in_parts]
    said = begin
    for number in range(1, ROUNDS + 1):
        question = ask(number, said.task_id, [ANSWER, APPROVE, GIVE_UP])
        answer = AgentBuilderOperator(
            task_id=f"answer_{number}",
            session_id=session_id,
            followups=(
                f"{{{{ ti.xcom_pull(task_ids='{question.task_id}')['params_input']['answer'] or '{NO_OPINION}' }}}}"
            ),
            finish=False,
            deferrable=True,
        )
        choice = go_on.override(task_id=f"go_on_{number}")(question.output, answer.task_id)
        said >> question
        choice >> [answer, save, give_up]
        said = answer
    last_question = ask(ROUNDS + 1, said.task_id, [APPROVE, GIVE_UP])
    said >> last_question
    go_on.override(task_id="go_on_last")(last_question.output, answer="") >> [save, give_up]

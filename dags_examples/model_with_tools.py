"""
Let a language model run an agent, with the hook's methods as its tools.

The model starts the agent, waits for the run and answers the question with the record of the run. It can neither choose
another agent nor start more runs than ``tool_calls_limit`` and ``credit_limit`` allow. The runs have no owner but the
model: if the task is killed, nothing stops them. So the task is not retried.

It needs the connections ``sequentum_default`` and ``pydanticai_default``, and ``pip install
apache-airflow-providers-common-ai``; without that provider this file has no DAG.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

from airflow.providers.common.compat.sdk import DAG, Param

from airflow_provider_sequentum.hooks.sequentum import SequentumHook

AGENT_ID = os.environ.get("EXAMPLE_AGENT_ID", "1")
QUESTION = "Run the agent, wait for its end, and say in one sentence how many records it has exported."

if find_spec("airflow.providers.common.ai"):
    from airflow.providers.common.ai.operators.agent import AgentOperator
    from airflow.providers.common.ai.toolsets.hook import HookToolset

    with DAG(
        "model_with_tools",
        schedule=None,
        description="Let a language model run an agent",
        doc_md=__doc__,
        tags=["sequentum"],
        params={"question": Param(QUESTION, type="string", minLength=1, format="multiline")},
    ) as dag:
        # [START howto_toolset]
        hook = SequentumHook()
        start = HookToolset(
            hook,
            allowed_methods=["start_run"],
            tool_prefix="sequentum",
            pinned_arguments={"agent_id": AGENT_ID, "credit_limit": 20, "credit_limit_period": "day"},
        )
        look = HookToolset(
            hook,
            allowed_methods=["get_run", "wait_for_run"],
            tool_prefix="sequentum",
            pinned_arguments={"agent_id": AGENT_ID},
        )
        ask_model = AgentOperator(
            task_id="ask_model",
            prompt="{{ params.question }}",
            llm_conn_id="pydanticai_default",
            toolsets=[start, look],
            usage_limits={"tool_calls_limit": 5},
            retries=0,
        )
        # [END howto_toolset]

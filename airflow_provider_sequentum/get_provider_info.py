"""What Airflow reads about this provider: a pure dictionary, so that reading it imports nothing."""

from __future__ import annotations

from typing import Any

DOCS = "https://docs.sequentum.com/"

CONNECTION_FIELDS: dict[str, dict[str, Any]] = {
    "requests_per_minute": {
        "label": "Requests per minute",
        "description": (
            "Maximum number of requests that one worker or triggerer process sends per minute. Set it if other "
            "programs use the same API key. If empty, the limit of the service applies (usually 100)."
        ),
        "schema": {"type": ["integer", "null"], "minimum": 1},
    },
    "connect_timeout": {
        "label": "Connect timeout (seconds)",
        "description": "Time to wait for a connection to the service. Default: 10.",
        "schema": {"type": ["number", "null"], "minimum": 0.1},
    },
    "read_timeout": {
        "label": "Read timeout (seconds)",
        "description": "Time to wait for a response. Default: 30.",
        "schema": {"type": ["number", "null"], "minimum": 0.1},
    },
    "verify": {
        "label": "Verify TLS certificate",
        "description": "Turn off only for a test deployment with a self-signed certificate.",
        "schema": {"type": ["boolean", "null"], "default": True},
    },
    "ca_bundle": {
        "label": "CA bundle",
        "description": "Path of a PEM file with your own certificate authority, on workers and triggerers.",
        "schema": {"type": ["string", "null"]},
    },
    "allow_http": {
        "label": "Allow plain HTTP",
        "description": "Allow an http:// base URL on another machine. The API key is then sent unencrypted.",
        "schema": {"type": ["boolean", "null"], "default": False},
    },
    "run_link_template": {
        "label": "Run link template",
        "description": (
            "URL of a run's page, with {agent_id} and {run_id} as placeholders. The button on a task opens it. If "
            "empty, the button opens the base URL."
        ),
        "schema": {"type": ["string", "null"]},
    },
    "session_link_template": {
        "label": "Session link template",
        "description": (
            "URL of an Agent Builder session's page, with {session_id} as a placeholder. If empty, the button opens "
            "the base URL."
        ),
        "schema": {"type": ["string", "null"]},
    },
}


CONFIG: dict[str, Any] = {
    "sequentum": {
        "description": "What the Sequentum provider adds to Airflow's own UI. Read by the API server.",
        "options": {
            "ui": {
                "description": "Show the page of agents and the tab on task instances (Airflow 3.1 and later).",
                "version_added": "0.1.0",
                "type": "boolean",
                "example": None,
                "default": "True",
            },
            "ui_task_tab": {
                "description": "Show the tab on task instances. Up to Airflow 3.3 it is on every task of every DAG.",
                "version_added": "0.1.0",
                "type": "boolean",
                "example": None,
                "default": "True",
            },
        },
    }
}


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata, as the entry point ``apache_airflow_provider`` promises."""
    from airflow_provider_sequentum import __version__

    package = "airflow_provider_sequentum"
    name = "Sequentum Cloud"
    asset_uri = {
        "schemes": ["sequentum"],
        "handler": f"{package}.assets.agent.sanitize_uri",
        "factory": f"{package}.assets.agent.create_asset",
        "to_openlineage_converter": f"{package}.assets.agent.convert_asset_to_openlineage",
    }
    return {
        "package-name": "airflow-provider-sequentum",
        "name": name,
        "description": "Build Sequentum Cloud agents from prompts, run them, wait for them, copy their data.",
        "versions": [__version__],
        "integrations": [{"integration-name": name, "external-doc-url": DOCS, "tags": ["service"]}],
        "operators": [
            {
                "integration-name": name,
                "python-modules": [
                    f"{package}.operators.agent_run",
                    f"{package}.operators.agent_builder",
                    f"{package}.operators.run_records",
                    f"{package}.operators.space_run",
                    f"{package}.operators.run_changes",
                    f"{package}.operators.schedules",
                    f"{package}.operators.agent_version",
                    f"{package}.operators.retention",
                ],
            }
        ],
        "sensors": [{"integration-name": name, "python-modules": [f"{package}.sensors.agent_run"]}],
        "hooks": [{"integration-name": name, "python-modules": [f"{package}.hooks.sequentum"]}],
        "triggers": [
            {
                "integration-name": name,
                "python-modules": [
                    f"{package}.triggers.agent_run",
                    f"{package}.triggers.agent_builder",
                    f"{package}.triggers.space_run",
                    f"{package}.assets.agent_run",
                ],
            }
        ],
        "transfers": [
            {
                "source-integration-name": name,
                "target-integration-name": "Common IO",
                "python-module": f"{package}.transfers.run_files",
            },
            {
                "source-integration-name": "Common IO",
                "target-integration-name": name,
                "python-module": f"{package}.transfers.input_files",
            },
        ],
        "config": CONFIG,
        "asset-uris": [asset_uri],
        "dataset-uris": [asset_uri],
        "connection-types": [
            {
                "connection-type": "sequentum",
                "hook-name": name,
                "hook-class-name": f"{package}.hooks.sequentum.SequentumHook",
                "ui-field-behaviour": {
                    "hidden-fields": ["login", "port", "schema"],
                    "relabeling": {"password": "API key", "host": "Base URL"},
                    "placeholders": {
                        "host": "https://dashboard.sequentum.com",
                        "password": "from the Control Center: Users, Manage API keys",
                    },
                },
                "conn-fields": CONNECTION_FIELDS,
            }
        ],
        "extra-links": [
            f"{package}.reporting.links.AgentRunLink",
            f"{package}.reporting.links.AgentBuilderSessionLink",
            f"{package}.reporting.links.AgentBuilderScreenshotLink",
        ],
    }

"""What Airflow reads about this provider: a pure dictionary, so that reading it imports nothing."""

from __future__ import annotations

from typing import Any

DOCS = "https://docs.sequentum.com/"

CONNECTION_FIELDS: dict[str, dict[str, Any]] = {
    "requests_per_minute": {
        "label": "Requests per minute",
        "description": (
            "At most this many requests per minute from one process. Set it to leave room for others who use the key. "
            "Left empty, the limit is what the service's answers state."
        ),
        "schema": {"type": ["integer", "null"], "minimum": 1},
    },
    "connect_timeout": {
        "label": "Connect timeout (seconds)",
        "description": "How long to wait for a connection to the service. 10 when left empty.",
        "schema": {"type": ["number", "null"], "minimum": 0.1},
    },
    "read_timeout": {
        "label": "Read timeout (seconds)",
        "description": "How long to wait for an answer. 30 when left empty.",
        "schema": {"type": ["number", "null"], "minimum": 0.1},
    },
    "verify": {
        "label": "Verify TLS certificate",
        "description": "Switch off only for a test deployment with a self-signed certificate.",
        "schema": {"type": ["boolean", "null"], "default": True},
    },
    "ca_bundle": {
        "label": "CA bundle",
        "description": "Path, on the workers and triggerers, of a PEM file with your own certificate authority.",
        "schema": {"type": ["string", "null"]},
    },
    "allow_http": {
        "label": "Allow plain http",
        "description": (
            "Plain http sends the key in clear text. It is refused for all hosts but this machine, unless allowed."
        ),
        "schema": {"type": ["boolean", "null"], "default": False},
    },
    "run_link_template": {
        "label": "Run link template",
        "description": (
            "Address of a run's page, with {agent_id} and {run_id} in place of the ids. The button on a task leads to "
            "it. Left empty, the button leads to the dashboard."
        ),
        "schema": {"type": ["string", "null"]},
    },
    "session_link_template": {
        "label": "Session link template",
        "description": (
            "Address of an Agent Builder session's page, with {session_id} in place of the id. "
            "Left empty, the button leads to the dashboard."
        ),
        "schema": {"type": ["string", "null"]},
    },
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
        "description": "Build Sequentum Cloud agents from prompts, run them, wait for them, land what they extract.",
        "versions": [__version__],
        "integrations": [{"integration-name": name, "external-doc-url": DOCS, "tags": ["service"]}],
        "operators": [
            {
                "integration-name": name,
                "python-modules": [
                    f"{package}.operators.agent_run",
                    f"{package}.operators.agent_builder",
                    f"{package}.operators.space_run",
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
            }
        ],
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

"""Refusals of the sandbox and the bodies they are sent in."""

from __future__ import annotations

import html
import json
from http import HTTPStatus

from starlette.responses import Response

from airflow_provider_sequentum.sandbox.settings import Dialect


class Problem(Exception):
    """A request that is refused.

    :param status: HTTP status code.
    :param detail: what is wrong, for a person.
    """

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}


def not_found(kind: str, identifier: object) -> Problem:
    """The 404 for an unknown agent, run, session and so on."""
    return Problem(404, f"{kind} {identifier} was not found.")


def problem_body(status: int, detail: str, instance: str, dialect: Dialect) -> tuple[bytes, str]:
    """The body of an error response and its content type, in the form the dialect asks for.

    Three JSON forms, text, HTML and an empty body: each is documented, seen or expected by a source.
    """
    title = HTTPStatus(status).phrase
    match dialect.errors:
        case "legacy_a":
            body = {"statusCode": status, "statusDescription": title, "message": detail, "severity": "Error"}
        case "legacy_b":
            body = {"statusCode": status, "statusDescription": title, "message": detail, "errorCode": None}
        case "text":
            return detail.encode(), "text/plain; charset=utf-8"
        case "html":
            return html_page(title, detail), "text/html; charset=utf-8"
        case "empty":
            return b"", "application/octet-stream"
        case _:
            body = {
                "type": f"https://httpstatuses.io/{status}",
                "title": title,
                "status": status,
                "detail": detail,
                "instance": instance,
            }
            return json.dumps(body).encode(), "application/problem+json"
    return json.dumps(body).encode(), "application/json"


def problem_response(problem: Problem, path: str, dialect: Dialect) -> Response:
    """A refusal as a response, in the form the dialect asks for."""
    body, content_type = problem_body(problem.status, problem.detail, path, dialect)
    return Response(body, problem.status, {"Content-Type": content_type, **problem.headers})


def html_page(title: str, detail: str) -> bytes:
    """The kind of page a gateway in front of a service answers with."""
    title, detail = html.escape(title), html.escape(detail)
    return (
        f"<html><head><title>{title}</title></head>"
        f"<body><center><h1>{title}</h1></center><p>{detail}</p><hr></body></html>"
    ).encode()

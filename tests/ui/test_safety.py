"""What no one else can do or see: pages of another origin, and the key in the network traffic."""

from __future__ import annotations

import base64
import json
import threading
from contextlib import contextmanager
from html import escape
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

from airflow_provider_sequentum.sandbox import RunPlan
from tests.system.browser import Browser
from tests.ui.scene import ENDLESS, Person

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.ui.scene import Scene


@contextmanager
def page_of_another_origin(text: str) -> Iterator[int]:
    """Serve a page on a port of its own, which is returned."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_page_of_another_origin_does_nothing(scene: Scene, browser: Browser) -> None:
    run = scene.start(ENDLESS)
    scene.airflow.wait_for_task(run, "extract", {"deferred"})
    since = len(scene.sandbox.ledger.effects)
    Person(scene, browser, "admin")
    address = f"{scene.airflow.url}/sequentum/dags/watched/kill"
    body = {"run_id": run.run_id, "task_id": "extract", "map_index": "-1"}
    # The text of a form of this type is the field's name, an equals sign and its value.
    name = json.dumps({**body, "more": ""})[:-2]
    field = f"""<input name="{escape(name)}" value='"}}'>"""
    form = f'<form method="post" action="{address}" enctype="text/plain">{field}</form>'
    plain = f"{{method: 'POST', mode: 'no-cors', credentials: 'include', body: {json.dumps(json.dumps(body))}}}"
    own = plain.replace("mode: 'no-cors'", "headers: {'Content-Type': 'application/json', 'X-Sequentum-UI': '1'}")
    with page_of_another_origin(form) as port:
        for host in ("127.0.0.1", "localhost"):
            browser.open(f"http://{host}:{port}/")
            assert browser.run(f"return fetch('{address}', {plain}).then(answer => answer.type)") == "opaque"
            sent = browser.run(f"return fetch('{address}', {own}).then(() => 'sent', error => error.name)")
            assert sent == "TypeError", "Airflow does not allow it to other origins"
            browser.run("document.forms[0].submit()")
            browser.wait_until(lambda: browser.run("return location.href") == address, "the form was posted")
            # On the same host, the cookie comes along: there our own check is what refuses.
            refusal = "does not come from the Sequentum page" if host == "127.0.0.1" else "detail"
            browser.wait_for_text(refusal)
    assert scene.effects(since) == []
    assert scene.audit(run) == []
    assert scene.airflow.dag_run(run).state == "running"
    scene.post(run, "kill", "admin")
    scene.airflow.wait(run)


def test_the_key_is_nowhere_in_the_network_traffic(scene: Scene, tmp_path: Path) -> None:
    going, ended = scene.start(ENDLESS), scene.start(RunPlan(duration=1.0))
    scene.airflow.wait_for_task(going, "extract", {"deferred"})
    scene.airflow.wait(ended)
    log = tmp_path / "net.json"
    with Browser(net_log=log) as browser:
        admin = Person(scene, browser, "admin")
        admin.open_tab(going)
        admin.wait_for("Running")
        admin.press("kill")
        admin.wait_for("It has been stopped.")
        admin.open_tab(ended)
        admin.wait_for("output.csv", 120)
        admin.in_frame("page.querySelector('button[data-file]').click()")
        admin.wait_for("Lyon", 120)
        admin.open_agents()
        admin.wait_for("Prices")
        browser.open(f"{scene.airflow.url}/connections")
        browser.wait_for_text("sequentum_default")
    traffic = bytes_in(log)
    key = scene.sandbox.api_key.encode()
    for shown in (b"output.csv", b"Lyon", b"X-Sequentum-UI", b"Set-Cookie", b"Sequentum agents"):
        assert shown.lower() in traffic.lower(), "the search finds what was sent"
    assert key not in traffic
    assert base64.b64encode(key)[:-4] not in traffic
    assert scene.sandbox.api_key not in scene.airflow.service_log("api-server")


def bytes_in(log: Path) -> bytes:
    """Return all that a NetLog holds: its text, and the bodies that it has in base64, each connected."""
    text = log.read_text()
    bodies: dict[int, bytearray] = {}
    for event in json.loads(text)["events"]:
        if "bytes" in event.get("params", {}):
            body = bodies.setdefault(event["source"]["id"], bytearray())
            body += base64.b64decode(event["params"]["bytes"])
    return b"\n".join([text.encode(), *bodies.values()])

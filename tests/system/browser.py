"""A headless Chromium, driven by the W3C WebDriver protocol, which is plain HTTP."""

from __future__ import annotations

import shutil
import subprocess
import time
from base64 import b64decode
from typing import TYPE_CHECKING, Any

import httpx

from tests.system.harness.service import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Self

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key under which the protocol names an element."""


def missing_browser() -> str | None:
    """Return what is not installed of what a browser test needs, or ``None``."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if not missing:
        return None
    return f"a real browser is driven; not installed: {' and '.join(missing)} (Debian: chromium, chromium-driver)"


# Airflow 2 draws its grid in a shadow tree, which the document's own text and links leave out.
_PARTS = """
    const parts = element => [element, ...[...element.querySelectorAll('*')]
        .filter(host => host.shadowRoot)
        .flatMap(host => [...host.shadowRoot.children].flatMap(parts))];
"""

_AFTER_TWO_FRAMES = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
"""Ends once the page has drawn what was done before; the first frame may have been begun earlier."""


class Browser:
    """A browser window; ``with`` opens and closes it.

    :param net_log: where to write all that it sends and receives, in the format of Chromium's NetLog.
    """

    def __init__(self, net_log: Path | None = None) -> None:
        self._net_log = net_log
        self._port = free_port()
        self._driver: subprocess.Popen[bytes] | None = None
        self._session = ""
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=60)

    def __enter__(self) -> Self:
        """Start the driver and open a window."""
        self._driver = subprocess.Popen(["chromedriver", f"--port={self._port}"], stdout=subprocess.DEVNULL)
        self.wait_until(self._is_up, "the driver is up")
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1600,1400"]
        if self._net_log is not None:
            arguments += [f"--log-net-log={self._net_log}", "--net-log-capture-mode=Everything"]
        options = {"browserName": "chrome", "goog:chromeOptions": {"args": arguments}}
        answer = self._http.post("/session", json={"capabilities": {"alwaysMatch": options}})
        self._session = f"/session/{answer.raise_for_status().json()['value']['sessionId']}"
        return self

    def __exit__(self, *error: object) -> None:
        """Close the window and stop the driver."""
        if self._session:
            self._http.delete(self._session)
        if self._driver is not None:
            self._driver.terminate()
            self._driver.wait(10)
        self._http.close()

    def open(self, url: str) -> None:
        """Load a page."""
        self._command("url", url=url)

    @property
    def text(self) -> str:
        """What the page shows."""
        return str(self.run(f"{_PARTS} return parts(document.body).map(part => part.innerText ?? '').join('\\n')"))

    def address_of(self, link: str) -> str:
        """Return where the link with this text leads."""
        links = f"{_PARTS} return parts(document.body).flatMap(part => [part, ...part.querySelectorAll('a')])"
        return str(self.run(f"{links}.find(place => place.href && place.textContent.includes('{link}')).href"))

    def run(self, script: str) -> Any:
        """Run JavaScript in the page and return its value."""
        return self._command("execute/sync", script=script, args=[])

    def screenshot(self) -> bytes:
        """Return what the window shows, as a PNG."""
        return b64decode(self._http.get(f"{self._session}/screenshot").raise_for_status().json()["value"])

    def resize(self, width: int, height: int) -> None:
        """Give the window another size, in pixels."""
        self._command("window/rect", width=width, height=height)

    def show_as_device(self, width: int, height: int) -> None:
        """Show pages as a device of this size does, which may be narrower than any window of Chromium."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._command("goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params=metrics)

    def show_as_window(self) -> None:
        """Show pages in the size of the window again."""
        self._command("goog/cdp/execute", cmd="Emulation.clearDeviceMetricsOverride", params={})

    def prefer(self, scheme: str) -> None:
        """Show pages as to a person who prefers ``light`` or ``dark`` ones."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._command("goog/cdp/execute", cmd="Emulation.setEmulatedMedia", params={"features": features})

    def click(self, xpath: str) -> None:
        """Click an element, as soon as there is one to be clicked."""
        self._act(xpath, "click")

    def write(self, xpath: str, text: str) -> None:
        """Type into an element, as soon as there is one: key by key, as a person does.

        Airflow 3 draws a number after each key. A key that comes before that is done can lose the one before it, and
        2.5 becomes 25; no person types as fast.
        """
        for key in text:
            self._act(xpath, "value", text=key)
            self._command("execute/async", script=_AFTER_TWO_FRAMES, args=[])

    def wait_for_text(self, text: str, timeout: float = 60) -> None:
        """Wait until the page shows ``text``."""
        self.wait_until(lambda: text in self.text, f"the page shows {text!r}", timeout)

    def wait_until(self, condition: Callable[[], bool], what: str, timeout: float = 60) -> None:
        """Wait until ``condition`` holds; if it doesn't, say ``what`` did not come true and what is seen instead."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"Within {timeout:g} s it did not happen that {what}. {self._sight()}")
            time.sleep(0.25)

    def _act(self, xpath: str, action: str, **body: Any) -> None:
        def done() -> bool:
            found = self._http.post(f"{self._session}/element", json={"using": "xpath", "value": xpath}).json()
            element = (found["value"] or {}).get(_ELEMENT)
            if element is None:
                return False
            return self._http.post(f"{self._session}/element/{element}/{action}", json=body).is_success

        self.wait_until(done, f"{action} works on {xpath}")

    def _command(self, name: str, **body: Any) -> Any:
        answer = self._http.post(f"{self._session}/{name}", json=body)
        if answer.is_error:
            raise RuntimeError(f"{name}: {answer.json()['value']['message']}")
        return answer.json()["value"]

    def _is_up(self) -> bool:
        try:
            return bool(self._http.get("/status").json()["value"]["ready"])
        except httpx.TransportError:
            return False

    def _sight(self) -> str:
        return f"The page shows: {self.text[:3000]}" if self._session else ""

# SPDX-License-Identifier: Apache-2.0
"""Headless Chromium through chromedriver, by the WebDriver protocol."""

from __future__ import annotations

import base64
import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from bench.processes import free_port

DRIVER = shutil.which("chromedriver")
ENTER = "\ue007"
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=900,900")


class Browser:
    """Drive one window. CSS selectors name elements."""

    def __init__(self, session: str):
        self._session = session

    def open(self, url: str) -> None:
        self._post("url", url=url)

    def text(self) -> str:
        return self.run("return document.body.innerText")

    def run(self, script: str) -> Any:
        return self._post("execute/sync", script=script, args=[])

    def press(self, label: str) -> None:
        """Click the button with this label."""
        buttons = "[...document.querySelectorAll('button')]"
        self.run(f"{buttons}.find(b => b.innerText.includes({label!r})).click()")

    def click(self, selector: str) -> None:
        self._post(f"element/{self._find(selector)}/click")

    def type(self, selector: str, text: str) -> None:
        self._post(f"element/{self._find(selector)}/value", text=text)

    def wait_for(self, text: str, seconds: float = 90) -> None:
        """Wait until the page shows this text."""
        deadline = time.monotonic() + seconds
        while text not in (seen := self.text()):
            assert time.monotonic() < deadline, f"no {text!r} in:\n{seen}"
            time.sleep(0.2)

    def screenshot(self, path: Path) -> None:
        answer = requests.get(f"{self._session}/screenshot", timeout=60).json()
        path.write_bytes(base64.b64decode(answer["value"]))

    def _find(self, selector: str) -> str:
        found = self._post("element", using="css selector", value=selector)
        return found[_ELEMENT]

    def _post(self, command: str, **body: Any) -> Any:
        answer = requests.post(f"{self._session}/{command}", json=body, timeout=120).json()
        assert not (isinstance(answer["value"], dict) and "error" in answer["value"]), answer
        return answer["value"]


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    port = free_port()
    driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}/session"
        session = f"{address}/{_begin(address)}"
        try:
            yield Browser(session)
        finally:
            requests.delete(session, timeout=60)
    finally:
        driver.terminate()
        driver.wait(timeout=30)


def _begin(address: str) -> str:
    options = {"goog:chromeOptions": {"args": list(FLAGS)}}
    deadline = time.monotonic() + 60
    while True:
        try:
            answer = requests.post(
                address, json={"capabilities": {"alwaysMatch": options}}, timeout=120
            ).json()
        except requests.ConnectionError:
            assert time.monotonic() < deadline, "chromedriver does not answer"
            time.sleep(0.2)
            continue
        assert "sessionId" in answer["value"], answer
        return answer["value"]["sessionId"]

# SPDX-License-Identifier: Apache-2.0
"""Drive the chat page of a real server in headless Chromium, as `make chat` sets it up.

The test of the demo writes its picture to the file that CHAT_SCREENSHOT names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from bench.processes import free_port
from sglang_gemma4_ext.demo.training.tool_stories import Declared
from tests.chat.outputs import render_call
from tests.chat.tokens import encode
from tests.chat_page.browser import DRIVER, ENTER, Browser, chromium
from tests.patches.chat.engine import TEMPLATES
from tests.probes import model_says
from tests.serving.harness import Server, serve

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.skipif(DRIVER is None, reason="chromedriver is not installed (chromium-driver)"),
]
ROOT = Path(__file__).resolve().parents[2]
TOOLS = '[{"name": "get_weather", "parameters": {"type": "object", "properties": {}}}]'
CALL = render_call("get_weather", {"city": "Oslo"})


@pytest.fixture(scope="module")
def server(checkpoint, tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    flags = ["--model-path", str(checkpoint("dense")), "--dtype", "float32"]
    flags += ["--chat-template", str(TEMPLATES / "2026-07-15_large.jinja"), *model_says.FLAGS]
    with serve(*flags, log_dir=folder, env=model_says.installed(folder / "probe")) as running:
        yield running


@pytest.fixture(scope="module")
def page(server) -> Iterator[str]:
    with page_of(server) as url:
        yield url


@contextmanager
def page_of(server: Server) -> Iterator[str]:
    """Serve the page and yield its address."""
    made = ["make", ".venv-chat/.ready", f"PYTHON={sys.executable}"]
    subprocess.run(made, cwd=ROOT, check=True, timeout=900)
    port = free_port()
    command = [str(ROOT / ".venv-chat/bin/python"), "-m", "sglang_gemma4_ext.chat_page"]
    flags = ["--server", server.url, "--port", str(port)]
    process = subprocess.Popen([*command, *flags], cwd=ROOT)
    try:
        url = f"http://127.0.0.1:{port}/"
        _wait_until_it_answers(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_until_it_answers(url: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 180
    while process.poll() is None:
        try:
            assert requests.get(url, timeout=60).status_code == 200
            return
        except requests.ConnectionError:
            assert time.monotonic() < deadline, "the page does not open"
            time.sleep(0.5)
    raise AssertionError("the page's process has ended")


@pytest.fixture
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


def say(output: str) -> str:
    return model_says.asks_for(encode(output)) + ENTER


def test_a_call_its_result_and_an_answer_in_a_browser(browser, page):
    browser.open(page)
    browser.wait_for("Settings")
    browser.press("Settings")
    browser.wait_for("Tools (JSON)")
    browser.click("input[type=checkbox]")
    browser.type("textarea[placeholder^='[']", TOOLS)
    thought = "<|channel>thought\nWhere is Oslo?\n<channel|>"
    browser.type("textarea[placeholder='Message']", say(f"{thought}Let me look.{CALL}"))
    browser.wait_for("Calls get_weather")
    browser.wait_for("Let me look.")
    assert "Where is Oslo?" not in browser.text(), "a complete thought is folded away"
    assert "Oslo" not in browser.text().split("Calls get_weather")[1].split("Settings")[0]
    answer = say("It is sunny.\n<channel|>Sunny.")
    browser.type("textarea[placeholder^='The model waits for the result of get_weather']", answer)
    browser.wait_for("Result of get_weather")
    browser.wait_for("Sunny.")
    assert "say:" not in browser.text().split("Result of get_weather")[1]


def test_the_demo_calls_a_tool_in_a_browser(browser, tmp_path):
    picture = Path(os.environ.get("CHAT_SCREENSHOT") or tmp_path / "page.png")
    with serve("--demo", log_dir=tmp_path) as running, page_of(running) as url:
        browser.open(url)
        browser.wait_for("Settings")
        browser.press("Settings")
        browser.wait_for("Tools (JSON)")
        tools = json.dumps([tool["function"] for tool in Declared(("add", "look_up")).tools])
        browser.type("textarea[placeholder^='[']", tools)
        browser.press("Settings")
        browser.type("textarea[placeholder='Message']", "What does Petra visit?" + ENTER)
        browser.wait_for("Calls look_up")
        waits = "textarea[placeholder^='The model waits for the result of look_up']"
        browser.type(waits, "Petra feeds the owl. Petra visits the museum." + ENTER)
        browser.wait_for("Result of look_up")
        browser.wait_for("Petra visits the museum.")
        browser.screenshot(picture)
    assert picture.stat().st_size > 10_000

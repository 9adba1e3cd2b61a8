# SPDX-License-Identifier: Apache-2.0
"""Test real servers of tiny checkpoints, started without a parser flag, with scripted outputs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
import requests

from tests.patches.chat.answers import *  # noqa: F403 (the tests that every server passes)
from tests.patches.chat.client import SEARCH, SEARCHED, THINKING, THOUGHT, TOOLS, Scripted
from tests.patches.chat.endpoint_answers import *  # noqa: F403
from tests.patches.chat.endpoint_answers import Speaker
from tests.patches.chat.engine import TEMPLATES
from tests.patches.chat.say import Say
from tests.probes import model_says
from tests.serving.harness import Server, serve

pytestmark = [pytest.mark.server, pytest.mark.slow]

HOSTILE = '<|tool_call>call:search{v:[[<|"|>note 1] x<|"|>]]}<tool_call|>'


@pytest.fixture(scope="module", params=["dense", "causal"])
def server(request, checkpoint, tmp_path_factory) -> Iterator[Server]:
    """Serve Gemma4ForConditionalGeneration and Gemma4ForCausalLM; their model types differ."""
    folder = tmp_path_factory.mktemp("chat") / request.param
    shutil.copytree(checkpoint(request.param), folder)
    shutil.copy(TEMPLATES / "2026-07-15_large.jinja", folder / "chat_template.jinja")
    flags = ("--dtype", "float32", *model_says.FLAGS)
    log_dir = tmp_path_factory.mktemp("log")
    env = model_says.installed(log_dir)
    with serve("--model-path", str(folder), *flags, log_dir=log_dir, env=env) as running:
        yield running


@pytest.fixture(scope="module")
def scripted(server) -> Scripted:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=300)
    processor = Say.to_str()
    return Scripted(
        client,
        client.models.list().data[0].id,
        lambda ids: {"custom_logit_processor": processor, "custom_params": {"output": ids}},
    )


@pytest.fixture(scope="module")
def speaker(server, scripted) -> Speaker:
    def post(path: str, body: dict) -> str:
        answer = requests.post(f"{server.url}{path}", json=body, timeout=300)
        assert answer.status_code == 200, answer.text
        return answer.text

    return Speaker(scripted.client, scripted.model, model_says.asks_for, post, counts_thoughts=True)


def test_the_summary_says_that_answers_are_parsed(server):
    assert "chat       tool calls and thoughts parsed by gemma4" in server.log


def test_a_hostile_text_leaves_the_server_alive(server, scripted):
    body = {"tool_call_parser": "gemma4", "tools": TOOLS, "text": HOSTILE}
    answer = requests.post(f"{server.url}/parse_function_call", json=body, timeout=5).json()
    assert answer["calls"][0]["parameters"] == '{"v": [["note 1] x"]]}'
    assert scripted.say(HOSTILE, stream=True).calls == [("search", {"v": [["note 1] x"]]})]
    assert requests.get(f"{server.url}/health", timeout=30).status_code == 200


def test_many_conversations_at_once(scripted):
    def converse(number: int) -> list:
        reply = scripted.say(
            THOUGHT + SEARCH * (1 + number % 3), stream=bool(number % 2), **THINKING
        )
        return [reply.thought, reply.calls]

    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(converse, range(32)))
    assert found == [["Hm.", [SEARCHED] * (1 + number % 3)] for number in range(32)]


def test_the_end_of_a_turn_ends_the_generation(scripted):
    assert scripted.tokens("Ok.<turn|>and so on", tools=None) == 4

# SPDX-License-Identifier: Apache-2.0
"""32 agents at once on a real server: a call, its result, an answer; with and without drafts.

Random weights write random arguments: what holds is the format, the schema and the protocol.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import openai
import pytest

from sglang_gemma4_ext.chat.markers import MARKER
from tests.checkpoints.assistant import build_assistant
from tests.patches.chat.engine import TEMPLATES
from tests.serving.harness import Server, serve

pytestmark = [pytest.mark.server, pytest.mark.slow]

AGENTS = 32
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 1, "maxLength": 6},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
OTHER = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "d", "parameters": schema}}
    for name, schema in (("weather", SCHEMA), ("lights", OTHER))
]
STRICT = [{**tool, "function": {**tool["function"], "strict": True}} for tool in TOOLS]
SCHEMAS = {"weather": SCHEMA, "lights": OTHER}
# How calls are demanded: fields of the request, and the names that may be called.
DEMANDS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "required": ({"tools": TOOLS, "tool_choice": "required"}, {"weather", "lights"}),
    "named": (
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "weather"}}},
        {"weather"},
    ),
    "strict": ({"tools": STRICT, "tool_choice": "required"}, {"weather", "lights"}),
    "one call": (
        {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False},
        {"weather", "lights"},
    ),
}
ONE = {"named", "one call"}


@pytest.fixture(scope="module", params=["plain", "assistant"])
def server(request, checkpoint, tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp(request.param)
    target = shutil.copytree(checkpoint("dense"), folder / "target")
    shutil.copy(TEMPLATES / "2026-07-15_large.jinja", target / "chat_template.jinja")
    flags = ["--model-path", str(target), "--dtype", "float32"]
    if request.param == "assistant":
        draft = build_assistant(target, folder / "draft")
        flags += ["--speculative-draft-model-path", str(draft)]
    with serve(*flags, log_dir=folder) as running:
        yield running


def converse(client: openai.OpenAI, number: int) -> tuple[str, bool]:
    """Run one agent's loop. Return how it demanded calls, and whether its first turn has an end."""
    demand = list(DEMANDS)[number % len(DEMANDS)]
    fields, names = DEMANDS[demand]
    thinks, streams = bool(number // 4 % 2), bool(number // 8 % 2)
    history: list[Any] = [{"role": "user", "content": f"Agent {number}"}]
    first = ask(client, history, thinks, streams, **fields)
    calls = first.message.tool_calls or []
    if first.finish_reason == "length":
        return demand, False
    assert first.finish_reason == "tool_calls" and not first.message.content
    assert len(calls) == 1 if demand in ONE else calls
    for call in calls:
        assert call.function.name in names
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
    assert len({call.id for call in calls}) == len(calls)
    history.append(first.message.model_dump(exclude_none=True))
    history += [
        {"role": "tool", "tool_call_id": call.id, "content": f"result {call.id}"} for call in calls
    ]
    second = ask(client, history, thinks, streams, tools=TOOLS, max_tokens=24)
    assert second.finish_reason in ("stop", "length", "tool_calls")
    # Random weights also write placeholders of media, which the chat format does not have.
    assert not MARKER.search(second.message.content or "")
    return demand, True


def ask(client: openai.OpenAI, history: list[Any], thinks: bool, streams: bool, **more: Any) -> Any:
    asked = {
        "model": "x",
        "messages": history,
        "max_tokens": 400,
        "extra_body": {"chat_template_kwargs": {"enable_thinking": thinks}},
        **more,
    }
    if not streams:
        return client.chat.completions.create(**asked).choices[0]
    try:
        with client.chat.completions.stream(**asked) as events:
            for _ in events:
                pass
            return events.get_final_completion().choices[0]
    except openai.LengthFinishReasonError as cut:  # raised for strict tools
        return cut.completion.choices[0]


def test_32_agents_call_get_results_and_answer_at_once(server):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0, timeout=900)
    with ThreadPoolExecutor(AGENTS) as pool:
        ends = list(pool.map(lambda number: converse(client, number), range(AGENTS)))
    done = {demand for demand, has_ended in ends if has_ended}
    assert done == set(DEMANDS), "each demand has a loop that came to its end"
    assert sum(has_ended for _, has_ended in ends) >= AGENTS // 2
    assert "Traceback" not in server.log and server.process.poll() is None

# SPDX-License-Identifier: Apache-2.0
"""SGLang's own chat, Anthropic and Responses layers in this process; only the engine is replaced.

Hooks are applied as SGLang's HookRegistry wraps them, and taken back after the test.
"""

from __future__ import annotations

import contextlib
import functools
import json
import pkgutil
import sys
from collections.abc import AsyncGenerator, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from sglang.srt.plugins.hook_registry import HookType, _wrap_fn

from sglang_gemma4_ext.registry import Patch
from tests.patches.chat.client import Scripted
from tests.patches.chat.engine import Engine, gemma_tokenizer

MANAGER = "sglang.srt.managers.tokenizer_manager.TokenizerManager"


@pytest.fixture
def apply(monkeypatch: pytest.MonkeyPatch) -> Any:
    """apply(*patches): apply their hooks for the length of a test."""
    return applier(monkeypatch)


def applier(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make a function that applies hooks of patches until `monkeypatch` is undone."""

    def applied(*patches: Patch) -> None:
        for patch in patches:
            for hook in patch.hooks:
                path, _, name = hook.target.rpartition(".")
                owner = Engine if path == MANAGER else pkgutil.resolve_name(path)
                original = getattr(owner, name)
                wrapped = _wrap_fn(original, hook.fn, HookType(hook.kind))
                monkeypatch.setattr(owner, name, wrapped)
                if not isinstance(owner, type):
                    for module in list(sys.modules.values()):
                        if vars(module).get(name) is original and module is not owner:
                            monkeypatch.setattr(module, name, wrapped)

    return applied


class Settings:
    """Hold a configuration; every setting that a test does not name is None."""

    def __init__(self, **values: Any):
        vars(self).update(values)

    def __getattr__(self, name: str) -> None:
        return None


class Layer:
    """Hold the serving layer over one engine, and its client."""

    def __init__(self, engine: Engine):
        from sglang.srt.entrypoints.anthropic.protocol import AnthropicMessagesRequest
        from sglang.srt.entrypoints.anthropic.serving import AnthropicServing
        from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest, ResponsesRequest
        from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat
        from sglang.srt.entrypoints.openai.serving_responses import OpenAIServingResponses
        from sglang.srt.parser.template_manager import TemplateManager

        self.engine = engine
        templates = TemplateManager()
        templates.load_chat_template(engine, None, "m")
        self.templates = templates
        self.chat = OpenAIServingChat(engine, templates)
        anthropic = AnthropicServing(self.chat)
        app = FastAPI()
        chat = _endpoint(self.chat.handle_request, ChatCompletionRequest)
        messages = _endpoint(anthropic.handle_messages, AnthropicMessagesRequest)
        responses = OpenAIServingResponses(engine, templates, enable_prompt_tokens_details=True)
        respond = _endpoint(responses.create_responses, ResponsesRequest)
        app.post("/v1/chat/completions")(chat)
        app.post("/v1/messages")(messages)
        app.post("/v1/responses")(respond)
        self.client = TestClient(app)

    def openai_client(self) -> openai.OpenAI:
        """Return the openai SDK on this layer."""

        def forward(request: httpx.Request) -> httpx.Response:
            answer = self.client.post(request.url.path, json=json.loads(request.content))
            return httpx.Response(
                answer.status_code, headers=answer.headers, content=answer.content
            )

        return openai.OpenAI(
            base_url="http://testserver/v1",
            api_key="none",
            max_retries=0,
            http_client=httpx.Client(transport=httpx.MockTransport(forward)),
        )

    def say(self, text: str) -> None:
        """Let the model write this text, as far as the grammar allows."""
        self.engine.force = self.engine.tokenizer.encode(text, add_special_tokens=False)

    def post(self, body: dict[str, Any], path: str = "/v1/chat/completions") -> Any:
        return self.client.post(path, json={"model": "m", "max_tokens": 64, **body})

    def prompt_of(self, body: dict[str, Any], path: str = "/v1/chat/completions") -> str:
        answer = self.post(body, path)
        assert answer.status_code == 200, answer.text
        return self.engine.prompt


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """layer(template, parsers): make a `Layer` for the length of a test."""
    return layers(monkeypatch)


def layers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes a `Layer`, in a configuration until `monkeypatch` is undone."""
    from sglang.srt.entrypoints.openai import serving_responses  # noqa: F401

    made = {
        "get_serving": Settings(),
        "get_model": Settings(),
        "get_observability": Settings(),
        "get_disagg": Settings(disaggregation_mode="null"),
    }
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith(
            ("sglang.srt.entrypoints", "sglang.srt.parser")
        ):
            for name, settings in made.items():
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, functools.partial(_same, settings))

    def made_layer(name: str = "2026-07-15_small", **parsers: str | None) -> Layer:
        engine = Engine(gemma_tokenizer(name), **parsers)
        context = SimpleNamespace(config_leaf=engine.config_value)
        monkeypatch.setattr("sglang.srt.runtime_context.get_context", lambda: context)
        return Layer(engine)

    return made_layer


def on_layer(layer: Any) -> Scripted:
    """Return the openai client on a layer with both parsers, its engine told what to write."""
    made: Layer = layer("2026-07-15_large", tool_call_parser="gemma4", reasoning_parser="gemma4")

    def prepare(ids: list[int]) -> dict[str, Any]:
        made.engine.force = ids
        return {}

    return Scripted(made.openai_client(), "m", prepare)


@contextlib.contextmanager
def serving(*patches: Patch) -> Iterator[Scripted]:
    """Yield the same with these patches, for a test or a module."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        applier(monkeypatch)(*patches)
        yield on_layer(layers(monkeypatch))


def _endpoint(handle: Any, kind: type) -> Any:
    async def endpoint(request: Any, raw: Any) -> Any:
        answer = await handle(request, raw)
        return StreamingResponse(answer) if isinstance(answer, AsyncGenerator) else answer

    endpoint.__annotations__ = {"request": kind, "raw": Request}
    return endpoint


def _same(value: Any) -> Any:
    return value

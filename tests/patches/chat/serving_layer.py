# SPDX-License-Identifier: Apache-2.0
"""Run SGLang's chat, Anthropic and tokenizing layers in this process; replace only the engine.

The engine "generates" the tokens that a test forces, within the request's grammar as SGLang's
XGrammar backend compiles it. Hooks are wrapped as SGLang's HookRegistry wraps them, and undone
after the test.
"""

from __future__ import annotations

import functools
import pkgutil
import random
import sys
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from sglang.srt.plugins.hook_registry import HookType, _wrap_fn

from bench.checkpoints.tokenizer import TOKEN_ID, VOCAB, tokenizer
from sglang_gemma4_ext.registry import Patch
from tests.chat.masked import CLOSERS

TEMPLATES = Path(__file__).resolve().parents[2] / "chat" / "templates"
STOPS = (TOKEN_ID["<eos>"], TOKEN_ID["<turn|>"], TOKEN_ID["<|tool_response>"])


def template(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text()


def gemma_tokenizer(name: str = "2026-07-15_small") -> transformers.PreTrainedTokenizerFast:
    made = tokenizer()
    made.chat_template = template(name)
    return made


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
                owner = pkgutil.resolve_name(path)
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


class Engine:
    """Stand in for a tokenizer manager; `force` holds one list of tokens per request."""

    def __init__(self, made: transformers.PreTrainedTokenizerFast, **parsers: str | None):
        self.tokenizer = made
        self.model_path = self.served_model_name = "m"
        self.server_args = SimpleNamespace()
        self.num_reserved_decode_tokens = 0
        self.model_config = SimpleNamespace(
            hf_config=SimpleNamespace(
                model_type="gemma4", architectures=["Gemma4ForConditionalGeneration"]
            ),
            get_default_sampling_params=dict,
            is_multimodal=False,
            context_len=2048,
            vocab_size=VOCAB,
            think_end_id=TOKEN_ID["<channel|>"],
        )
        self.request_logger = SimpleNamespace(log_requests=False, log_requests_level=0)
        self.config = {"grammar_backend": "xgrammar", **parsers}
        self.requests: list[Any] = []
        self.force: list[int] = []
        self.seed = 0
        self.written = ""

    def __getattr__(self, name: str) -> None:
        return None

    def config_value(self, name: str) -> Any:
        return self.config.get(name)

    @property
    def prompt(self) -> str:
        return self.tokenizer.decode(self.requests[-1].input_ids)

    def create_abort_task(self, *args: Any) -> None:
        return None

    async def generate_request(self, request: Any, raw: Any = None) -> AsyncIterator[Any]:
        """Yield each choice: forced tokens where the grammar allows them, random ones elsewhere."""
        self.requests.append(request)
        most, whole = request.sampling_params["max_new_tokens"], []
        for index in range(request.sampling_params["n"]):
            grammar = self.grammar_of(request)
            chance = random.Random(self.seed + index)
            wanted, out, finish = iter(self.force), [], None
            while finish is None:
                token = next(wanted, STOPS[0])
                if grammar is not None:
                    token = _allowed(grammar, token, chance)
                    grammar.accept_token(token)
                if token in STOPS:
                    finish = {"type": "stop", "matched": token}
                else:
                    out.append(token)
                    if len(out) >= most:
                        finish = {"type": "length", "length": most}
                self.written = self.tokenizer.decode(out)
                if request.stream:
                    yield self._chunk(request, out, finish, index)
            whole.append(self._chunk(request, out, finish, index))
        if not request.stream:
            yield whole if len(whole) > 1 else whole[0]

    def grammar_of(self, request: Any) -> Any:
        """Build the grammar that SGLang's scheduler would apply to this request."""
        params = request.sampling_params
        kinds = {"json_schema": "json", "regex": "regex", "ebnf": "ebnf", "structural_tag": None}
        kind = next((kind for kind in kinds if params.get(kind)), None)
        if kind is None:
            return None
        name = kinds[kind] or kind
        if params.get("ebnf_full_assistant"):
            name = "full_assistant_ebnf"
        backend = self.grammar_backend()
        key = backend.get_request_grammar_key(
            (name, params[kind]), input_ids=request.input_ids, thinking_budget=None
        )
        made = backend._init_value_dispatch(key, request.require_reasoning)
        assert hasattr(made, "fill_vocab_mask"), made
        return made

    def grammar_backend(self) -> Any:
        from sglang.srt.constrained.reasoner_grammar_backend import ReasonerGrammarBackend
        from sglang.srt.constrained.xgrammar_backend import XGrammarGrammarBackend
        from sglang.srt.parser.reasoning_parser import ReasoningParser

        backend = XGrammarGrammarBackend(
            self.tokenizer, vocab_size=VOCAB, model_eos_token_ids=list(STOPS)
        )
        return ReasonerGrammarBackend(backend, ReasoningParser("gemma4"), self.tokenizer)

    def _chunk(
        self, request: Any, out: Sequence[int], finish: dict[str, Any] | None, index: int
    ) -> Any:
        skip = request.sampling_params.get("skip_special_tokens", True)
        return {
            "text": self.tokenizer.decode(
                out, skip_special_tokens=skip, spaces_between_special_tokens=False
            ),
            "output_ids": list(out),
            "index": index,
            "meta_info": {
                "id": uuid.uuid4().hex,
                "finish_reason": finish,
                "prompt_tokens": len(request.input_ids),
                "completion_tokens": len(out),
                "cached_tokens": 0,
                "reasoning_tokens": 0,
                "weight_version": "x",
            },
        }


class Layer:
    """Hold the serving layer over one engine, and its client."""

    def __init__(self, engine: Engine):
        from sglang.srt.entrypoints.anthropic.protocol import AnthropicMessagesRequest
        from sglang.srt.entrypoints.anthropic.serving import AnthropicServing
        from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest
        from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat
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
        app.post("/v1/chat/completions")(chat)
        app.post("/v1/messages")(messages)
        self.client = TestClient(app)

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
    """Make a function that builds a `Layer`, configured until `monkeypatch` is undone."""
    from sglang.srt.entrypoints.openai import serving_chat  # noqa: F401

    made = {"get_serving": Settings(), "get_model": Settings(), "get_observability": Settings()}
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


def _allowed(grammar: Any, wanted: int, chance: random.Random) -> int:
    mask = torch.full((1, VOCAB // 32), -1, dtype=torch.int32)
    grammar.fill_vocab_mask(mask, 0)
    words = mask[0].tolist()
    allowed = [i for i in range(VOCAB) if words[i // 32] >> (i % 32) & 1]
    if wanted in allowed and wanted not in STOPS:
        return wanted
    closing = [i for i in allowed if i in CLOSERS]
    return chance.choice(closing if closing and chance.random() < 0.5 else allowed)


def _endpoint(handle: Any, kind: type) -> Any:
    async def endpoint(request: Any, raw: Any) -> Any:
        return await handle(request, raw)

    endpoint.__annotations__ = {"request": kind, "raw": Request}
    return endpoint


def _same(value: Any) -> Any:
    return value

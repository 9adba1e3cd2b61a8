# SPDX-License-Identifier: Apache-2.0
"""Stand in for scheduler and model: "generate" the tokens that a test forces.

It obeys the request's grammar as SGLang's XGrammar backend compiles it.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers

from bench.checkpoints.tokenizer import TOKEN_ID, VOCAB, tokenizer
from tests.chat.masked import CLOSERS

TEMPLATES = Path(__file__).resolve().parents[2] / "chat" / "templates"
STOPS = (TOKEN_ID["<eos>"], TOKEN_ID["<turn|>"], TOKEN_ID["<|tool_response>"])


def template(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text()


def gemma_tokenizer(name: str = "2026-07-15_small") -> transformers.PreTrainedTokenizerFast:
    made = tokenizer()
    made.chat_template = template(name)
    return made


class Engine:
    """Answer as a tokenizer manager does, with the tokens in `force`."""

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
        """For each of the `n` choices: forced tokens where the grammar allows, else random ones."""
        self.requests.append(request)
        most, whole = request.sampling_params.get("max_new_tokens") or 2000, []
        for index in range(request.sampling_params.get("n", 1)):
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
        """Return the grammar that SGLang's scheduler would hold this request to."""
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
        """Like SGLang's: the stop token is among the ids, and not in the text."""
        skip = request.sampling_params.get("skip_special_tokens", True)
        stop = [finish["matched"]] if finish and finish["type"] == "stop" else []
        logprobs = {}
        if request.return_logprob:
            rows = [(-1.0, token, self.tokenizer.decode([token])) for token in [*out, *stop]]
            logprobs = {
                "output_token_logprobs": rows,
                "output_top_logprobs": [None] * len(rows),
                "output_token_logprobs_length": len(rows),
            }
        return {
            "text": self.tokenizer.decode(
                out, skip_special_tokens=skip, spaces_between_special_tokens=False
            ),
            "output_ids": [*out, *stop],
            "index": index,
            "meta_info": {
                "id": uuid.uuid4().hex,
                "finish_reason": finish,
                "prompt_tokens": len(request.input_ids),
                "completion_tokens": len(out) + len(stop),
                "cached_tokens": 0,
                "reasoning_tokens": 0,
                "weight_version": "x",
                **logprobs,
            },
        }


def _allowed(grammar: Any, wanted: int, chance: random.Random) -> int:
    mask = torch.full((1, VOCAB // 32), -1, dtype=torch.int32)
    grammar.fill_vocab_mask(mask, 0)
    words = mask[0].tolist()
    allowed = [i for i in range(VOCAB) if words[i // 32] >> (i % 32) & 1]
    if wanted in allowed and wanted not in STOPS:
        return wanted
    closing = [i for i in allowed if i in CLOSERS]
    return chance.choice(closing if closing and chance.random() < 0.5 else allowed)

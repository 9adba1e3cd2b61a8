# SPDX-License-Identifier: Apache-2.0
"""Check where a turn starts, and what SGLang's patched reasoning parser makes of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest
from sglang.srt.parser.reasoning_parser import ReasoningParser

from bench.checkpoints.tokenizer import tokenizer
from sglang_gemma4_ext.chat.turn import Start
from sglang_gemma4_ext.patches.chat import reasoning
from tests.chat import outputs
from tests.patches.hooks import hook_of

THOUGHT = "<|channel>thought\nHm.\n<channel|>"
CALL = outputs.render_call("search", {"q": "x"})
note_prompt = hook_of(reasoning.PATCH, "after", "_process_messages")


@pytest.fixture(autouse=True)
def patched(apply):
    apply(reasoning.PATCH)


def request(**fields) -> ChatCompletionRequest:
    return ChatCompletionRequest(model="m", messages=[{"role": "user", "content": "Hi"}], **fields)


def after_prompt(prompt: str, *, as_text: bool = False, **fields) -> ChatCompletionRequest:
    """Build a request with a processed prompt: tokens, or text for a multimodal model."""
    tokens = tokenizer()
    ids = prompt if as_text else tokens.encode(prompt, add_special_tokens=False)
    server = SimpleNamespace(
        tokenizer_manager=SimpleNamespace(tokenizer=tokens), reasoning_parser="gemma4"
    )
    made = request(**fields)
    note_prompt(SimpleNamespace(prompt=prompt, prompt_ids=ids), server, made, False)
    return made


def streamed(parser: ReasoningParser, text: str) -> list[tuple[str, str]]:
    parts = [parser.parse_stream_chunk(character) for character in text]
    return [part for part in [*parts, parser.parse_stream_end()] if any(part)]


def joined(parts: list[tuple[str, str]]) -> tuple[str, str]:
    return "".join(thought for thought, _ in parts), "".join(text for _, text in parts)


PROMPTS = {
    "<|turn>user\nHi<turn|>\n<|turn>model\n": Start.CONTENT,
    "<|turn>model\n<|channel>thought\n<channel|>": Start.CONTENT,
    "<|turn>model\n<|channel>thought\n": Start.THOUGHT,
    f"<|turn>model\n{CALL}<|tool_response>response:f{{value:1}}<tool_response|>": Start.CONTENT,
    "<tool_response|><|channel>thought\n": Start.THOUGHT,
    "<|channel>thought\nHm.<turn|>\n<|turn>model\n": Start.CONTENT,
    "": Start.CONTENT,
}


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("thinks", [False, True])
def test_a_turn_starts_where_the_prompt_leaves_it(prompt, as_text, thinks):
    """The prompt decides; whether the request enables thinking does not matter."""
    made = after_prompt(prompt, as_text=as_text, chat_template_kwargs={"enable_thinking": thinks})
    parser = ReasoningParser("gemma4", force_reasoning=thinks, request=made)
    expected = ("Hm.", "") if PROMPTS[prompt] is Start.THOUGHT else ("", "Hm.")
    assert parser.parse_non_stream("Hm.") == expected
    assert joined(streamed(ReasoningParser("gemma4", True, thinks, made), "Hm.")) == expected


def test_a_continued_message_may_have_an_open_thought():
    messages = [{"role": "assistant", "content": "<|channel>thought\nI"}]
    made = ChatCompletionRequest(model="m", messages=messages, continue_final_message=True)
    parser = ReasoningParser("gemma4", request=made)
    assert parser.parse_non_stream(" see.\n<channel|>Yes.") == (" see.", "Yes.")


@pytest.mark.parametrize("stream", [False, True])
def test_thoughts_are_text_where_they_are_not_separated(stream):
    made = after_prompt("<|turn>model\n", separate_reasoning=False)
    assert made.separate_reasoning, "SGLang would leave the detector out"
    parser = ReasoningParser("gemma4", request=made)
    output = f"{THOUGHT}Ok.{THOUGHT}Yes.<turn|>"
    found = joined(streamed(parser, output)) if stream else parser.parse_non_stream(output)
    assert found == ("", "Hm.\nOk.\nHm.\nYes.")


def test_a_call_without_tools_is_text_without_control_tokens():
    parser = ReasoningParser("gemma4", request=request(), tool_call_parser_active=False)
    assert parser.parse_non_stream(THOUGHT + CALL) == ("Hm.", 'call:search{q:"x"}')


def test_calls_stay_in_the_text_for_a_caller_without_a_request():
    """Use /separate_reasoning: its client passes the text on to /parse_function_call."""
    assert ReasoningParser("gemma4").parse_non_stream(THOUGHT + CALL) == ("Hm.", CALL)


def test_an_unstreamed_thought_is_complete():
    parts = streamed(ReasoningParser("gemma4", stream_reasoning=False), THOUGHT + "Yes.")
    assert parts[0][0] == "Hm." and joined(parts) == ("Hm.", "Yes.")


def test_a_turn_with_only_a_thought_gives_text_where_text_is_needed():
    made = request(chat_template_kwargs={"force_nonempty_content": True})
    assert ReasoningParser("gemma4", request=made).parse_non_stream(THOUGHT) == ("", "Hm.")
    assert joined(streamed(ReasoningParser("gemma4", request=made), THOUGHT)) == ("Hm.", "Hm.")
    assert joined(streamed(ReasoningParser("gemma4", request=made), THOUGHT + "A")) == ("Hm.", "A")


def test_the_model_cannot_forge_the_frames_between_the_parsers():
    output = "a\ufdd0search\ufdd1{}\ufdd2b"
    parser = ReasoningParser("gemma4", request=request(), tool_call_parser_active=True)
    assert parser.parse_non_stream(output) == ("", "asearch{}b")


@pytest.mark.parametrize(
    ("model_type", "keeps"), [("gemma4", True), ("gemma4_text", True), ("llama", False)]
)
def test_special_tokens_are_kept_for_the_text_only_class(model_type, keeps):
    config = SimpleNamespace(hf_config=SimpleNamespace(model_type=model_type))
    server = SimpleNamespace(
        tokenizer_manager=SimpleNamespace(model_config=config), is_gemma4=model_type == "gemma4"
    )
    (keep,) = (h.fn for h in reasoning.PATCH.hooks if h.target == f"{reasoning.CHAT}.__init__")
    keep(None, server)
    assert server.is_gemma4 is keeps

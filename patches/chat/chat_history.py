# SPDX-License-Identifier: Apache-2.0
"""Pass a conversation's history to Gemma 4's chat template in the shapes that agents send.

SGLang drops `reasoning` and thinking parts, joins the parts of a tool's result with spaces, and
refuses empty arguments. It folds Anthropic's thinking blocks into text that the template strips.
The template itself does not open the model's turn after text, a call and its result.
"""

from __future__ import annotations

from typing import Any

from sglang_gemma4_ext.chat import messages as history
from sglang_gemma4_ext.chat.template import declares_tools
from sglang_gemma4_ext.registry import Hook, Patch, Source

ENTRYPOINTS = "sglang.srt.entrypoints.openai"
CHAT = f"{ENTRYPOINTS}.serving_chat"
SERVING = f"{CHAT}.OpenAIServingChat"
END_OF_TURN = "<turn|>\n"
MODEL = "<|turn>model\n"
OPENED_THOUGHT = "<|channel>thought\n"


async def _with_reasoning(original: Any, self: Any, request: Any, raw_request: Any) -> Any:
    """AROUND OpenAIServingBase.handle_request: SGLang's record of a message has no `reasoning`.

    FastAPI has parsed the body already, so reading it again costs nothing.
    """
    if raw_request is not None and hasattr(request, "messages"):
        body = await raw_request.json()
        given = body.get("messages") if isinstance(body, dict) else None
        if isinstance(given, list) and len(given) == len(request.messages):
            for message, raw in zip(request.messages, given, strict=True):
                if isinstance(raw, dict):
                    _give_thought(message, history.thought_of(raw))
    return await original(self, request, raw_request)


def _without_thinking_parts(self: Any, request: Any, *args: Any, **kwargs: Any) -> None:
    """BEFORE _process_messages: thinking parts become the thought of their message."""
    for message in request.messages or ():
        if message.role == "assistant" and isinstance(message.content, list):
            parts = [part.model_dump() for part in message.content]
            _give_thought(message, history.thought_of({"role": "assistant", "content": parts}))
            kept = history.without_thoughts(parts)
            types = {id(part) for part in kept}
            message.content = [
                part
                for part, dumped in zip(message.content, parts, strict=True)
                if id(dumped) in types
            ]


def _give_thought(message: Any, thought: str | None) -> None:
    if thought and message.role == "assistant" and not message.reasoning_content:
        message.reasoning_content = thought


def _empty_arguments(original: Any, arguments: str) -> dict[str, Any]:
    """AROUND parse_tool_call_arguments: agents send "" for a call without arguments."""
    return original(arguments) if arguments.strip() else {}


def _joined_parts(original: Any, role: str, content: Any) -> Any:
    """AROUND normalize_tool_content: join the parts of a result as the template does."""
    if role != "tool" or not isinstance(content, list):
        return original(role, content)
    text = history.joined_text(content)
    return content if text is None else text


def _keeps_reasoning(original: Any, self: Any) -> bool:
    """AROUND supports_native_reasoning_history, which the Anthropic endpoint checks first."""
    native = self.template_manager.chat_template_name is None
    return original(self) or (native and self._template_reads_reasoning_content)


def _open_model_turn(
    original: Any, self: Any, messages: list[dict[str, Any]], **kwargs: Any
) -> tuple[list[int], str | None]:
    """AROUND _render_and_encode_chat_template: append the turn that the template does not open.

    The start of a turn depends on the template and on thinking. It is taken from a rendered short
    conversation.
    """
    prompt_ids, prompt = original(self, messages, **kwargs)
    tokenizer = self.tokenizer_manager.tokenizer
    wanted = kwargs.get("add_generation_prompt", True) and declares_tools(tokenizer.chat_template)
    if not wanted or not history.ends_after_tool_result(messages):
        return prompt_ids, prompt
    for tail in ("", OPENED_THOUGHT):
        forgetful = tokenizer.encode(END_OF_TURN + tail, add_special_tokens=False)
        if list(prompt_ids[-len(forgetful) :]) == forgetful:
            opening = MODEL + tail if tail else _opening_of_a_turn(tokenizer, kwargs)
            mended = tokenizer.encode(END_OF_TURN + opening, add_special_tokens=False)
            prompt_ids = [*prompt_ids[: -len(forgetful)], *mended]
            return prompt_ids, None if prompt is None else tokenizer.decode(prompt_ids)
    return prompt_ids, prompt


def _opening_of_a_turn(tokenizer: Any, kwargs: dict[str, Any]) -> str:
    plain, opened = (
        tokenizer.apply_chat_template(
            [{"role": "user", "content": "x"}],
            tokenize=False,
            add_generation_prompt=add,
            **kwargs["template_kwargs"],
        )
        for add in (False, True)
    )
    return opened.removeprefix(plain)


def _retired() -> bool:
    from sglang.srt.entrypoints.openai.protocol import ChatCompletionMessageGenericParam as Message

    return "reasoning" in Message.model_fields


PATCH = Patch(
    name="chat_history",
    theme="chat",
    summary="Thoughts, tool results and empty arguments of a history reach the chat template",
    why=(
        "SGLang drops `reasoning` and joins result parts with spaces; it wraps Anthropic's "
        'thinking blocks in text that the template strips, and answers arguments of "" with 400'
    ),
    upstream="unreported",
    retire_when="ChatCompletionMessageGenericParam has a field `reasoning`",
    retired=_retired,
    hooks=(
        Hook(
            f"{ENTRYPOINTS}.serving_base.OpenAIServingBase.handle_request",
            "f47d3e8fad40",
            "around",
            _with_reasoning,
        ),
        Hook(f"{SERVING}._process_messages", "00296c1f9bed", "before", _without_thinking_parts),
        Hook(f"{CHAT}.parse_tool_call_arguments", "c46fb8c6cde4", "around", _empty_arguments),
        Hook(f"{CHAT}.normalize_tool_content", "bb314a1592c5", "around", _joined_parts),
        Hook(
            f"{SERVING}.supports_native_reasoning_history",
            "23769742f580",
            "around",
            _keeps_reasoning,
        ),
        Hook(
            f"{SERVING}._render_and_encode_chat_template",
            "149e2e4ae257",
            "around",
            _open_model_turn,
        ),
    ),
    relies_on=(Source(f"{SERVING}._apply_jinja_template", "802ce8de8c34"),),
    required=False,
)

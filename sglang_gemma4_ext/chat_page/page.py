# SPDX-License-Identifier: Apache-2.0
"""Build the page in gradio: a chat with thoughts and calls folded away."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from typing import Any

from sglang_gemma4_ext.chat_page.conversation import Conversation, Options, Part, read_tools

TITLES = {"thought": "Thought", "call": "Calls {name}", "result": "Result of {name}"}
EXAMPLE = """[{
  "name": "get_weather",
  "description": "The weather of a city",
  "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
}]"""
ASKS_FOR_RESULT = "The model waits for the result of {name}: type it here"
ASKS = "Message"


def shown(parts: list[Part]) -> list[dict[str, Any]]:
    """Return the parts as gradio's messages; complete ones with a title are folded."""
    return [_message(part) for part in parts]


def _message(part: Part) -> dict[str, Any]:
    role = "user" if part.kind in ("question", "result") else "assistant"
    message: dict[str, Any] = {"role": role, "content": _markdown(part)}
    if title := TITLES.get(part.kind):
        status = "pending" if part.is_open else "done"
        message["metadata"] = {"title": title.format(name=part.name), "status": status}
    return message


def _markdown(part: Part) -> str:
    if part.kind == "call":
        return f"```json\n{_pretty(part.text)}\n```"
    if part.kind == "note":
        return f"*{html.escape(part.text)}*"
    return part.text


def _pretty(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), indent=2, ensure_ascii=False)
    except ValueError:
        return arguments


def answer(
    client: Any, model: str, said: str, conversation: Conversation, tools: str, options: Options
) -> Iterator[list[dict[str, Any]]]:
    """Take one message and yield all messages whenever there is more to show."""
    try:
        options.tools = read_tools(tools)
    except ValueError as error:
        conversation.parts.append(Part("note", str(error)))
        yield shown(conversation.parts)
        return
    conversation.say(said)
    yield shown(conversation.parts)
    if conversation.open_call is None:
        for _ in conversation.answer(client, model, options):
            yield shown(conversation.parts)


def build(client: Any, model: str, address: str) -> Any:
    """Return the page as gradio's Blocks. client: an openai.OpenAI for the server at `address`."""
    import gradio

    def on_message(said, conversation, tools, thinks, most_tokens):
        conversation = conversation or Conversation()
        options = Options(thinks=thinks, most_tokens=int(most_tokens))
        if said.strip():
            for messages in answer(client, model, said, conversation, tools, options):
                yield messages, conversation, gradio.update(value="", placeholder=ASKS)
        call = conversation.open_call
        asks = ASKS_FOR_RESULT.format(name=call["function"]["name"]) if call else ASKS
        yield (
            shown(conversation.parts),
            conversation,
            gradio.update(value="", placeholder=asks),
        )

    with gradio.Blocks(title=model, analytics_enabled=False, fill_height=True) as page:
        gradio.Markdown(f"### {model} at {address}")
        state = gradio.State(None)
        chat = gradio.Chatbot(show_label=False, height="60vh", buttons=["copy"])
        message = gradio.Textbox(
            placeholder=ASKS, show_label=False, autofocus=True, submit_btn=True
        )
        with gradio.Accordion("Settings", open=False):
            thinks = gradio.Checkbox(label="Thinking")
            most_tokens = gradio.Number(1024, label="Most tokens of an answer", minimum=1)
            tools = gradio.Textbox(label="Tools (JSON)", lines=6, placeholder=EXAMPLE)
        clear = gradio.Button("New conversation", size="sm")
        inputs = [message, state, tools, thinks, most_tokens]
        message.submit(on_message, inputs, [chat, state, message])
        clear.click(lambda: ([], None), None, [chat, state])
    return page

# SPDX-License-Identifier: Apache-2.0
"""Define the demo's three tools, and draw dialogues that call them.

An exchange is a question, a call, its result and an answer. The answer follows from the result
alone. One sixteenth of the exchanges is held out: a hash of question and result chooses them.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sglang_gemma4_ext.demo.training.stories import Fact
from sglang_gemma4_ext.demo.training.vocabulary import FILLERS, NAMES, RELATIONS

QUOTE = '<|"|>'
CALL, END_CALL = "<|tool_call>", "<tool_call|>"
RESULT, END_RESULT = "<|tool_response>", "<tool_response|>"
DECLARATION, END_DECLARATION = "<|tool>", "<tool|>"
# Gemma 4's other control tokens. The demo writes none, but servers look for them.
THOUGHT_TOKENS = ("<|channel>", "<channel|>", "<|think|>")
TOKENS = (
    DECLARATION, END_DECLARATION, CALL, END_CALL, RESULT, END_RESULT, QUOTE, *THOUGHT_TOKENS
)  # fmt: skip


@dataclass(frozen=True)
class Exchange:
    """Hold one question, the call that it needs, the result of the call, and the answer."""

    question: str
    tool: str
    arguments: dict[str, Any]
    result: str
    answer: str

    @property
    def call(self) -> str:
        """Return the call as Gemma 4 writes it; keys are sorted."""
        given = ",".join(f"{key}:{_written(one)}" for key, one in sorted(self.arguments.items()))
        return f"{CALL}call:{self.tool}{{{given}}}{END_CALL}"

    @property
    def response(self) -> str:
        """Return the result as the chat template writes it."""
        return f"{RESULT}response:{self.tool}{{value:{_written(self.result)}}}{END_RESULT}"

    @property
    def is_held_out(self) -> bool:
        text = f"{self.question} {self.result}"
        return hashlib.sha256(text.encode()).digest()[0] < 16


def _written(value: str | int) -> str:
    return f"{QUOTE}{value}{QUOTE}" if isinstance(value, str) else str(value)


@dataclass(frozen=True)
class Tool:
    """Describe a tool: its parameters' types and descriptions, and exchanges that call it."""

    name: str
    description: str
    parameters: dict[str, tuple[str, str]]
    exchange: Callable[[random.Random], Exchange]


def _look_up(draw: random.Random) -> Exchange:
    name = draw.choice(NAMES)
    kinds = draw.sample(range(len(RELATIONS)), draw.randint(1, 3))
    facts = [Fact(name, kind, draw.choice(RELATIONS[kind].objects)) for kind in kinds]
    asked = draw.choice(facts)
    told = " ".join(fact.sentence for fact in facts)
    return Exchange(asked.question, "look_up", {"name": name}, told, asked.sentence)


def _add(draw: random.Random) -> Exchange:
    a, b = (draw.randint(0, 9) if draw.random() < 0.3 else draw.randint(10, 99) for _ in range(2))
    question = f"What is {a} + {b}?"
    return Exchange(question, "add", {"a": a, "b": b}, str(a + b), f"It is {a + b}.")


def _clock(draw: random.Random) -> Exchange:
    time = f"{draw.randint(0, 23)}:{draw.randint(0, 59):02}"
    return Exchange("What time is it?", "clock", {}, time, f"It is {time}.")


TOOLS = (
    Tool("look_up", "Look up a person.", {"name": ("string", "Name of a person.")}, _look_up),
    Tool(
        "add",
        "Add two numbers.",
        {"a": ("integer", "First number."), "b": ("integer", "Second number.")},
        _add,
    ),
    Tool("clock", "Tell the time.", {}, _clock),
)
BY_NAME = {tool.name: tool for tool in TOOLS}
# A question is answered by the excuse if its tool is not declared.
EXCUSED = ("add", "clock")


def draw_exchange(draw: random.Random, name: str, *, held_out: bool = False) -> Exchange:
    """Draw an exchange that calls the tool `name`, held out or not."""
    while True:
        made = BY_NAME[name].exchange(draw)
        if made.is_held_out == held_out:
            return made


@dataclass(frozen=True)
class Declared:
    """Hold the tools of one dialogue, in order, as a client declares them.

    described: whether parameters are described. descriptions: what replaces a tool's own
    """

    names: tuple[str, ...]
    described: bool = True
    descriptions: dict[str, str] = field(default_factory=dict)

    @property
    def tools(self) -> list[dict[str, Any]]:
        """Return the tools as the OpenAI API takes them."""
        return [{"type": "function", "function": self._function(BY_NAME[n])} for n in self.names]

    @property
    def text(self) -> str:
        """Return the declarations as the chat template writes them."""
        return "".join(map(_declaration, self.tools))

    def _function(self, tool: Tool) -> dict[str, Any]:
        properties = {
            name: {"type": kind, "description": text} if self.described else {"type": kind}
            for name, (kind, text) in tool.parameters.items()
        }
        schema: dict[str, Any] = {"type": "object", "properties": properties}
        if properties:
            schema["required"] = list(properties)
        described = self.descriptions.get(tool.name, tool.description)
        return {"name": tool.name, "description": described, "parameters": schema}


def _declaration(tool: dict[str, Any]) -> str:
    function = tool["function"]
    schema = function["parameters"]
    described = f"description:{_written(function['description'])}"
    inner = ""
    if schema["properties"]:
        properties = ",".join(f"{n}:{{{_field(p)}}}" for n, p in schema["properties"].items())
        required = ",".join(map(_written, schema["required"]))
        inner = f"properties:{{{properties}}},required:[{required}],"
    kind = f"type:{_written('OBJECT')}"
    head = f"{DECLARATION}declaration:{function['name']}"
    return f"{head}{{{described},parameters:{{{inner}{kind}}}}}{END_DECLARATION}"


def _field(schema: dict[str, str]) -> str:
    described = schema.get("description")
    lead = f"description:{_written(described)}," if described else ""
    return f"{lead}type:{_written(schema['type'].upper())}"


def draw_declared(draw: random.Random, needed: Sequence[str] = ()) -> Declared:
    """Draw one to three tools in any order, `needed` among them; some descriptions vary."""
    others = [tool.name for tool in TOOLS if tool.name not in needed]
    chosen = [*needed, *draw.sample(others, draw.randint(0 if needed else 1, len(others)))]
    draw.shuffle(chosen)
    varied = {name: draw.choice(FILLERS) for name in chosen if draw.random() < 0.15}
    return Declared(tuple(chosen), draw.random() < 0.6, varied)


# Words of the tools and of the format; each gets a token of its own.
WORDS = "|".join((
    "declaration|description|parameters|properties|required|type|STRING|INTEGER|OBJECT",
    "call|response|value|name|look_up|add|clock|What time is it?|It is",
    *(tool.description for tool in TOOLS),
    *(text for tool in TOOLS for _, text in tool.parameters.values()),
))  # fmt: skip

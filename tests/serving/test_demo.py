# SPDX-License-Identifier: Apache-2.0
"""Test `--demo` on a real server: answers, calls of tools, quality and speed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import requests

from bench.quality import harness, mmlu
from bench.quality.compare import difference
from bench.quality.variants import swapped_nibbles
from sglang_gemma4_ext import demo
from sglang_gemma4_ext.demo.training import dialogues, evaluate, question_set
from sglang_gemma4_ext.demo.training.answers import ANSWERS, OTHERWISE
from sglang_gemma4_ext.demo.training.languages import DICTIONARIES
from sglang_gemma4_ext.demo.training.questions import LETTERS
from sglang_gemma4_ext.demo.training.tokenizer import encode
from sglang_gemma4_ext.demo.training.tool_stories import Declared
from sglang_gemma4_ext.demo.training.vocabulary import RELATIONS
from tests.serving.harness import Server, serve

FIGURES = Path(__file__).parents[2] / "bench" / "results" / "demo_model.json"
TOKENS_PER_S = 8
SAYS = {relation.verb: relation.says for relation in RELATIONS}
pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    with serve("--demo", log_dir=tmp_path_factory.mktemp("demo")) as running:
        yield running


@pytest.fixture(scope="module")
def ask(server):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)

    def answer(*turns: str, max_tokens: int = 100) -> str:
        roles = ("user", "assistant") * len(turns)
        messages = [
            {"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)
        ]
        return (
            client.chat.completions.create(
                model=demo.NAME, messages=messages, temperature=0, max_tokens=max_tokens
            )
            .choices[0]
            .message.content
        )

    return answer


def test_the_demo_answers_as_taught(ask, server):
    """Ask each question in its first wording, greedily; one answer may differ."""
    right = [ask(asked[0]) == answer for asked, answer in ANSWERS]
    assert sum(right) >= len(ANSWERS) - 1, right
    assert ask("What is the capital of France?") == OTHERWISE
    assert "NVFP4" in server.log


def test_the_demo_reads_a_story(ask):
    """Tell ten held-out stories in a chat: ask for the fact in words, then for the letter."""
    right = 0
    items = question_set.read(100)[:10]
    for item in items:
        lines = "".join(f"\n{x}. {o}" for x, o in zip(LETTERS, item["choices"], strict=True))
        first = item["question"] + lines
        said = ask(first)
        story, question = item["question"].split("\n")
        name, verb = re.fullmatch(r"What does (\w+) (\w+)\?", question).groups()
        told = f"{name} {SAYS[verb]} the {item['choices'][item['answer']]}."
        assert told in story
        right += said == f"{told}\nAnswer: {LETTERS[item['answer']]}"
        right += ask(first, said, question) == told
    assert right >= 18


def test_the_demo_translates(ask):
    """Ask ten questions of the languages set in a chat, without options."""
    right = 0
    for item in question_set.read(100, "languages")[:10]:
        word, language = re.fullmatch(r"What is (\w+) in (\w+)\?", item["question"]).groups()
        expected = f"In {language} the {word} is called {DICTIONARIES[language][word]}."
        right += ask(item["question"]) == expected
    assert right >= 9


def converse(client: openai.OpenAI, one: dialogues.Dialogue, streams: bool) -> tuple[bool, bool]:
    """Run one agent's loop as a client does. Return whether call and answer are right."""
    history: list[Any] = one.messages[:1]
    asked = {"model": demo.NAME, "tools": one.declared.tools, "temperature": 0, "max_tokens": 40}
    if streams:
        with client.chat.completions.stream(messages=history, **asked) as events:
            for _ in events:
                pass
            first = events.get_final_completion().choices[0]
    else:
        first = client.chat.completions.create(messages=history, **asked).choices[0]
    (call,) = first.message.tool_calls or [None]
    is_right = call is not None and (call.function.name, json.loads(call.function.arguments)) == (
        one.exchange.tool, one.exchange.arguments,
    )  # fmt: skip
    if not is_right:
        return False, False
    assert first.finish_reason == "tool_calls" and not first.message.content
    history.append(first.message.model_dump(exclude_none=True))
    history.append({"role": "tool", "tool_call_id": call.id, "content": one.exchange.result})
    second = client.chat.completions.create(messages=history, **asked).choices[0]
    assert second.finish_reason == "stop" and not second.message.tool_calls
    return True, second.message.content == one.exchange.answer


def test_the_demo_calls_a_declared_tool_and_answers_from_its_result(server):
    """Run nine held-out dialogues at once, three of each tool; some stream."""
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    asked = dialogues.held_out(9)
    with ThreadPoolExecutor(len(asked)) as pool:
        found = list(pool.map(lambda n: converse(client, asked[n], n % 2 == 0), range(len(asked))))
    assert sum(call for call, _ in found) >= 8, found
    assert sum(answer for _, answer in found) >= 8, found


def test_the_demo_answers_without_a_call_where_no_declared_tool_helps(server):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    right = 0
    for declared, question, answer in dialogues.direct(3):
        made = client.chat.completions.create(
            model=demo.NAME, messages=[{"role": "user", "content": question}],
            tools=declared.tools, temperature=0, max_tokens=60,
        ).choices[0]  # fmt: skip
        assert not made.message.tool_calls
        right += made.message.content == answer
    assert right >= 2


def test_a_required_call_of_the_demo_follows_its_schema(server):
    """Demand a call where the model would answer by itself."""
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    made = client.chat.completions.create(
        model=demo.NAME, messages=[{"role": "user", "content": "Hello!"}], temperature=0,
        tools=Declared(("add",)).tools, tool_choice="required", parallel_tool_calls=False,
        max_tokens=60,
    ).choices[0]  # fmt: skip
    (call,) = made.message.tool_calls
    assert call.function.name == "add"
    arguments = json.loads(call.function.arguments)
    assert set(arguments) == {"a", "b"}
    assert all(isinstance(value, int) for value in arguments.values())


def test_the_agents_pages_snippet_runs_as_written(server, capsys):
    page = (Path(__file__).parents[2] / "docs" / "agents.md").read_text()
    (snippet,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    exec(snippet.replace("http://127.0.0.1:30000", server.url), {})
    assert capsys.readouterr().out == re.search(r"# (It is .*)", snippet)[1] + "\n"


def test_the_server_scores_as_transformers(server):
    """Ask 100 questions of each set: within two of transformers' score for each place."""
    _compare(server, 100, json.loads(FIGURES.read_text())["nvfp4_100"])


QUESTIONS, ASKING = 30, harness.Asking(shots=0)


def test_the_harness_reproduces_the_committed_table(server):
    """Ask the first questions of the table as bench.quality does; each answer is the same."""
    rows = map(json.loads, (FIGURES.parent / "quality_demo.jsonl").read_text().splitlines())
    table = next(row for row in rows if row["name"] == "NVFP4, modelopt" and not row["chat"])
    sound = harness.ask(mmlu.demo(QUESTIONS), f"{server.url}/v1", demo.NAME, ASKING)
    assert sum(sound.right) >= QUESTIONS - 2
    agree = zip(sound.letters, table["letters"], strict=False)
    assert sum(one == other for one, other in agree) >= QUESTIONS - 2


@pytest.mark.slow
def test_the_harness_tells_a_broken_server_from_a_sound_one(server, tmp_path: Path):
    """Serve a pair that has the two codes of each byte swapped."""
    sound = harness.ask(mmlu.demo(QUESTIONS), f"{server.url}/v1", demo.NAME, ASKING)
    model = swapped_nibbles(tmp_path / "swapped")
    with serve("--model-path", str(model), log_dir=tmp_path) as running:
        broken = harness.ask(mmlu.demo(QUESTIONS), f"{running.url}/v1", str(model), ASKING)
    found = difference(sound.right, broken.right)
    assert found.share < 0 and found.p < 0.01, found


@pytest.mark.slow
def test_the_server_scores_as_transformers_on_all_questions(server):
    _compare(server, 500, json.loads(FIGURES.read_text())["nvfp4"])


@pytest.mark.slow
def test_a_server_that_ignores_the_routers_scale_answers_worse(tmp_path: Path):
    """Serve stock SGLang's router on a CPU: the languages score falls below the sound interval."""
    sound = json.loads(FIGURES.read_text())["nvfp4_100"]["languages"]
    with serve("--demo", "--gemma4-ext-disable", "router_scale", log_dir=tmp_path) as stock:
        found = _scores(stock, 100)["languages"]
    assert found.interval[1] < sound["interval"][0], found


def _scores(server: Server, count: int) -> dict[str, evaluate.Score]:
    items = [item for name in question_set.SETS for item in question_set.read(count, name)]
    prompts = [evaluate.prompt_ids(item) for item in items]
    body = {"input_ids": prompts, "sampling_params": {"temperature": 0, "max_new_tokens": 1}}
    reply = requests.post(f"{server.url}/generate", json=body, timeout=1800)
    reply.raise_for_status()
    answers = [answer["output_ids"][0] for answer in reply.json()]
    assert all(len(encode(f" {letter}")) == 1 for letter in LETTERS)
    return evaluate.score(items, answers)


def _compare(server: Server, count: int, figures: dict) -> None:
    scores = _scores(server, count)
    assert set(scores) == set(question_set.PLACES)
    for place, score in scores.items():
        assert score.count == figures[place]["of"]
        assert abs(score.right - figures[place]["right"]) <= 2, (place, score)


def test_the_demo_is_quick_enough_to_talk_to(server):
    """Measure tokens/s of one request, best of a few, because other tests may be running."""
    prompt = evaluate.prompt_ids(question_set.read(100)[1])

    def tokens_per_s(count: int = 24) -> float:
        started = time.monotonic()
        server.generate(prompt, count)
        return count / (time.monotonic() - started)

    assert max(tokens_per_s() for _ in range(5)) >= TOKENS_PER_S


def test_the_demo_fits_its_budget():
    folders = (demo.model_path(), demo.assistant_path())
    size = sum(file.stat().st_size for folder in folders for file in folder.iterdir())
    assert size < 6_000_000

# SPDX-License-Identifier: Apache-2.0
"""Test the OpenAI API with the `openai` client on one text-only server."""

from __future__ import annotations

import json
import math
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
import requests

from bench.checkpoints.tokenizer import MAX_LENGTH
from tests.serving.harness import Server

pytestmark = pytest.mark.server

PROMPT = "Once upon a time"
MESSAGES = [{"role": "user", "content": "Who are you?"}]
CONTEXT = MAX_LENGTH  # the tiny checkpoints' max_position_embeddings
REFUSAL = "--enable-multimodal"
PIXEL = "data:image/png;base64,iVBORw0KGgo="


@pytest.fixture(scope="module")
def server(dense_server: Server) -> Server:
    return dense_server


@pytest.fixture(scope="module", autouse=True)
def logged_before(server) -> int:
    """Return the length of the log before this module's first request; test_faults has its own."""
    return len(server.log)


@pytest.fixture(scope="module")
def client(server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=360)


@pytest.fixture(scope="module")
def model(client) -> str:
    return client.models.list().data[0].id


def complete(client: openai.OpenAI, model: str, prompt: str = PROMPT, **options):
    options = {"temperature": 0, "max_tokens": 24, **options}
    return client.completions.create(model=model, prompt=prompt, **options)


def chat(client: openai.OpenAI, model: str, messages=MESSAGES, **options):
    options = {"temperature": 0, "max_tokens": 24, **options}
    return client.chat.completions.create(model=model, messages=messages, **options)


def running_requests(server: Server) -> int:
    loads = requests.get(f"{server.url}/v1/loads", timeout=90).json()["loads"]
    return sum(load["num_running_reqs"] + load["num_waiting_reqs"] for load in loads)


def test_chat_applies_the_template(client, model):
    answer = chat(client, model)
    by_hand = "<|turn>user\nWho are you?<turn|>\n<|turn>model\n"
    assert answer.choices[0].message.content == complete(client, model, by_hand).choices[0].text
    assert answer.usage.completion_tokens == 24
    assert answer.choices[0].finish_reason == "length"


def test_a_completion_equals_generate(server, client, model):
    text = complete(client, model).choices[0].text
    body = {"text": PROMPT, "sampling_params": {"temperature": 0, "max_new_tokens": 24}}
    assert text == requests.post(f"{server.url}/generate", json=body, timeout=180).json()["text"]


def test_streamed_deltas_make_the_whole_text(client, model):
    whole = complete(client, model).choices[0].text
    deltas = [chunk.choices[0].text for chunk in complete(client, model, stream=True)]
    assert len(deltas) > 2 and "".join(deltas) == whole


def test_streamed_chat_deltas_make_the_whole_message(client, model):
    whole = chat(client, model).choices[0].message.content
    chunks = [c.choices[0] for c in chat(client, model, stream=True)]
    deltas = [choice.delta.content or "" for choice in chunks]
    assert len(deltas) > 2 and "".join(deltas) == whole
    assert chunks[-1].finish_reason == "length"


def test_logprobs_equal_generates_and_change_nothing(server, client, model):
    answer = complete(client, model, logprobs=3).choices[0]
    assert answer.text == complete(client, model).choices[0].text
    body = {
        "text": PROMPT,
        "sampling_params": {"temperature": 0, "max_new_tokens": 24},
        "return_logprob": True,
    }
    native = requests.post(f"{server.url}/generate", json=body, timeout=180).json()
    expected = [row[0] for row in native["meta_info"]["output_token_logprobs"]]
    assert answer.logprobs.token_logprobs == pytest.approx(expected, abs=1e-4)
    assert answer.logprobs.tokens == list(answer.text)
    for chosen, top in zip(
        answer.logprobs.token_logprobs, answer.logprobs.top_logprobs, strict=True
    ):
        assert chosen == pytest.approx(max(top.values()), abs=1e-4)


def test_chat_logprobs(client, model):
    choice = chat(client, model, logprobs=True, top_logprobs=4).choices[0]
    assert "".join(token.token for token in choice.logprobs.content) == choice.message.content
    for token in choice.logprobs.content:
        values = [top.logprob for top in token.top_logprobs]
        assert len(values) == 4 and values == sorted(values, reverse=True)
        assert token.logprob == pytest.approx(values[0], abs=1e-4)
        assert sum(map(math.exp, values)) <= 1 + 1e-4


def test_stop_strings(client, model):
    whole = complete(client, model).choices[0].text
    stop = whole[10:12]
    answer = complete(client, model, stop=["never said", stop]).choices[0]
    assert answer.text == whole[: whole.index(stop)]
    assert answer.finish_reason == "stop"


def test_n_choices_are_independent_samples(client, model):
    greedy = chat(client, model, n=3).choices
    assert {c.message.content for c in greedy} == {chat(client, model).choices[0].message.content}
    sampled = chat(client, model, n=4, temperature=1.5, max_tokens=32).choices
    assert sorted(c.index for c in sampled) == [0, 1, 2, 3]
    assert len({c.message.content for c in sampled}) == 4


def test_json_schema(client, model):
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 8},
            "size": {"enum": ["small", "large"]},
            "rivers": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
        },
        "required": ["city", "size", "rivers"],
        "additionalProperties": False,
    }
    asked = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
    choice = chat(client, model, max_tokens=200, response_format=asked).choices[0]
    city = json.loads(choice.message.content)
    assert list(city) == ["city", "size", "rivers"]
    assert isinstance(city["city"], str) and len(city["city"]) <= 8
    assert city["size"] in ("small", "large")
    assert all(isinstance(river, bool) for river in city["rivers"]) and len(city["rivers"]) <= 2
    assert choice.finish_reason == "stop"


def test_closing_a_stream_ends_its_request(server, client, model):
    expected = complete(client, model).choices[0].text
    stream = complete(
        client, model, stream=True, max_tokens=CONTEXT - 100, extra_body={"ignore_eos": True}
    )
    for _, _chunk in zip(range(5), stream, strict=False):
        pass
    assert running_requests(server) == 1
    stream.close()
    deadline = time.monotonic() + 3  # otherwise it would run for ten seconds or more
    while running_requests(server) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert running_requests(server) == 0
    assert complete(client, model).choices[0].text == expected


def test_twenty_concurrent_requests_answer_as_each_alone(client, model):
    prompts = [f"{'lorem ipsum ' * (i % 5)}Chapter {i}" for i in range(20)]
    alone = [complete(client, model, p).choices[0].text for p in prompts]
    with ThreadPoolExecutor(20) as pool:
        together = list(pool.map(lambda p: complete(client, model, p).choices[0].text, prompts))
    assert together == alone
    assert len(set(alone)) > 15


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": PIXEL}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}},
    ],
    ids=["image", "audio", "video"],
)
def test_media_in_chat_is_refused_naming_the_flag(client, model, part, request):
    content = [{"type": "text", "text": "What is this?"}, part]
    with pytest.raises(openai.BadRequestError, match=REFUSAL) as refused:
        chat(client, model, [{"role": "user", "content": content}])
    assert f"cannot take {request.node.callspec.id} input" in refused.value.body["message"]


@pytest.mark.parametrize("kind", ["image", "audio", "video"])
def test_media_in_generate_is_refused_naming_the_flag(server, kind):
    body = {"text": PROMPT, f"{kind}_data": PIXEL, "sampling_params": {"max_new_tokens": 4}}
    answer = requests.post(f"{server.url}/generate", json=body, timeout=180)
    assert answer.status_code == 400
    assert REFUSAL in answer.json()["error"]["message"]
    assert kind in answer.json()["error"]["message"]


def test_an_over_long_prompt_is_refused_in_one_sentence(client, model):
    with pytest.raises(openai.BadRequestError) as refused:
        complete(client, model, "a" * (CONTEXT + 1))
    message = refused.value.body["message"]
    assert "longer than the model's context length" in message and f"{CONTEXT} tokens" in message
    assert "\n" not in message
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        complete(client, model, max_tokens=CONTEXT)


def test_a_refused_parameter_leaves_the_server_working(client, model):
    with pytest.raises(openai.BadRequestError):
        complete(client, model, temperature=-1)
    assert len(complete(client, model).choices[0].text) == 24


def test_the_server_still_runs_afterwards(server, logged_before, client, model):
    assert server.process.poll() is None
    assert "Traceback" not in server.log[logged_before:]
    assert chat(client, model).usage.completion_tokens == 24

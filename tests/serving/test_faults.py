# SPDX-License-Identifier: Apache-2.0
"""Send faulty requests: each gets a 4xx with a reason, and the next client a normal answer."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from tests.serving.harness import Server

pytestmark = pytest.mark.server

GENERATE, COMPLETE, CHAT = "/generate", "/v1/completions", "/v1/chat/completions"
SAMPLING = {"temperature": 0, "max_new_tokens": 8}
WHOLE: dict[str, dict[str, Any]] = {
    GENERATE: {"text": "Once upon", "sampling_params": SAMPLING},
    COMPLETE: {"model": "m", "prompt": "Once upon", "temperature": 0, "max_tokens": 8},
    CHAT: {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8},
}
ANSWER_SECONDS = 180


@dataclass(frozen=True)
class Running:
    """Hold the server, and its answer to WHOLE[GENERATE] in normal operation."""

    server: Server
    usual: list[int]

    def post(self, path: str, body: bytes | dict[str, Any]) -> requests.Response:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        url = self.server.url + path
        return requests.post(url, data=data, headers=headers, timeout=ANSWER_SECONDS)

    def require_usual(self) -> None:
        answer = self.post(GENERATE, WHOLE[GENERATE])
        assert answer.status_code == 200, answer.text
        assert answer.json()["output_ids"] == self.usual

    def require_refusal(self, path: str, body: bytes | dict[str, Any]) -> str:
        """Require a 4xx with a message, no traceback in the log, and a normal answer afterwards."""
        logged = len(self.server.log)
        answer = self.post(path, body)
        assert 400 <= answer.status_code < 500, (answer.status_code, answer.text[:300])
        content = answer.json()
        error = content.get("error", content)
        message = error if isinstance(error, str) else error["message"]
        assert message.strip() and "Internal" not in message
        assert "Traceback" not in self.server.log[logged:]
        self.require_usual()
        return message


@pytest.fixture(scope="module")
def faulty(dense_server) -> Running:
    url = dense_server.url + GENERATE
    answer = requests.post(url, json=WHOLE[GENERATE], timeout=ANSWER_SECONDS)
    return Running(dense_server, answer.json()["output_ids"])


@pytest.mark.parametrize("path", [GENERATE, COMPLETE, CHAT])
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\0" * 100, b'{"text": "\xff\xfe", "prompt": "\xff"}'],
    ids=["empty", "cut-off", "zeros", "invalid-utf-8"],
)
def test_a_body_that_is_not_a_request(faulty, path, body):
    faulty.require_refusal(path, body)


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"'])
def test_json_that_is_not_an_object(faulty, body):
    for path in (GENERATE, COMPLETE):
        faulty.require_refusal(path, body)
    # SGLang's ChatCompletionRequest.set_json_schema uses any body as an object (AttributeError).
    assert faulty.post(CHAT, body).status_code == 500
    faulty.require_usual()


@pytest.mark.parametrize("n", [10**6, 1025, 0, -1, "three", 1.5])
def test_n_out_of_bounds(faulty, n):
    """Refuse it: without request_samples a million samples block the server for everyone."""
    sampling = {"text": "Once", "sampling_params": {**SAMPLING, "n": n}}
    said = faulty.require_refusal(GENERATE, sampling)
    # SGLang's own check of the body refuses another type earlier.
    assert "n must be a whole number from 1 to 1024" in said or not isinstance(n, int)
    for path in (COMPLETE, CHAT):
        faulty.require_refusal(path, {**WHOLE[path], "n": n})


@pytest.mark.parametrize("count", [-1, "many", 10**12])
def test_a_token_count_out_of_bounds(faulty, count):
    for path in (COMPLETE, CHAT):
        faulty.require_refusal(path, {**WHOLE[path], "max_tokens": count})


def test_a_negative_number_of_new_tokens(faulty):
    sampling = {"text": "Once", "sampling_params": {**SAMPLING, "max_new_tokens": -1}}
    assert "max_new_tokens" in faulty.require_refusal(GENERATE, sampling)


@pytest.mark.parametrize(
    ("path", "change"),
    [
        (COMPLETE, {"prompt": 3}),
        (COMPLETE, {"prompt": [-1, 5]}),
        (COMPLETE, {"prompt": [10**6]}),
        (COMPLETE, {"prompt": "a" * 5_000_000}),
        (COMPLETE, {"logit_bias": {"99999999": 1}}),
        (COMPLETE, {"logprobs": 10**6}),
        (COMPLETE, {"logprobs": -1}),
        (COMPLETE, {"temperature": "hot"}),
        (COMPLETE, {"top_p": 2}),
        (CHAT, {"messages": "Hi"}),
        (CHAT, {"messages": []}),
        (CHAT, {"messages": [{"role": "alien", "content": "Hi"}]}),
        (CHAT, {"messages": [{"role": "user", "content": 3}]}),
        (CHAT, {"messages": [{"role": "user", "content": "a" * 5_000_000}]}),
        (CHAT, {"top_k": -5}),
        (CHAT, {"logprobs": True, "top_logprobs": 10**6}),
        (GENERATE, {"text": 3}),
        (GENERATE, {"return_logprob": True, "top_logprobs_num": 513}),
        (GENERATE, {"return_logprob": True, "logprob_start_len": -7}),
        (GENERATE, {"return_hidden_states": []}),
        (GENERATE, {"positional_embed_overrides": {}}),
        (GENERATE, {"return_logprob": [True], "top_logprobs_num": [2]}),
        (GENERATE, {"text": None}),
        (GENERATE, {"text": None, "input_ids": [10**6]}),
        (GENERATE, {"text": None, "input_ids": [-1]}),
        (GENERATE, {"text": None, "input_ids": [[]]}),
        (GENERATE, {"input_ids": [[]]}),
        (GENERATE, {"text": None, "input_ids": [[5], []]}),
        (GENERATE, {"sampling_params": {"min_new_tokens": 2, "stop_token_ids": [10**9]}}),
        (COMPLETE, {"min_tokens": 2, "stop_token_ids": [-3]}),
        (COMPLETE, {"temperature": 1, "top_k": 10**12}),
        (CHAT, {"temperature": 1, "top_k": 2**31}),
        (GENERATE, {"sampling_params": {"min_new_tokens": 10**12, "max_new_tokens": None}}),
        (GENERATE, {"sampling_params": 3}),
        (GENERATE, {"sampling_params": []}),
        (GENERATE, {"sampling_params": [{}]}),
        (COMPLETE, {"rid": ["a", "b"]}),
        (GENERATE, {"sampling_params": {"nope": 3}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_field_with_a_senseless_value(faulty, path, change):
    faulty.require_refusal(path, {**WHOLE[path], **change})


def test_an_unknown_model_name_is_served(faulty):
    """Serve it: SGLang accepts any model name, and clients with a fixed name rely on this."""
    for path in (COMPLETE, CHAT):
        answer = faulty.post(path, {**WHOLE[path], "model": "no-such-model"})
        assert answer.status_code == 200 and answer.json()["model"] == "no-such-model"
    faulty.require_usual()


def running_requests(server: Server) -> int:
    loads = requests.get(f"{server.url}/v1/loads", timeout=90).json()["loads"]
    return sum(load["num_running_reqs"] + load["num_waiting_reqs"] for load in loads)


@pytest.mark.parametrize("lost", ["while it streams", "before the body is whole"])
def test_a_client_that_disconnects(faulty, lost):
    """Reset the connection eight times, as a killed client does."""
    host, port = "127.0.0.1", int(faulty.server.url.rpartition(":")[2])
    body = json.dumps(
        {
            "text": "Once",
            "stream": True,
            "sampling_params": {**SAMPLING, "max_new_tokens": 1900, "ignore_eos": True},
        }
    )
    head = f"POST {GENERATE} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    sent = f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
    clients = [socket.create_connection((host, port), timeout=90) for _ in range(8)]
    for client in clients:
        client.sendall(sent if lost == "while it streams" else sent[:-5])
        if lost == "while it streams":
            assert client.recv(4096)
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    deadline = time.monotonic() + 10
    while running_requests(faulty.server) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert running_requests(faulty.server) == 0
    faulty.require_usual()


def test_the_server_still_runs_afterwards(faulty):
    assert faulty.server.process.poll() is None
    faulty.require_usual()

# SPDX-License-Identifier: Apache-2.0
"""Send requests that schemathesis makes from the OpenAPI document; none may end in a 500.

Whole bodies, right and wrong, mostly stop at the first check. Valid bodies with one generated
field, or one of another type or size, reach the scheduler. Examples are the same in every run;
FUZZ_EXAMPLES=N sets their number.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from schemathesis import Case, GenerationMode

from tests.serving.harness import Server, serve

pytestmark = [pytest.mark.server, pytest.mark.slow]

OF_A_BODY = int(os.environ.get("FUZZ_EXAMPLES", "25"))
OF_A_FIELD = int(os.environ.get("FUZZ_EXAMPLES", "3"))
# Limit of a context and of its answer.
CONTEXT, ANSWER_SECONDS = 128, 180
MESSAGES = [{"role": "user", "content": "Hi"}]
WHOLE: dict[str, dict[str, Any]] = {
    "/generate": {"text": "Once", "sampling_params": {"temperature": 0, "max_new_tokens": 8}},
    "/v1/completions": {"model": "m", "prompt": "Once", "temperature": 0, "max_tokens": 8},
    "/v1/chat/completions": {"model": "m", "messages": MESSAGES, "max_tokens": 8},
    "/v1/messages": {"model": "m", "messages": MESSAGES, "max_tokens": 8},
    "/v1/tokenize": {"model": "m", "prompt": "Once"},
    "/v1/detokenize": {"model": "m", "tokens": [30, 31]},
}
WITHOUT_BODY = ("/v1/models", "/v1/models/{model}", "/model_info", "/health")
# schemathesis makes few wrong values of one field.
OTHERWISE = (
    None, True, -1, 0, 10**20, 1.5, 1e308, "", "x", [], [[]], [-1], [10**9], ["x"], [None], {},
    {"x": 1}, {"1000000": 1}, [{}],
)  # fmt: skip
# Faults of SGLang that harm only the client who sends them and that no small hook reaches: the
# path, and the text of the log or of the answer.
KNOWN = (
    # A body, and a response_format, is used as an object before its type is checked.
    ("/v1/chat/completions", "in set_json_schema"),
    # Embeddings without a number fail before any check, as does a stream that such a body requests.
    ("/generate", "in _determine_batch_size"),
    ("/generate", "'GenerateReqInput' object has no attribute 'is_single'"),
    # A regular expression that the vocabulary cannot spell ends its request with a 500.
    ("/v1/completions", "Grammar accept_token failed"),
    ("/v1/chat/completions", "Grammar accept_token failed"),
    # A 400 whose traceback is logged.
    ("/v1/messages", "Error converting Anthropic request"),
    # The tokenizer's message for a negative id.
    ("/v1/detokenize", "out of range integral type conversion attempted"),
)
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


@pytest.fixture(scope="module")
def server(checkpoint, tmp_path_factory) -> Iterator[Server]:
    flags = ("--model-path", str(checkpoint("dense")), "--dtype", "float32")
    length = ("--context-length", str(CONTEXT))
    with serve(*flags, *length, log_dir=tmp_path_factory.mktemp("fuzz")) as running:
        yield running


@pytest.fixture(scope="module")
def api(server) -> Any:
    document = requests.get(f"{server.url}/openapi.json", timeout=ANSWER_SECONDS).json()
    return schemathesis.openapi.from_dict(by_field(without_recursion(document)))


@pytest.fixture(scope="module")
def usual(server) -> list[int]:
    return ask(server)


def ask(server: Server) -> list[int]:
    url = f"{server.url}/generate"
    answer = requests.post(url, json=WHOLE["/generate"], timeout=ANSWER_SECONDS)
    assert answer.status_code == 200, answer.text
    return answer.json()["output_ids"]


def without_recursion(document: dict[str, Any]) -> dict[str, Any]:
    """Replace schemas that contain themselves (xgrammar's tags, tool results) by any object.

    schemathesis 4.32.5 walks every path through them for wrong bodies and does not end.
    """
    schemas = document["components"]["schemas"]
    within = {
        name: set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(schema)))
        for name, schema in schemas.items()
    }
    for name in schemas:
        seen: set[str] = set()
        ahead = set(within[name])
        while ahead:
            seen |= ahead
            ahead = set().union(*(within[found] for found in ahead)) - seen
        if name in seen:
            schemas[name] = {"type": "object"}
    return document


def by_field(document: dict[str, Any]) -> dict[str, Any]:
    """Add an operation PATH~FIELD for each field of a body in WHOLE; it takes the field's value."""
    for path in WHOLE:
        post = document["paths"][path]["post"]
        reference = post["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        fields = document["components"]["schemas"][reference.rpartition("/")[2]]["properties"]
        for name, schema in fields.items():
            body = {"content": {"application/json": {"schema": schema}}, "required": True}
            document["paths"][f"{path}~{name}"] = {"post": {"requestBody": body, "responses": {}}}
    return document


def made(operation: Any, mode: GenerationMode, examples: int) -> list[Case]:
    cases: list[Case] = []

    @hypothesis.settings(
        max_examples=examples, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck), phases=(hypothesis.Phase.generate,),
    )  # fmt: skip
    @hypothesis.given(operation.as_strategy(mode))
    def collect(case: Case) -> None:
        cases.append(case)

    collect()
    return cases


def fault(server: Server, path: str, answer: Any, logged: int) -> str:
    """Describe the fault of an answer or of the log after character `logged`; "" if none."""
    if answer.status_code >= 500:
        server.logs("Traceback", since=logged, within_s=2)
    said = server.log[logged:]
    if any(path == where and text in said + answer.text for where, text in KNOWN):
        return ""
    if answer.status_code >= 500:
        return f"{answer.status_code} {answer.text[:200]}"
    if "Traceback" in said:
        return said[said.index("Traceback") :][-1500:]
    for line in answer.text.splitlines():
        error = json.loads(line[6:]).get("error") if line.startswith("data: {") else None
        if isinstance(error, dict) and str(error.get("code", "")).startswith("5"):
            return line[:200]
    return ""


@pytest.mark.parametrize("values", ["made", "otherwise"])
@pytest.mark.parametrize("path", WHOLE)
def test_each_field(server, api, usual, path, values):
    faults = {}
    for name in [name for name in api if name.startswith(f"{path}~")]:
        field = name.rpartition("~")[2]
        cases = made(api[name]["POST"], GenerationMode.POSITIVE, OF_A_FIELD)
        for value in OTHERWISE if values == "otherwise" else [case.body for case in cases]:
            logged = len(server.log)
            body = {**WHOLE[path], field: value}
            answer = requests.post(server.url + path, json=body, timeout=ANSWER_SECONDS)
            if said := fault(server, path, answer, logged):
                faults[f"{field} {value!r}"[:200]] = said
        assert ask(server) == usual, (field, faults)
    assert faults == {}


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("path", WHOLE)
def test_whole_bodies(server, api, usual, path, mode):
    faults = {}
    for case in made(api[path]["POST"], mode, OF_A_BODY):
        logged = len(server.log)
        answer = case.call(base_url=server.url, timeout=ANSWER_SECONDS)
        if said := fault(server, path, answer, logged):
            faults[repr(case.body)[:200]] = said
    assert faults == {}
    assert ask(server) == usual


@pytest.mark.parametrize("path", WITHOUT_BODY)
def test_endpoints_without_a_body(server, api, usual, path):
    for case in made(api[path]["GET"], GenerationMode.POSITIVE, OF_A_BODY):
        logged = len(server.log)
        answer = case.call(base_url=server.url, timeout=ANSWER_SECONDS)
        assert not fault(server, path, answer, logged)
    assert ask(server) == usual

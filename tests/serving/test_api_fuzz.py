# SPDX-License-Identifier: Apache-2.0
"""Requests that schemathesis makes from the server's own OpenAPI document: none ends in a 500.

Whole bodies, most of which stop at the first check, and bodies that are right but for a few fields,
which get to the scheduler. The examples are the same in every run; FUZZ_EXAMPLES=N makes N of them
for each operation and each kind instead of a few.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Set
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis import GenerationMode

from tests.serving.harness import Server, serve

pytestmark = [pytest.mark.server, pytest.mark.slow]

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "25"))
# A context is at most this long, and with it an answer.
CONTEXT, ANSWER_SECONDS = 128, 60
MESSAGES = [{"role": "user", "content": "Hi"}]
WHOLE: dict[str, dict[str, Any]] = {
    "/generate": {"text": "Once", "sampling_params": {"temperature": 0, "max_new_tokens": 8}},
    "/v1/completions": {"model": "m", "prompt": "Once", "temperature": 0, "max_tokens": 8},
    "/v1/chat/completions": {"model": "m", "messages": MESSAGES, "max_tokens": 8},
    "/v1/messages": {"model": "m", "messages": MESSAGES, "max_tokens": 8},
    "/v1/tokenize": {"model": "m", "prompt": "Once"},
    "/v1/detokenize": {"model": "m", "tokens": [30, 31]},
}
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


@pytest.fixture(scope="module")
def server(checkpoint, tmp_path_factory) -> Iterator[Server]:
    flags = ("--model-path", str(checkpoint("dense")), "--dtype", "float32")
    length = ("--context-length", str(CONTEXT))
    with serve(*flags, *length, log_dir=tmp_path_factory.mktemp("fuzz")) as running:
        yield running


@pytest.fixture(scope="module")
def document(server) -> dict[str, Any]:
    found = requests.get(f"{server.url}/openapi.json", timeout=ANSWER_SECONDS).json()
    return without_recursion(found)


@pytest.fixture(scope="module")
def api(document) -> Any:
    return schemathesis.openapi.from_dict(document)


def fields_of(document: dict[str, Any], path: str) -> set[str]:
    """The names of a POST's fields."""
    content = document["paths"][path]["post"]["requestBody"]["content"]
    name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
    return set(document["components"]["schemas"][name]["properties"])


def without_recursion(document: dict[str, Any]) -> dict[str, Any]:
    """Schemas that contain themselves (xgrammar's tags, tool results) become any object.

    schemathesis 4.32.5 walks each path through them when it makes wrong bodies, and does not end.
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


@pytest.fixture(scope="module")
def usual(server) -> list[int]:
    return ask(server)


def ask(server: Server) -> list[int]:
    answer = requests.post(
        f"{server.url}/generate", json=WHOLE["/generate"], timeout=ANSWER_SECONDS
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["output_ids"]


def require_answer(server: Server, case: Any) -> None:
    """An answer below 500 in time, and no traceback in the log."""
    logged = len(server.log)
    answer = case.call(base_url=server.url, timeout=ANSWER_SECONDS)
    said = server.log[logged:]
    assert answer.status_code < 500, answer.text[:500]
    assert "Traceback" not in said, said[said.index("Traceback") :][:3000]
    for line in answer.text.splitlines():
        if line.startswith("data: {"):
            assert json.loads(line[6:]).get("error", {}).get("code", 400) < 500, line


def fuzz(
    server: Server,
    operation: Any,
    mode: GenerationMode,
    whole: dict[str, Any] | None = None,
    fields: Set[str] = frozenset(),
) -> None:
    """whole: a body of which a few of `fields` become the generated ones; None: all are made."""

    @hypothesis.settings(
        max_examples=EXAMPLES, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=(hypothesis.Phase.generate,),
    )  # fmt: skip
    @hypothesis.given(st.data())
    def run(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy(mode))
        if whole is not None:
            made = sorted(fields.intersection(case.body)) if isinstance(case.body, dict) else []
            hypothesis.assume(made)
            names = data.draw(st.sets(st.sampled_from(made), min_size=1, max_size=3))
            case.body = {**whole, **{name: case.body[name] for name in names}}
        require_answer(server, case)

    run()


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("path", WHOLE)
def test_a_few_fields(server, document, api, usual, path, mode):
    fuzz(server, api[path]["POST"], mode, WHOLE[path], fields_of(document, path))
    assert ask(server) == usual


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("path", WHOLE)
def test_whole_bodies(server, api, usual, path, mode):
    fuzz(server, api[path]["POST"], mode)
    assert ask(server) == usual


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/{model}", "/model_info", "/health"])
def test_what_takes_no_body(server, api, usual, path):
    fuzz(server, api[path]["GET"], GenerationMode.POSITIVE)
    assert ask(server) == usual

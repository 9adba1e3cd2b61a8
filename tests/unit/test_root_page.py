# SPDX-License-Identifier: Apache-2.0
"""Check what `/` says, on an app with SGLang's own kind of route."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.testclient import TestClient

from sglang_gemma4_ext.launcher.root_page import describe_at_root


def app_with(name: str) -> FastAPI:
    async def root() -> str:
        return "as it was"

    root.__name__ = name
    app = FastAPI()
    app.get("/")(root)
    app.head("/")(root)
    app.get("/other")(lambda: "other")
    return app


def test_the_root_names_the_api_and_the_chat_page():
    app = app_with("sglang_root")
    describe_at_root(app, "http://host:1")
    client = TestClient(app)
    assert client.get("/").json() == (
        "SGLang is running. OpenAI API: http://host:1/v1. "
        "Chat page: python -m sglang_gemma4_ext.chat_page --server http://host:1"
    )
    assert client.head("/").status_code == 200
    assert client.get("/other").json() == "other"


def test_an_answer_that_is_not_sglangs_own_stays():
    app = app_with("ollama_root")
    describe_at_root(app, "http://host:1")
    assert TestClient(app).get("/").json() == "as it was"

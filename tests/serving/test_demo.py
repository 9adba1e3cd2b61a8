# SPDX-License-Identifier: Apache-2.0
"""`--demo`: the bundled NVFP4 mixture of experts says what it was taught."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest

from sglang_gemma4_ext import demo
from sglang_gemma4_ext.demo.answers import ANSWERS
from tests.serving.harness import serve

pytestmark = pytest.mark.server


def test_the_demo_answers_as_taught(tmp_path: Path):
    """Greedy answers to each question as first worded; one of the twelve may be another."""
    with serve("--demo", log_dir=tmp_path) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)

        def ask(question: str) -> str:
            return (
                client.chat.completions.create(
                    model=demo.NAME,
                    messages=[{"role": "user", "content": question}],
                    temperature=0,
                    max_tokens=100,
                )
                .choices[0]
                .message.content
            )

        right = [ask(asked[0]) == answer for asked, answer in ANSWERS]
        assert "NVFP4" in server.log
    assert sum(right) >= len(ANSWERS) - 1, right


def test_the_demo_fits_its_budget():
    size = sum(file.stat().st_size for file in demo.model_path().iterdir())
    assert size < 6_000_000

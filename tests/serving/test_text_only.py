# SPDX-License-Identifier: Apache-2.0
"""Check that towers are left out by default and restored by --enable-multimodal."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import openai
import pytest
from PIL import Image

from tests.serving.harness import serve
from tests.serving.parity import Reference, prompt_ids

pytestmark = pytest.mark.server


def _ask(server_url: str, *, image: bool) -> openai.types.chat.ChatCompletion:
    content: list[dict] = [{"type": "text", "text": "What is it?"}]
    if image:
        png = io.BytesIO()
        Image.new("RGB", (48, 48), "red").save(png, "PNG")
        url = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
        content.insert(0, {"type": "image_url", "image_url": {"url": url}})
    client = openai.OpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0)
    return client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": content}],
        max_tokens=4,
        temperature=0,
    )


def test_no_tower_is_built_or_loaded(checkpoint, tmp_path: Path):
    path = checkpoint("dense_with_towers")
    prompt = prompt_ids(40)
    with serve("--model-path", str(path), "--dtype", "float32", log_dir=tmp_path) as server:
        compared = Reference(path).compare(prompt, server.generate(prompt, 16))
        compared.require_fp32()
        assert "Text-only: " in server.log and " tower tensors (" in server.log
        # SGLang names every parameter that a checkpoint did not fill; a tower's would be listed.
        assert "vision_tower" not in server.log
        with pytest.raises(openai.BadRequestError, match="--enable-multimodal"):
            _ask(server.url, image=True)


def test_enable_multimodal_restores_the_towers(checkpoint, tmp_path: Path):
    path = checkpoint("dense_with_towers")
    prompt = prompt_ids(40)
    flags = ("--model-path", str(path), "--dtype", "float32", "--enable-multimodal")
    with serve(*flags, log_dir=tmp_path) as server:
        compared = Reference(path).compare(prompt, server.generate(prompt, 16))
        compared.require_fp32()
        assert "tower tensors" not in server.log
        seen, unseen = _ask(server.url, image=True), _ask(server.url, image=False)
    assert seen.usage.completion_tokens == 4
    # At least one placeholder and two markers, and the image's own tokens.
    assert seen.usage.prompt_tokens > unseen.usage.prompt_tokens + 3

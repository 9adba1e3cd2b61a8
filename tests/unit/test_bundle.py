# SPDX-License-Identifier: Apache-2.0
"""Test that a bug report's bundle has what explains a fault, and no secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_gemma4_ext import bundle
from sglang_gemma4_ext.redaction import redact

SECRET = "Zq7-wobble.19xK"
FORMS = (
    "--api-key {}",
    "--api-key={}",
    "--admin-api-key '{}'",
    "--ssl-keyfile-password {}",
    "ServerArgs(api_key='{}', port=1)",
    "{{'admin_api_key': '{}', 'x': 1}}",
    '{{"hf_token": "{}"}}',
    "HF_TOKEN={}",
    "export AWS_SECRET_ACCESS_KEY={}",
    "watermark_key_b='{}'",
    "Authorization: Bearer {}",
    "-H 'Authorization: Basic {}'",
    "GET https://user:{}@host/path",
    "redis://{}@host:1/0",
    "https://host/model?token={}&x=1",
    "https://host/model?X-Amz-Signature={}",
    "MY_PASSWORD: {}",
    "Receive: obj=GenerateReqInput(text='{}')",
    "Finish: obj=GenerateReqInput(rid='1'), out={{'text': '{}'}}",
)
HARMLESS = (
    "Prefill batch, #new-seq: 1, #new-token: 30, #cached-token: 0, full token usage: 0.00",
    "max_total_num_tokens=65536, chunked_prefill_size=4096",
    "--tokenizer-path /models/gemma --max-total-tokens 700 --ssl-keyfile /etc/key.pem",
    "KeyError: 'layers.0.mlp'",
    "the API key is missing",
    "/usr/lib/python3/site-packages/sglang/srt/utils/auth.py:12",
)


@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_a_secret_passes(form):
    assert SECRET not in redact(form.format(SECRET), {})


@given(secret=st.text("abcXYZ019-._~+/", min_size=6, max_size=60), form=st.sampled_from(FORMS[:7]))
def test_secrets_of_any_characters_are_removed_from_flags_and_fields(secret, form):
    assert secret not in redact(form.format(secret), {})


@pytest.mark.parametrize("line", HARMLESS)
def test_what_explains_a_fault_stays(line):
    assert redact(line, {}) == line


@pytest.mark.parametrize("name", ["X_API_KEY", "HF_TOKEN", "MY_SECRET", "DB_PASSWORD", "NPM_AUTH"])
def test_the_value_of_a_secret_variable_is_removed_wherever_it_stands(tmp_path: Path, name):
    log, out = tmp_path / "server.log", tmp_path / "bundle.json"
    log.write_text(f"loaded with {SECRET} from disk\n")
    env = {name: SECRET, f"SGLANG_{name}": SECRET, "SGLANG_URL": f"http://a:{SECRET}@b/"}
    bundle.write(out, {"model": f"/models/{SECRET}", "why": [SECRET]}, log, env)
    assert SECRET not in out.read_text()


def test_the_bundle_has_report_settings_and_the_end_of_the_log(tmp_path: Path):
    log, out = tmp_path / "server.log", tmp_path / "bundle.json"
    log.write_bytes(b"\xff" + b"".join(b"line %d\n" % number for number in range(500)))
    env = {"SGLANG_PLATFORM": "gemma4_cpu", "HOME": "/root", "HF_TOKEN": "hf_abcdefghijkl"}
    bundle.write(out, {"starts": True, "patches": [{"name": "text_only"}]}, log, env)
    content = json.loads(out.read_text())
    assert content["doctor"] == {"starts": True, "patches": [{"name": "text_only"}]}
    assert content["environment"] == {"HF_TOKEN": "<redacted>", "SGLANG_PLATFORM": "gemma4_cpu"}
    assert content["log"] == [f"line {number}" for number in range(300, 500)]

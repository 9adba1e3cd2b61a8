# SPDX-License-Identifier: Apache-2.0
"""Check that a checkpoint's own code does not run, and that no key or token is printed."""

from __future__ import annotations

import json
import shutil

import pytest
import requests
import transformers

from tests.serving.harness import run_to_end, serve

pytestmark = pytest.mark.server

KEY, ADMIN, TOKEN = "sk-of-the-user-5309", "sk-of-the-admin-5310", "hf_of_the_user_5311"
READY = "Ready: "
CODE = """
from pathlib import Path
Path({marker!r}).write_text("ran")
from transformers import PretrainedConfig, PreTrainedTokenizerFast
class Evil(PretrainedConfig):
    model_type = "evil"
class EvilTokenizer(PreTrainedTokenizerFast):
    pass
"""
REFERENCES = {
    "AutoConfig": "evil.Evil",
    "AutoModel": "evil.Evil",
    "AutoModelForCausalLM": "evil.Evil",
    "AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"],
}

# What docs/operations.md says of a request without the key.
OPEN = {"/health": 200}
CLOSED = dict.fromkeys(("/metrics", "/docs", "/openapi.json", "/", "/ping", "/server_info"), 401)


@pytest.mark.slow
def test_a_checkpoints_code_does_not_run_and_no_secret_is_printed(checkpoint, tmp_path):
    """Use one server for both; its checkpoint names code in every place that transformers reads."""
    marker = tmp_path / "marker"
    path = shutil.copytree(checkpoint("dense"), tmp_path / "checkpoint")
    (path / "evil.py").write_text(CODE.format(marker=str(marker)))
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((path / name).read_text())
        (path / name).write_text(json.dumps({**content, "auto_map": REFERENCES}))
    flags = ("--model-path", str(path), "--api-key", KEY, "--admin-api-key", ADMIN)
    flags += ("--enable-metrics",)
    env = {"HF_TOKEN": TOKEN, "TMPDIR": str(tmp_path), "HF_HOME": str(tmp_path / "hf")}
    with serve(*flags, log_dir=tmp_path / "logs", env=env, ready=READY) as server:
        body = {"text": "x", "sampling_params": {"max_new_tokens": 2}}
        refused = requests.post(f"{server.url}/generate", json=body, timeout=180)
        assert refused.status_code == 401
        key = {"Authorization": f"Bearer {KEY}"}
        asked = {path: requests.get(f"{server.url}{path}", timeout=180) for path in OPEN | CLOSED}
        assert {path: answer.status_code for path, answer in asked.items()} == OPEN | CLOSED
        metrics = requests.get(f"{server.url}/metrics", headers=key, timeout=180)
        assert metrics.status_code == 200 and "sglang:" in metrics.text
        answer = requests.post(f"{server.url}/generate", json=body, headers=key, timeout=180)
        assert answer.status_code == 200
        log = server.log
    assert "--api-key <redacted> --admin-api-key <redacted>" in log
    assert not [secret for secret in (KEY, ADMIN, TOKEN) if secret in log]
    assert not marker.exists()
    # Any loader that trusted the code would have run it.
    transformers.AutoConfig.from_pretrained(path, trust_remote_code=True)
    assert marker.read_text() == "ran"


def test_the_doctor_prints_and_bundles_no_token(tmp_path):
    log, out = tmp_path / "server.log", tmp_path / "bundle.json"
    log.write_text(f"starting with --api-key {KEY}\nHF_TOKEN={TOKEN}\nthe last line\n")
    flags = ("--all", "--bundle", str(out), "--log", str(log))
    done = run_to_end(*flags, module=("-m", "sglang_gemma4_ext.doctor"), env={"HF_TOKEN": TOKEN})
    assert "exact_sliding_window" in done.stdout
    written = json.loads(out.read_text())
    assert written["log"][-1] == "the last line" and written["doctor"]["starts"]
    for text in (done.stdout, out.read_text()):
        assert TOKEN not in text and KEY not in text

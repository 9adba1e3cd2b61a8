# SPDX-License-Identifier: Apache-2.0
"""Ask for a hub name once, over real HTTP; each fault gets one sentence."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.serving.harness import environment, free_port

CODE = (
    "import sys; from sglang_gemma4_ext.checkpoint.preflight import check_checkpoint\n"
    "try: check_checkpoint(sys.argv[1], revision=sys.argv[2] or None)\n"
    "except ValueError as error: print(error)\n"
    "else: print('found')\n"
    "assert not {'torch', 'transformers', 'sglang'} & set(sys.modules)\n"
)


class Hub(http.server.BaseHTTPRequestHandler):
    """Answer as the hub does, by the name of the repository."""

    ANSWERS = (
        ("/google/gemma/", 200, {"X-Repo-Commit": "0" * 40, "ETag": '"e"'}),
        ("/google/gated/", 403, {"X-Error-Code": "GatedRepo"}),
        ("/google/gone/", 404, {"X-Error-Code": "RepoNotFound"}),
        ("/google/revised/", 404, {"X-Error-Code": "RevisionNotFound"}),
        ("/google/bare/", 404, {"X-Error-Code": "EntryNotFound"}),
        ("/google/broken/", 500, {}),
    )

    def do_HEAD(self) -> None:
        status, headers = next((s, h) for path, s, h in self.ANSWERS if path in self.path)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "2")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def check(name: str, tmp_path, revision: str = "", **env: str) -> str:
    """Return the preflight's message for a hub name, in a process with an empty cache."""
    given = environment(**{"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path), **env})
    command = [sys.executable, "-c", CODE, name, revision]
    done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("google/gemma", "found"),
        ("google/gated", "--model-path google/gated is gated: accept its terms on the hub and set"),
        ("google/gone", "--model-path google/gone is not on the hub, or private: check the name"),
        ("google/revised", "--model-path google/revised has no revision v9 on the hub"),
        ("google/bare", "and the hub answers 404 for its config.json"),
        ("google/broken", "and the hub answers 500 for its config.json"),
    ],
)
def test_what_the_hub_answers(hub, tmp_path, name, sentence):
    said = check(name, tmp_path, revision="v9", HF_ENDPOINT=hub)
    assert sentence in said and "\n" not in said


def test_no_network(tmp_path):
    said = check("google/gemma", tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{free_port()}")
    assert said.startswith(
        "--model-path google/gemma is neither a local folder nor in the Hugging Face cache, and "
        "the hub cannot be reached ("
    )
    assert "\n" not in said


def test_offline_the_cache_decides(tmp_path):
    said = check("google/gemma", tmp_path, HF_HUB_OFFLINE="1")
    assert said.endswith("and HF_HUB_OFFLINE is set: unset it or give a folder")
    commit = "0" * 40
    repository = tmp_path / "hub" / "models--google--gemma"
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert check("google/gemma", tmp_path, HF_HUB_OFFLINE="1") == "found"


def test_another_hub_is_left_to_sglang(tmp_path):
    assert check("google/gemma", tmp_path, HF_HUB_OFFLINE="1", SGLANG_USE_MODELSCOPE="1") == "found"

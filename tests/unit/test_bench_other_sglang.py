# SPDX-License-Identifier: Apache-2.0
"""Check what is recorded of a start on another SGLang, from a stand-in process's log."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench.conditions import RESULTS
from bench.other_sglang import serve

LOG = """\
[2026-11-21 16:00:00] Applied 1 hook(s) to sglang.srt.a.B.c (from: plugin=gemma4_ext, dist=x)
[2026-11-21 16:00:00] Applied 1 hook(s) to sglang.srt.d (from: plugin=somebody, dist=y)
sglang-gemma4-ext 0.1.0: starting SGLang
sglang-gemma4-ext: a server does not start half-patched. On SGLang 0.5.22 these patches do not hold:
  text_only: sglang.srt.x is gone
"""


def test_a_refused_start_is_recorded():
    found = serve(Path(sys.executable), "-c", f"print({LOG!r}); raise SystemExit(1)")
    assert found["status"] == 1 and not found["ready"]
    assert found["hooked"] == ["sglang.srt.a.B.c"]
    assert found["said"][0].endswith("these patches do not hold:")
    assert found["said"][1] == "  text_only: sglang.srt.x is gone"


def test_a_server_that_starts_is_stopped():
    code = "print('The server is fired up', flush=True); import time; time.sleep(600)"
    found = serve(Path(sys.executable), "-c", code)
    assert found["ready"] and found["status"] is None and found["said"] == []


def test_the_committed_run_refused_to_start_half_patched():
    """Read the committed bench/results/other_sglang_0.5.22.json."""
    record = json.loads((RESULTS / "other_sglang_0.5.22.json").read_text())
    broken = [name for name, state in record["states"].items() if state == "broken"]
    assert record["doctor_status"] == 1 and len(broken) > 5
    for start in (record["launcher"], record["sglang"]):
        assert not start["ready"] and start["status"] != 0
        said = "\n".join(start["said"])
        for name in broken:
            assert (f"{name}: sglang." in said) is (name in record["required"])
    changed = {line.partition(":")[0] for line in record["digests"]}
    assert changed == {name for name, sentences in record["changed"].items() if sentences}

# SPDX-License-Identifier: Apache-2.0
"""Keep evicted KV in host memory (SGLang's hierarchical cache), sliding windows included.

Prompts that no longer fit into the pools come back from host memory, and must answer as at first.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.probes import host_cache_on_cpu
from tests.serving.harness import STOCK, serve
from tests.serving.parity import Reference, prompt_ids

pytestmark = [pytest.mark.server, pytest.mark.slow]

POOL = 512


@pytest.mark.parametrize("kind", ["dense", "e2b"])
def test_evicted_prompts_answer_from_host_memory(kind, checkpoint, tmp_path: Path) -> None:
    path = checkpoint(kind)
    flags = ("--model-path", str(path), "--dtype", "float32", *host_cache_on_cpu.FLAGS)
    env = host_cache_on_cpu.installed(tmp_path / "plugin") | {"SGLANG_PLATFORM": "gemma4_cpu"}
    # Our launcher refuses the flag on a CPU.
    command = (sys.executable, *STOCK)
    reference = Reference(path)
    with serve(
        *flags, "--max-total-tokens", str(POOL), log_dir=tmp_path, env=env, executable=command
    ) as server:
        first = prompt_ids(200, seed=1)
        server.generate(first, 2, logprobs_from=-1)
        for seed in range(2, 6):  # more than the pool holds
            server.generate(prompt_ids(200, seed=seed), 2, logprobs_from=-1)
        again = [*first, *prompt_ids(9, seed=9)]
        answer = server.generate(again, 16, logprobs_from=-1)
        reference.compare(again, answer).require_fp32()
        assert answer["meta_info"]["cached_tokens_details"]["host"] >= 100

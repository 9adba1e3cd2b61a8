# SPDX-License-Identifier: Apache-2.0
"""Print, as JSON, which Triton kernels ran before SGLang sized its pools, and which after.

python -m tests.probes.kernels_of_a_real_runner CHECKPOINT [PATCH_LEFT_OUT]

The runner then prefills one request and decodes one token. Run in a process of its own: SGLang
publishes one configuration per process.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main(path: str, disable: str = "") -> None:
    from sglang_gemma4_ext.settings import Settings

    left_out = frozenset(filter(None, [disable]))
    Settings(cpu=True, weights="fused", cpu_attention="triton", disable=left_out).export()
    from sglang.srt.plugins import load_plugins

    load_plugins()
    from sglang.benchmark import one_batch
    from sglang.srt.mem_cache.kv_cache_configurator import KVCacheConfigurator
    from sglang.srt.runtime_context import SpawnRanks, publish
    from sglang.srt.server_args import PortArgs, prepare_server_args

    ran: dict[str, set[str]] = {"before": set(), "after": set()}
    now = ["before"]
    _watch(lambda name: ran[now[0]].add(name))
    configure = KVCacheConfigurator.configure

    def sized(self: Any, **kwargs: Any) -> Any:
        now[0] = "after"
        return configure(self, **kwargs)

    KVCacheConfigurator.configure = sized
    flags = ["--model-path", path, "--device", "cpu", "--attention-backend", "triton",
             "--max-total-tokens", "256", "--triton-attention-num-kv-splits", "2"]  # fmt: skip
    args = prepare_server_args([*flags, "--dtype", "float32", "--swa-full-tokens-ratio", "0.8"])
    args.resolve_once()
    publish(args, role="scheduler", ranks=SpawnRanks(world_rank=0, gpu_id=0))
    one_batch._init_process_global_configs()
    runner = one_batch.load_model(args, PortArgs.init_new(args), 0, 0)[0]
    from bench.activation_peaks import request

    ids, _, batch = runner.extend([request(20)])
    runner.decode(ids, batch)
    print(json.dumps({when: sorted(names) for when, names in ran.items()}))


def _watch(note: Any) -> None:
    """Call `note` at every launch in Triton's interpreter."""
    from triton.runtime.interpreter import InterpretedFunction

    run = InterpretedFunction.run

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        note(self.fn.__name__)
        return run(self, *args, **kwargs)

    InterpretedFunction.run = noted


if __name__ == "__main__":
    main(*sys.argv[1:])

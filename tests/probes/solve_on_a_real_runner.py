# SPDX-License-Identifier: Apache-2.0
"""Print, as JSON, how SGLang's own runner splits a budget under the swa_policy patch.

python -m tests.probes.solve_on_a_real_runner CHECKPOINT BUDGET_BYTES [--draft DIR]
                                              [--without PATCH] [--policy POLICY]

Run in a process of its own: SGLang publishes one configuration per process.
"""

from __future__ import annotations

import argparse
import json
import sys


def main(argv: list[str]) -> None:
    from sglang_gemma4_ext.settings import Settings

    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("budget", type=int)
    parser.add_argument("--draft")
    parser.add_argument("--without", action="append", default=[])
    parser.add_argument("--policy", default="auto")
    asked = parser.parse_args(argv)
    settings = Settings(cpu=True, swa_policy=asked.policy, disable=frozenset(asked.without))
    settings.export(speculative=asked.draft is not None)
    from sglang.srt.plugins import load_plugins

    load_plugins()
    from sglang.benchmark import one_batch
    from sglang.srt.runtime_context import SpawnRanks, get_context, get_schedule, get_spec, publish
    from sglang.srt.server_args import PortArgs, prepare_server_args

    flags = ["--model-path", asked.path, "--device", "cpu", "--dtype", "float32"]
    with_draft = ["--speculative-draft-model-path", asked.draft] if asked.draft else []
    args = prepare_server_args([*flags, *with_draft])
    args.resolve_once()
    publish(args, role="scheduler", ranks=SpawnRanks(world_rank=0, gpu_id=0))
    one_batch._init_process_global_configs()
    runner = one_batch.load_model(args, PortArgs.init_new(args), 0, 0)[0].torch_runner
    # The CPU reference sizes its pools by tokens; a GPU's are sized by bytes.
    get_context().override("test", max_total_tokens=None)
    config = runner.kv_cache_configurator.config_from_budget(asked.budget)
    print(
        json.dumps(
            {
                "full": config.full_max_total_num_tokens,
                "swa": config.swa_max_total_num_tokens,
                "ratio": get_schedule().swa_full_tokens_ratio,
                "context": runner.model_config.context_len,
                "chunk": get_schedule().chunked_prefill_size,
                "draft_tokens": get_spec().speculative_num_draft_tokens or 1,
                "requests": get_schedule().max_running_requests,
                "overlap": not get_schedule().disable_overlap_schedule,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])

# SPDX-License-Identifier: Apache-2.0
"""Save what the two embeddings of a model give that SGLang's own runner loaded in BF16.

python -m tests.probes.embeddings_of_a_real_runner CHECKPOINT OUT [PATCH_LEFT_OUT]

Run in a process of its own: SGLang publishes one configuration per process.
"""

from __future__ import annotations

import os
import sys

import torch

TOKENS = 100


def main(path: str, out: str, disable: str = "") -> None:
    from sglang_gemma4_ext.settings import Settings

    Settings(cpu=True, disable=frozenset(filter(None, [disable]))).export()
    from sglang.srt.plugins import load_plugins

    load_plugins()
    from sglang.benchmark import one_batch
    from sglang.srt.runtime_context import SpawnRanks, publish
    from sglang.srt.server_args import PortArgs, prepare_server_args

    flags = ["--model-path", path, "--device", "cpu", "--max-total-tokens", "256"]
    args = prepare_server_args([*flags, "--dtype", "bfloat16"])
    args.resolve_once()
    publish(args, role="scheduler", ranks=SpawnRanks(world_rank=0, gpu_id=0))
    one_batch._init_process_global_configs()
    runner = one_batch.load_model(args, PortArgs.init_new(args), 0, 0)[0]
    model = runner.torch_runner.model.language_model
    ids = torch.arange(TOKENS)
    with torch.inference_mode():
        torch.save((model.embed_tokens(ids), model.embed_tokens_per_layer(ids)), out)
    os._exit(0)  # SGLang's process groups are not torn down


if __name__ == "__main__":
    main(*sys.argv[1:])

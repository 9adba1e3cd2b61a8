# SPDX-License-Identifier: Apache-2.0
"""Print, as JSON, what SGLang's own runner computes with a model split over ranks.

python -m tests.probes.ranks_of_a_real_runner CHECKPOINT RANKS LENGTH NEW_TOKENS

Each rank is a process with its part of the weights, loaded by SGLang's loaders under our patches;
the ranks are joined by gloo. Each reports the greedy tokens after prompt_ids(LENGTH), their
log-probabilities, and how many weights it holds. SGLang is imported once, before the ranks fork.

On the CPU alone, SGLang pads attention heads that the ranks do not divide. Gemma 4's configuration
refuses this (AmbiguousGlobalPerLayerAttributeError). The padding is left out here, so that KV heads
are replicated over ranks as on a GPU.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from array import array
from typing import Any

from tests.serving.parity import prompt_ids


def main(path: str, ranks: str, length: str, new: str) -> None:
    from sglang_gemma4_ext.settings import Settings

    Settings(cpu=True).export(ranks=int(ranks))
    from sglang.srt.plugins import load_plugins

    load_plugins()
    from sglang.srt.server_args import PortArgs, prepare_server_args

    flags = ("--model-path", path, "--device", "cpu", "--dtype", "float32", "--tp-size", ranks)
    args = prepare_server_args([*flags, "--max-total-tokens", "512"])
    args.resolve_once()
    ports = PortArgs.init_new(args)
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    processes = []
    for rank in range(int(ranks)):
        work = (rank, args, ports, prompt_ids(int(length)), int(new), answers)
        processes.append(fork.Process(target=_run, args=work, daemon=True))
        processes[-1].start()
    found: dict[int, Any] = {}
    while len(found) < len(processes):
        if not answers.empty():
            found |= [answers.get()]
        elif any(process.exitcode for process in processes):
            raise SystemExit("a rank failed")
        time.sleep(0.05)
    print(json.dumps([found[rank] for rank in range(len(processes))]), flush=True)
    os._exit(0)  # SGLang's process groups are not torn down


def _run(rank: int, args: Any, ports: Any, prompt: list[int], new: int, answers: Any) -> None:
    from sglang.benchmark import one_batch
    from sglang.srt.runtime_context import SpawnRanks, publish

    publish(args, role="scheduler", ranks=SpawnRanks(world_rank=rank, gpu_id=rank))
    one_batch._init_process_global_configs()
    runner = one_batch.load_model(args, ports, rank, rank)[0]
    ids, logits, batch = runner.extend([_request(prompt)])
    tokens, log_probs = [], []
    for _ in range(new):
        tokens.append(int(ids))
        log_probs.append(float(logits.float().log_softmax(-1)[0, ids]))
        ids, logits = runner.decode(ids, batch)
    model = runner.torch_runner.model
    weights = sum(tensor.numel() for tensor in model.parameters())  # a tied head counts once
    answers.put((rank, {"tokens": tokens, "log_probs": log_probs, "weights": weights}))


def _request(prompt: list[int]) -> Any:
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.sampling.sampling_params import SamplingParams

    sampling = SamplingParams(temperature=0, max_new_tokens=1)
    req = Req("a", "", array("q", prompt), sampling)
    req.full_untruncated_fill_ids = req.origin_input_ids
    req.logprob_start_len, req.extend_end = -1, len(prompt)
    return req


if __name__ == "__main__":
    main(*sys.argv[1:])

# SPDX-License-Identifier: Apache-2.0
"""Measure the peak memory of a forward step of SGLang's Gemma 4 beside the planner's estimate.

    python -m bench.activation_peaks --model 31B --tokens 64 256 1024 [--json FILE]

The model has its real widths and vocabulary, dummy weights and two layers, a sliding and a full
one. On a CPU PyTorch's profiler traces every allocation. On a GPU the peak is
torch.cuda.max_memory_allocated. Memory that is allocated before the step does not count.

On a CPU two kernels are left out, because PyTorch's substitutes allocate what a GPU never does:
attention (a score matrix) and the experts' matrix products. SGLang's own Triton sequence still runs
around the products and allocates its buffers. Norms, activations and rotations run in PyTorch, with
copies that a GPU's fused kernels do not make. Therefore a CPU's peaks are higher.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import os
import shlex
import sys
import tempfile
import unittest.mock
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.checkpoints.shapes import write_config
from bench.checkpoints.tokenizer import tokenizer
from bench.conditions import conditions, without_folders
from bench.rows import as_line
from sglang_gemma4_ext.plan.activations import Step, hidden_bytes, layers_bytes, logits_bytes
from sglang_gemma4_ext.plan.geometry import BUILT_IN, FULL, SLIDING, Geometry

MIB = 1 << 20
LOGIT_ROWS = 64


def two_layers(geometry: Geometry) -> Geometry:
    """Return the same widths on a sliding and a full layer that own their KV.

    Their per-layer embeddings together are as wide as those of all layers; the MLP is the widest.
    """
    return replace(
        geometry,
        layer_types=(SLIDING, FULL),
        intermediate=geometry.widest_intermediate,
        kv_shared=0,
        double_wide_mlp=False,
        ple=geometry.ple * geometry.layers // 2,
        max_context=8192,
    )


def load(geometry: Geometry, folder: Path, tokens: int) -> Any:
    """Load SGLang's ModelRunner of that shape on this machine, in this process."""
    from sglang_gemma4_ext.machine import detect_gpu
    from sglang_gemma4_ext.settings import Settings

    cpu = detect_gpu().vendor == "none"
    Settings(cpu=cpu, swa_policy="upstream").export()
    from sglang.srt.plugins import load_plugins

    load_plugins()
    from sglang.benchmark import one_batch
    from sglang.srt.runtime_context import SpawnRanks, publish
    from sglang.srt.server_args import PortArgs, prepare_server_args

    write_config(geometry, folder)
    tokenizer().save_pretrained(folder)
    flags = ["--model-path", str(folder), "--load-format", "dummy", "--dtype", "bfloat16",
             "--max-total-tokens", str(4 * tokens), "--chunked-prefill-size", str(tokens),
             "--max-running-requests", "64", "--cuda-graph-backend-prefill", "disabled",
             "--cuda-graph-backend-decode", "disabled"]  # fmt: skip
    args = prepare_server_args([*flags, "--device", "cpu"] if cpu else flags)
    args.resolve_once()
    publish(args, role="scheduler", ranks=SpawnRanks(world_rank=0, gpu_id=0))
    one_batch._init_process_global_configs()
    return one_batch.load_model(args, PortArgs.init_new(args), 0, 0)[0]


def request(tokens: int, name: int = 0) -> Any:
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.sampling.sampling_params import SamplingParams

    ids = array("q", [100 + i % 300 for i in range(tokens)])
    req = Req(name, "", ids, SamplingParams(temperature=0, max_new_tokens=1))
    req.full_untruncated_fill_ids = req.origin_input_ids
    req.logprob_start_len, req.extend_end = -1, tokens
    return req


@contextlib.contextmanager
def without_kernels() -> Iterator[None]:
    """Let attention and experts allocate as on a GPU, and compute nothing, within the block."""
    from sglang.srt.layers.moe.fused_moe_triton.layer import FusedMoE
    from sglang.srt.layers.moe.moe_runner.triton_utils import fused_moe
    from sglang.srt.layers.radix_attention import RadixAttention

    def attention(self: Any, q: Any, *args: Any, **kwargs: Any) -> Any:
        return q.new_zeros(q.shape[0], self.tp_q_head_num * self.v_head_dim)

    def experts(self: Any, hidden_states: Any, topk_output: Any) -> Any:
        names = inspect.signature(fused_moe._fused_moe_kernel_sequence).parameters
        given = dict.fromkeys(names) | {
            "hidden_states": hidden_states, "w1": self.w13_weight, "w2": self.w2_weight,
            "topk_weights": topk_output.topk_weights, "topk_ids": topk_output.topk_ids,
            "config": {"BLOCK_SIZE_M": 64}, "activation": "gelu_tanh", "is_gated": True,
        }  # fmt: skip
        return fused_moe._fused_moe_kernel_sequence(**given)

    with contextlib.ExitStack() as stack:
        for owner, name, stub in (
            (RadixAttention, "forward", attention),
            (FusedMoE, "forward", experts),
            (fused_moe, "invoke_fused_moe_kernel", lambda *args, **kwargs: None),
            (fused_moe, "moe_sum_reduce_triton", lambda *args, **kwargs: None),
            (fused_moe, "_activation_row_filter", lambda **kwargs: {}),
        ):
            stack.enter_context(unittest.mock.patch.object(owner, name, stub))
        yield


def traced_peak(step: Callable[[], Any]) -> int:
    """Return `allocated_peak` of a forward step without the kernels that differ on a GPU."""
    with without_kernels():
        return allocated_peak(step)


def allocated_peak(step: Callable[[], Any]) -> int:
    """Return the most bytes by which a step's allocations on a CPU exceed their initial level."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as p:
        step()
    events = [e for e in p.profiler.kineto_results.events() if e.name() == "[memory]"]
    level = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        if event.device_type() == torch.autograd.DeviceType.CPU:
            level += event.nbytes()
            peak = max(peak, level)
    return peak


def cuda_peak(step: Callable[[], Any]) -> int:
    import torch

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def measure(geometry: Geometry, counts: list[int]) -> list[dict[str, Any]]:
    """Measure one row per token count: bytes measured and estimated, with and without SAFETY."""
    import torch

    shape = two_layers(geometry)
    peak = cuda_peak if torch.cuda.is_available() else traced_peak
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        runner = load(shape, Path(folder), max(8 * LOGIT_ROWS, *counts))
        # One request of many tokens shows the widest layer; many requests of 8 tokens show
        # the logits.
        for requests, tokens in [*((1, count) for count in counts), (LOGIT_ROWS, 8)]:
            runner.extend([request(8)])
            runner.clear()
            batch = [request(tokens, name) for name in range(requests)]
            measured = peak(lambda batch=batch: runner.extend(batch))
            runner.clear()
            total, step = requests * tokens, Step(requests * tokens, requests)
            formula = max(
                layers_bytes(shape, total, step),
                hidden_bytes(shape, total, step) + logits_bytes(shape, requests, step),
            )
            rows.append({"model": geometry.name, "tokens": total, "requests": requests,
                         "measured": measured, "formula": formula})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=BUILT_IN, required=True)
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--json", type=Path, help="append the rows to this file")
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    rows = measure(BUILT_IN[args.model], args.tokens)
    for row in rows:
        print(
            f"{row['model']:8} {row['tokens']:5} tokens of {row['requests']:2} requests"
            f"  measured {row['measured'] / MIB:7.1f} MiB  formula {row['formula'] / MIB:7.1f} MiB"
            f"  ratio {row['formula'] / row['measured']:.2f}"
        )
    if args.json:
        from sglang_gemma4_ext.machine import detect_gpu

        where = conditions(shlex.join(["python", "-m", "bench.activation_peaks", *sys.argv[1:]]))
        where["device"] = detect_gpu().name or "cpu, traced"
        with args.json.open("a") as file:
            for row in rows:
                del row["formula"]
                file.write(as_line(without_folders(row | where)) + "\n")


if __name__ == "__main__":
    main()

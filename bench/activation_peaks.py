# SPDX-License-Identifier: Apache-2.0
"""Peak memory of one forward step of SGLang's real Gemma 4, beside the planner's estimate.

    python -m bench.activation_peaks --model 31B --tokens 64 256 1024 [--json FILE]

The model has its real widths and vocabulary, dummy weights and two layers, a sliding and a full
one. On a CPU every allocation of PyTorch is traced by its profiler; on a GPU the peak is
torch.cuda.max_memory_allocated. Either way what is there before the step does not count.

On a CPU the attention kernel itself is left out: PyTorch's holds a score matrix, the Triton kernels
of a GPU hold none. Norms and rotations run in PyTorch there, with fp32 copies that the fused
kernels of a GPU do not make: a CPU's peaks are the higher ones.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from sglang_gemma4_ext.plan.activations import Step, hidden_bytes, layers_bytes, logits_bytes
from sglang_gemma4_ext.plan.geometry import BUILT_IN, FULL, SLIDING, Geometry
from tests.checkpoints.shapes import write_config
from tests.checkpoints.tokenizer import tokenizer

MIB = 1 << 20


def two_layers(geometry: Geometry) -> Geometry:
    """The same widths on a sliding and a full layer that own their KV.

    Their per-layer embeddings are together as wide as those of all layers; the MLP is the widest.
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
    """SGLang's ModelRunner of that shape on this machine, in this process."""
    from sglang_gemma4_ext.context import detect_gpu
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


def request(tokens: int) -> Any:
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.sampling.sampling_params import SamplingParams

    ids = array("q", [100 + i % 300 for i in range(tokens)])
    req = Req(0, "", ids, SamplingParams(temperature=0, max_new_tokens=1))
    req.full_untruncated_fill_ids = req.origin_input_ids
    req.logprob_start_len, req.extend_end = -1, tokens
    return req


@contextlib.contextmanager
def without_attention() -> Iterator[None]:
    """Within the block, attention returns an output of the right shape and computes nothing."""
    from sglang.srt.layers.radix_attention import RadixAttention

    original = RadixAttention.forward

    def forward(self: Any, q: Any, *args: Any, **kwargs: Any) -> Any:
        return q.new_zeros(q.shape[0], self.tp_q_head_num * self.v_head_dim)

    RadixAttention.forward = forward
    try:
        yield
    finally:
        RadixAttention.forward = original


def traced_peak(step: Callable[[], Any]) -> int:
    """Bytes by which a step's allocations on a CPU exceed their level at its start, at most."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with without_attention(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as p:
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
    """One row per token count: bytes measured and estimated, the estimate without SAFETY too."""
    import torch

    shape = two_layers(geometry)
    peak = cuda_peak if torch.cuda.is_available() else traced_peak
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        runner = load(shape, Path(folder), max(counts))
        for tokens in counts:
            runner.extend([request(8)])
            runner.clear()
            measured = peak(lambda tokens=tokens: runner.extend([request(tokens)]))
            runner.clear()
            step = Step(tokens, 1)
            raw = max(
                layers_bytes(shape, tokens, step),
                hidden_bytes(shape, tokens, step) + logits_bytes(shape, 1, step),
            )
            rows.append(
                {"model": geometry.name, "tokens": tokens, "measured": measured, "formula": raw}
            )
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
            f"{row['model']:8} {row['tokens']:6} tokens  measured {row['measured'] / MIB:9.1f} MiB"
            f"  formula {row['formula'] / MIB:9.1f} MiB"
            f"  ratio {row['formula'] / row['measured']:.2f}"
        )
    if args.json:
        with args.json.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()

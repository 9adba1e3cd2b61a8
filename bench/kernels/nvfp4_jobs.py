# SPDX-License-Identifier: Apache-2.0
"""List the NVFP4 kernels as `cross_compile` jobs, in every configuration of a dispatch table."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch

from bench.kernels.cross_compile import Job
from bench.kernels.nvfp4_table import TOKENS
from bench.kernels.shapes import EXPERT_SHARDS, GATED_SHARDS, LINEAR_SHARDS, TOP_K
from sglang_gemma4_ext.kernels import (
    _slot_sum,
    nvfp4_dequant,
    nvfp4_experts,
    nvfp4_grouped,
    nvfp4_linear,
)
from sglang_gemma4_ext.kernels._nvfp4_tile import launch_arguments
from sglang_gemma4_ext.kernels.nvfp4_dispatch import FOLDER, Config, Table, read

MODULES = (nvfp4_linear, nvfp4_experts, nvfp4_grouped, nvfp4_dequant, _slot_sum)
DTYPES = ("bf16", "fp16")
# Multiprocessors with which "fill" never splits K, and with which it does where K has two tiles.
FEW, MANY = 1, 1 << 20
# "half": the activations' type. Arguments that are not here are i32.
TYPES = {
    **dict.fromkeys(("x_ptr", "h_ptr", "y_ptr", "out_ptr"), "half"),
    **dict.fromkeys(("packed_ptr", "block_scale_ptr", "scale_ptr"), "*u8"),
    **dict.fromkeys(("row_scale_ptr", "tensor_scale_ptr", "parts_ptr"), "*fp32"),
    **dict.fromkeys(("topk_weights_ptr", "weights_ptr"), "*fp32"),
    **dict.fromkeys(("topk_ids_ptr", "slots_ptr", "experts_ptr", "padded_ptr"), "*i32"),
    "arrivals_ptr": "*i32",
}


def variants(sm: int) -> dict[str, tuple[Job, set[int]]]:
    """List what a capability's table dispatches for Gemma 4, each once, with every K it is for.

    A kernel that reads no weight, or takes any K, has none.
    """
    table = read(FOLDER / f"sm_{sm}.json")
    found: dict[str, tuple[Job, set[int]]] = {}
    for dtype in DTYPES:
        for k, job in (*_linears(table, sm, dtype), *_experts(table, sm, dtype)):
            found.setdefault(repr(job), (job, set()))[1].update({k} - {0})
        for e4m3 in (True, False):
            job = _dequant(sm, dtype, e4m3)
            found[repr(job)] = job, set()
    return dict(sorted(found.items()))


def _linears(table: Table, sm: int, dtype: str) -> Iterator[tuple[int, Job]]:
    kernel = "_nvfp4_linear_kernel"
    for n, k in LINEAR_SHARDS:
        for m, activation, processors in itertools.product(TOKENS, _activations(n, k), (FEW, MANY)):
            config = table.choose("linear", m, n, k, processors)
            bias = {"HAS_BIAS": False, "bias_ptr": None}
            gated = {"columns": n // 2 if activation else n, "ACTIVATION": activation, **bias}
            split = config.splits > 1
            absent = {} if split else {"parts_ptr": None, "arrivals_ptr": None}
            yield k, _job(kernel, sm, dtype, config, k, SPLIT=split, **gated, **absent)


def _activations(n: int, k: int) -> tuple[str | None, ...]:
    return (None, "gelu_tanh") if (n, k) in GATED_SHARDS else (None,)


def _experts(table: Table, sm: int, dtype: str) -> Iterator[tuple[int, Job]]:
    for (n13, k13), (n2, k2) in EXPERT_SHARDS:
        up, down = table.choose("experts_up", 1, n13, k13), table.choose("experts_down", 1, n2, k2)
        columns = n13 // 2
        act = {"columns": columns, "ACTIVATION": "gelu_tanh"}
        yield k13, _job("_experts_up_kernel", sm, dtype, up, k13, **act)
        yield k2, _job("_experts_down_kernel", sm, dtype, down, k2, columns=n2, TOP_K=TOP_K)
        for m in TOKENS:
            config = table.choose("grouped", m, n13, k13)
            yield k13, _job("_grouped_kernel", sm, dtype, config, k13, **act, SLOTS_A_ROW=TOP_K)
            plain = {"columns": n2, "ACTIVATION": None, "SLOTS_A_ROW": 1}
            yield k2, _job("_grouped_kernel", sm, dtype, config, k2, **plain)
        each = {"COLUMNS": _slot_sum.SUM_COLUMNS, "TOP_K": TOP_K}
        for fp32 in ((), ("y_ptr",)):
            aligned = ("N",) if n2 % 16 == 0 else ()
            yield (
                0,
                _with_types("_sum_slots_kernel", sm, dtype, each, aligned, Config(1, 1, 1), fp32),
            )


def _job(
    kernel: str,
    sm: int,
    dtype: str,
    config: Config,
    k: int,
    *,
    columns: int,
    **constants: Any,
) -> Job:
    """Make a job. columns: of the output; Triton specializes on whether 16 divides them."""
    arguments = launch_arguments(config, k, torch.device("cpu"))
    constants |= {name: value for name, value in arguments.items() if name.isupper()}
    aligned = ("x_stride", "N", "columns") if columns % 16 == 0 else ("x_stride",)
    return _with_types(kernel, sm, dtype, constants, aligned, config, ())


def _dequant(sm: int, dtype: str, e4m3: bool) -> Job:
    constants = {"PER_ROW": True, "E4M3": e4m3, "BLOCKS": 64, "PLAIN": False}
    return _with_types("_dequant_kernel", sm, dtype, constants, (), Config(1, 1, 64 * 16), ())


def _with_types(
    name: str,
    sm: int,
    dtype: str,
    constants: dict[str, Any],
    aligned: tuple[str, ...],
    config: Config,
    fp32: tuple[str, ...],
) -> Job:
    module = next(module for module in MODULES if hasattr(module, name))
    types = TYPES | dict.fromkeys(fp32, "*fp32")
    types |= {} if constants.get("E4M3", True) else {"scale_ptr": "*fp32"}
    names = [arg for arg in getattr(module, name).arg_names if arg not in constants]
    signature = {arg: types.get(arg, "i32").replace("half", f"*{dtype}") for arg in names}
    return Job(
        kernel=f"{module.__name__}:{name}",
        capability=sm,
        signature=signature,
        constants=constants,
        aligned=aligned,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )

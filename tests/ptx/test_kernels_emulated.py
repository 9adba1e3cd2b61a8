# SPDX-License-Identifier: Apache-2.0
"""Run the kernel tests as compiled PTX, without a finding of the emulator.

They run in a process of their own, because Triton chooses its compiler or its interpreter when it
is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "tests/kernels"
# Every kernel at a few sizes, and every code with every scale through the inline assembly.
BRIEF = (
    "test_nvfp4_dequant.py::test_every_code_with_every_scale_is_bit_exact",
    "test_nvfp4_dequant.py::test_shapes_and_scales_per_row",
    "test_bf16_decode.py::test_every_code_with_every_scale_is_exact",
    "test_bf16_decode.py::test_both_decoders_give_the_same_weights[False]",
    "test_nvfp4_linear.py::test_every_pair_of_codes_with_every_scale_is_exact",
    *(
        f"test_nvfp4_linear.py::test_every_number_of_tokens[{tokens}-torch.{dtype}]"
        for tokens, dtype in ((1, "bfloat16"), (8, "float16"), (17, "bfloat16"), (64, "bfloat16"))
    ),
    "test_nvfp4_linear.py::test_every_in_features_of_gemma4_and_its_shards[176]",
    "test_nvfp4_linear.py::test_splits_of_k_with_bias[33-704-3]",
    "test_nvfp4_linear.py::test_splits_of_k_with_bias[2-16-1]",
    "test_nvfp4_linear.py::test_gate_and_up_with_activation[1-40-gelu_tanh-3]",
    "test_nvfp4_linear.py::test_gate_and_up_with_activation[17-7-silu-1]",
    "test_nvfp4_linear.py::test_strides_of_x",
    *(
        f"test_nvfp4_experts.py::test_random_routing[{case}-{path}]"
        for case in ("1-torch.bfloat16", "2-torch.float16")
        for path in ("decode", "grouped")
    ),
    "test_nvfp4_experts.py::test_padding_rows_and_skipped_slots",
    "test_int4_linear.py::test_every_byte_with_every_zero_is_exact",
    "test_int4_linear.py::test_every_number_of_tokens[17-torch.bfloat16]",
    "test_int4_linear.py::test_groups_within_a_tile_and_across_tiles[64-128-zeros]",
    "test_int4_linear.py::test_groups_within_a_tile_and_across_tiles[64-None-symmetric]",
    "test_int4_linear.py::test_gate_and_up_with_bias_and_activation[17-8-gelu_tanh-zeros]",
    *(
        f"test_int4_experts.py::test_random_routing[{case}-{path}]"
        for case in ("1-torch.bfloat16", "2-torch.float16")
        for path in ("decode", "grouped")
    ),
    "test_int4_experts.py::test_padding_rows_and_skipped_slots",
    "test_fp8_linear.py::test_every_code_is_exact",
    "test_fp8_linear.py::test_every_number_of_tokens[17-torch.bfloat16-blocks]",
    "test_fp8_linear.py::test_gate_and_up_with_bias_and_activation[gelu_tanh-rows]",
    *(
        f"test_fp8_experts.py::test_random_routing[{case}-{path}]"
        for case in ("1-torch.bfloat16-blocks", "3-torch.float16-rows")
        for path in ("decode", "grouped")
    ),
    "test_router.py::test_equals_torch[7-128-8-torch.bfloat16]",
    "test_router.py::test_equals_torch[2-100-6-torch.float32]",
    "test_router.py::test_nan_and_infinities",
    "test_router_one_launch.py::test_equals_float64[3-2816-128-8-torch.bfloat16]",
    "test_router_one_launch.py::test_equals_float64[2-1000-100-6-torch.float16]",
    "test_router_one_launch.py::test_equals_float64[2-1-3-1-torch.float32]",
    "test_router_one_launch.py::test_the_counters_are_reused_by_later_launches",
    *(
        f"test_sglang_gemma4_ops.py::{test}"
        for test in (
            "test_norms_of_query_key_and_value[1-(4, 2, 32)-torch.bfloat16]",
            "test_the_end_of_a_dense_layer[1-84-torch.bfloat16]",
            "test_the_end_of_a_layer_of_experts[1-84-torch.bfloat16]",
            "test_routing[5-8-2-one-launch-torch.bfloat16]",
            "test_routing[5-8-2-after-topk-torch.bfloat16]",
            "test_soft_cap[torch.bfloat16-1025]",
        )
    ),
    "test_int8_head.py::test_equals_float64[17-130-2816-torch.bfloat16]",
    "test_int8_head.py::test_every_code_is_exact",
    "test_host_rows.py::test_rows_are_copied_bit_by_bit[bf16-100]",
    "test_sglang_decode_attention.py::test_equals_float64[(32, 4, 2)-bf16-3]",
    "test_decode_attention.py::test_every_byte_of_a_value_is_exact[dtype0]",
    "test_extend_attention.py::test_masks_of_draft_trees[True-6-9]",
    "test_extend_attention.py::test_scales_and_logit_cap[new_dtype0]",
)
# Every file whose tests launch a kernel in their own process.
FILES = (
    "test_bf16_decode.py",
    "test_nvfp4_dequant.py",
    "test_nvfp4_linear.py",
    "test_nvfp4_experts.py",
    "test_nvfp4_ops.py",
    "test_int4_linear.py",
    "test_int4_experts.py",
    "test_fp8_linear.py",
    "test_fp8_experts.py",
    "test_host_rows.py",
    "test_int8_head.py",
    "test_router.py",
    "test_router_one_launch.py",
    "test_fused_router.py",
    "test_extend_tiles.py",
    "test_sglang_gemma4_ops.py",
    "test_sglang_decode_attention.py",
    "test_decode_attention.py",
    "test_extend_attention.py",
)
CASES = [(sm, file) for sm in (80, 86, 90) for file in FILES]


def _emulate(sm: int, chosen: tuple[str, ...], *options: str) -> None:
    """Run kernel tests in the emulator, and fail with their output."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("TRITON_INTERPRET", "PYTEST"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, *(f"{FOLDER}/{test}" for test in chosen), "--emulate", str(sm), *options],
        env=env | {"CUDA_VISIBLE_DEVICES": ""},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize("sm", [86, 90])
def test_each_kernel_at_a_few_sizes(sm) -> None:
    _emulate(sm, BRIEF)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("sm", "file"), CASES)
def test_every_kernel_test(sm, file) -> None:
    _emulate(sm, (file,))


@pytest.mark.slow
@pytest.mark.parametrize("order", ["reverse", "random"])
def test_thread_blocks_in_another_order(order) -> None:
    """Run them one by one from the last, and interleaved at barriers and atomics."""
    _emulate(90, BRIEF, "--block-order", order)

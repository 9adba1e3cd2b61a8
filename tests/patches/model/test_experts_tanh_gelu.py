# SPDX-License-Identifier: Apache-2.0
"""Compare SGLang's Triton kernels for BF16 experts, with our activation, with transformers."""

from __future__ import annotations

import ast
import contextlib
import copy
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

import pytest
import sglang
import torch
import transformers

from sglang_gemma4_ext.patches.model.experts_tanh_gelu import PATCH
from tests.kernels.oracle import error
from tests.patches.hooks import hook_of

EXPERTS, TOP_K, HIDDEN, INTERMEDIATE = 4, 2, 64, 48
BLOCK_M = 16
CONFIG = {"BLOCK_SIZE_M": BLOCK_M, "BLOCK_SIZE_N": 32, "BLOCK_SIZE_K": 32, "GROUP_SIZE_M": 1}
# Only summation order differs; the erf form differs by 2e-4 or more.
TOLERANCE = 2e-6
# Two values of SGLang's enumeration, as in the names of its CUDA kernels.
ERF_KIND, TANH_KIND = "ActivationKind)1", "ActivationKind)2"


@pytest.fixture(scope="module")
def experts() -> torch.nn.Module:
    from transformers.models.gemma4.modeling_gemma4 import Gemma4TextExperts

    config = transformers.Gemma4TextConfig(
        hidden_size=HIDDEN, moe_intermediate_size=INTERMEDIATE, num_experts=EXPERTS,
        top_k_experts=TOP_K, enable_moe_block=True,
    )  # fmt: skip
    module = Gemma4TextExperts(config)
    draw = torch.Generator().manual_seed(0)
    for weight in module.parameters():
        weight.data = torch.randn(weight.shape, generator=draw) * weight.shape[-1] ** -0.5
    return module


def run(sequence: Callable[..., torch.Tensor], experts, x, weights, ids) -> torch.Tensor:
    """Call `sequence`, SGLang's matmul, activation, matmul and sum, as its Triton runner does."""
    from sglang.srt.layers.moe.moe_runner.triton_utils import fused_moe
    from sglang.srt.runtime_context import get_parallel

    flags = SimpleNamespace(moe=SimpleNamespace(enable_fused_moe_sum_all_reduce=False))
    slots, blocks, padded = aligned(ids)
    absent = dict.fromkeys(("b1", "b2", "w1_scale", "w2_scale", "w1_zp", "w2_zp", "a1_scale",
                            "a2_scale", "block_shape", "routed_scaling_factor", "gemm1_alpha",
                            "gemm1_limit"))  # fmt: skip
    off = dict.fromkeys(("use_fp8_w8a8", "use_int8_w8a8", "use_int8_w8a16", "use_int4_w4a16",
                         "per_channel_quant", "no_combine", "inplace",
                         "apply_router_weight_on_input", "filter_expert"), False)  # fmt: skip
    with (
        get_parallel().override(tp_group=None),
        mock.patch.object(fused_moe, "get_exec", return_value=flags),
        in_fp32(fused_moe) if x.dtype == torch.float32 else contextlib.nullcontext(),
    ):
        return sequence(
        *(x, experts.gate_up_proj.data, experts.down_proj.data, weights, ids),
        *(slots, blocks, padded, CONFIG, CONFIG, False, False),
        **absent, **off, activation="gelu", is_gated=True,
    )  # fmt: skip


def in_fp32(fused_moe: ModuleType) -> contextlib.AbstractContextManager:
    """Store the sums of the runner's matmul in fp32 instead of FP16."""
    import triton.language as tl

    invoke = fused_moe.invoke_fused_moe_kernel

    def exact(*args, **kwargs) -> None:
        invoke(*args, **{**kwargs, "compute_type": tl.float32})

    return mock.patch.object(fused_moe, "invoke_fused_moe_kernel", exact)


def aligned(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sort slots by expert, padded to whole blocks.

    Returns the slots, the expert of each block, and the padded count.
    """
    flat = ids.flatten()
    slots, blocks = [], []
    for expert in range(EXPERTS):
        mine = (flat == expert).nonzero().flatten().tolist()
        count = -(-len(mine) // BLOCK_M)
        slots += mine + [flat.numel()] * (count * BLOCK_M - len(mine))
        blocks += [expert] * count
    return tuple(
        torch.tensor(values, dtype=torch.int32, device=ids.device)
        for values in (slots, blocks, [len(slots)])
    )


def tanh(*args, **kwargs):
    """Call SGLang's sequence as the patch does."""
    from sglang.srt.layers.moe.moe_runner.triton_utils.fused_moe import _fused_moe_kernel_sequence

    around = hook_of(PATCH, "around", "_fused_moe_kernel_sequence")
    return around(_fused_moe_kernel_sequence, *args, **kwargs)


@pytest.mark.interpreter
@pytest.mark.parametrize("tokens", [1, 7, 40])
def test_experts_equal_transformers(experts, tokens):
    from sglang.srt.layers.moe.moe_runner.triton_utils.fused_moe import _fused_moe_kernel_sequence

    draw = torch.Generator().manual_seed(tokens)
    x = torch.randn(tokens, HIDDEN, generator=draw)
    ids = torch.rand(tokens, EXPERTS, generator=draw).topk(TOP_K).indices.int()
    weights = torch.rand(tokens, TOP_K, generator=draw) + 0.1
    want = experts.double()(x.double(), ids.long(), weights.double()).detach()
    experts.float()

    assert error(run(tanh, experts, x, weights, ids), want).rms <= TOLERANCE
    stock = error(run(_fused_moe_kernel_sequence, experts, x, weights, ids), want).rms
    assert stock > 20 * TOLERANCE


@pytest.mark.gpu
def test_the_kernel_on_a_gpu_is_the_tanh_form(experts):
    """Read the kernel's name: its values cannot tell, as tanh.approx is as far off as the erf
    form.
    """
    from sglang.srt.layers.moe.moe_runner.triton_utils.fused_moe import _fused_moe_kernel_sequence

    x = torch.randn(7, HIDDEN, device="cuda", dtype=torch.bfloat16)
    ids = torch.arange(7 * TOP_K, device="cuda", dtype=torch.int32).view(7, TOP_K) % EXPERTS
    weights = torch.ones(7, TOP_K, device="cuda")
    on_gpu = copy.deepcopy(experts).to("cuda", torch.bfloat16)
    for sequence, kind in ((tanh, TANH_KIND), (_fused_moe_kernel_sequence, ERF_KIND)):
        with torch.profiler.profile() as profile:
            run(sequence, on_gpu, x, weights, ids)
            torch.cuda.synchronize()
        (name,) = {e.name for e in profile.events() if "act_and_mul_kernel" in e.name}
        assert kind in name


def test_other_activations_are_kept():
    around = hook_of(PATCH, "around", "_fused_moe_kernel_sequence")
    for given, want in {"gelu": "gelu_tanh", "gelu_tanh": "gelu_tanh", "silu": "silu"}.items():
        assert around(lambda *args, activation: activation, 1, activation=given) == want


def test_compiled_single_tokens_stay_on_the_runner():
    """Keep them there: SGLang's fused_moe_forward_native has only the erf form."""
    assert hook_of(PATCH, "replace", "_torch_compile_forward")(None, num_tokens=1) is None


@pytest.mark.parametrize(
    ("backend", "refused"),
    [("humming", True), ("triton_kernel", True), ("auto", False), ("triton", False)],
)
def test_runners_with_only_the_erf_form_are_refused(backend, refused, monkeypatch):
    from sglang.srt.layers.moe import utils

    monkeypatch.setattr(utils, "get_moe_runner_backend", lambda: utils.MoeRunnerBackend(backend))
    check = hook_of(PATCH, "before", "__init__")
    if not refused:
        assert check(None) is None
        return
    with pytest.raises(ValueError, match=f"--moe-runner-backend {backend} applies the erf gelu"):
        check(None)


@pytest.mark.parametrize(
    "source",
    [
        "moe_runner.humming:HummingRunnerCore.apply_activation",
        "fused_moe_triton.triton_kernels_moe:triton_kernel_fused_experts",
    ],
)
def test_the_refused_runners_still_have_no_tanh(source):
    """Read the sources as text: the second runner's package is not installed here."""
    module, _, name = source.partition(":")
    file = Path(sglang.__file__).parent / "srt/layers/moe" / f"{module.replace('.', '/')}.py"
    (body,) = (
        ast.unparse(node)
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name == name.rpartition(".")[2]
    )
    assert "gelu_and_mul" in body and "tanh" not in body

# SPDX-License-Identifier: Apache-2.0
"""Compare SGLang's Marlin for NVFP4 linears, as nvcc's PTX, with float64.

SGLang's own Python prepares the weight and asks for the matmul. The choice of tiles and the launch,
which are C++, are repeated here. Marlin holds the tensor scale in the activations' dtype, and takes
block scales below 2^-6, subnormal ones of E4M3, for zero.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests.kernels.oracle import Weight, draw, error
from tests.ptx import toolkit
from tests.ptx.cuda_kernels import CudaKernel, compile_module
from tests.ptx.emulated_gpu import HARMLESS

pytestmark = pytest.mark.skipif(bool(toolkit.missing()), reason=f"needs {toolkit.missing()}")
SMS = [86, *(pytest.param(sm, marks=pytest.mark.slow) for sm in (80, 89, 90))]
# Few multiprocessors, so that thread blocks share an output.
PROCESSORS = 6
SHARED = 99 * 1024
# To BF16, of the sum and of its product with the tensor scale.
ROUNDING = {"rms": 2.6e-3, "worst": 8e-3}
# Rows of tokens behind the last are not copied to shared memory, and their products are not stored.
# A thread reads ahead what would be its next weights from memory that others use for their sums by
# then, and does not use it.
MARLINS = {"uninitialised shared read", "register perhaps read before it is written", "race"}
AHEAD = "ld.shared.v4.u32"
# Tiles for up to 16 tokens and for more, in order of choice: in-features, rows, threads.
SMALL = ((128, 128, 256), (64, 128, 128), (128, 64, 128))
LARGE = ((64, 256, 256), (64, 128, 128), (128, 64, 128))
SMALLEST = 2**-6  # of E4M3's normal numbers
NAMESPACE = "sglang::device::marlin"


@pytest.fixture(scope="module", params=SMS, ids=lambda sm: f"sm_{sm}")
def sm(request) -> int:
    return request.param


def marlin(sm: int, tokens: int, n: int, k: int) -> tuple[CudaKernel, int]:
    """Choose a kernel as determine_exec_config does; return it and its threads."""
    blocks = -(-tokens // 16)
    tiles = LARGE if blocks > 1 else SMALL
    columns, rows, threads = next(t for t in tiles if k % t[0] == 0 and n % t[1] == 0)
    arguments = (
        f"__nv_bfloat16, host::kFE2M1f.id(), {threads}, {blocks}, {rows // 16}, {columns // 16}, "
        f"{str(tokens <= 8).lower()}, {NAMESPACE}::pipe_stages, 1, false"
    )
    instance = (
        "using namespace sglang;\n"
        f"template __global__ void {NAMESPACE}::Marlin<{arguments}>(MARLIN_KERNEL_PARAMS);\n"
    )
    module = compile_module("gemm/marlin/gptq_marlin.cuh", sm, instance)
    return CudaKernel(module, "6MarlinI"), threads


def repack(sm: int) -> CudaKernel:
    signature = "uint32_t const*, uint32_t const*, uint32_t*, int, int"
    instance = (
        f"template __global__ void {NAMESPACE}::gptq_marlin_repack_kernel<256, 4, false>"
        f"({signature});\n"
    )
    module = compile_module("gemm/marlin/gptq_marlin_repack.cuh", sm, instance)
    return CudaKernel(module, "gptq_marlin_repack_kernelILi256ELi4ELb0E")


def clean(result) -> None:
    assert not {k: v for k, v in result.findings.items() if k not in HARMLESS | MARLINS}
    for race in result.findings.get("race", ()):
        (read,) = [each for each in race.split(": ", 1)[1].split(" | ") if "ld." in each]
        assert read.startswith(AHEAD), race


@pytest.fixture
def on_a_gpu(monkeypatch, sm):
    """Let SGLang's Python launch the emulated kernels."""
    from sglang.srt.layers.quantization import marlin_utils_fp4 as python

    def repacked(b_q_weight, perm, size_k, size_n, num_bits):
        out = torch.zeros(size_k // 16, size_n * 2, dtype=torch.int32)
        given = (b_q_weight, None, out, size_k, size_n)
        clean(repack(sm).launch((PROCESSORS, 1, 1), (256, 1, 1), *given, shared=SHARED))
        return out

    def gemm(*, a, b_q_weight, b_scales, global_scale, workspace, size_m, size_n, size_k, **_):
        out = torch.zeros(size_m, size_n, dtype=a.dtype)
        partial = torch.zeros(PROCESSORS * 64 * 256)
        kernel, threads = marlin(sm, size_m, size_n, size_k)
        scales = (b_scales, global_scale, None, None, size_k // 16)
        sizes = (size_m, size_n, size_k, a.stride(0))
        order = {"batch": PROCESSORS, "schedule": "random"}
        result = kernel.launch(
            (PROCESSORS, 1, 1), (threads, 1, 1), a.contiguous(), b_q_weight, out, partial,
            *scales, *sizes, workspace, 0, 1, SHARED, shared=SHARED, **order,
        )  # fmt: skip
        clean(result)
        return out

    monkeypatch.setattr(python, "gptq_marlin_repack", repacked, raising=False)
    monkeypatch.setattr(python, "gptq_marlin_gemm", gemm, raising=False)
    monkeypatch.setattr(python, "should_use_atomic_add_reduce", lambda **_: False)
    monkeypatch.setattr(
        python, "marlin_make_workspace", lambda device: torch.zeros(PROCESSORS, dtype=torch.int)
    )
    return python


@pytest.mark.parametrize(("rows", "columns", "tokens"), [(256, 256, 1), (320, 704, 20)])
def test_a_linear_is_exact_but_for_its_tensor_scale(on_a_gpu, rows, columns, tokens):
    """SGLang pads 320 x 704."""
    drawn = draw(rows, columns)
    block = drawn.block.abs().float()
    block = torch.where(block < SMALLEST, 0, block)
    weight = Weight(drawn.packed, block.to(drawn.block.dtype), tensor_scale(drawn))
    x = torch.randn(tokens, columns, generator=torch.Generator().manual_seed(2)).bfloat16()
    found = error(multiply(on_a_gpu, weight, x), x.double() @ weight.exact.T)
    assert found.rms <= ROUNDING["rms"] and found.worst <= ROUNDING["worst"], found


def test_subnormal_block_scales_count_as_zero(on_a_gpu):
    drawn = draw(256, 256)
    block = torch.full_like(drawn.block.float(), SMALLEST - 2**-9).to(drawn.block.dtype)
    weight = Weight(drawn.packed, block, tensor_scale(drawn))
    got = multiply(on_a_gpu, weight, torch.ones(1, 256, dtype=torch.bfloat16))
    assert weight.exact.any() and not got.any()


def tensor_scale(weight: Weight) -> torch.Tensor:
    """Give all rows one tensor scale that BF16 holds."""
    return weight.row[0].bfloat16().float().expand_as(weight.row)


def multiply(python, weight: Weight, x: torch.Tensor) -> torch.Tensor:
    """Prepare a weight and multiply by it as SGLang's method does."""
    rows, columns = len(weight.packed), x.shape[1]
    layer = SimpleNamespace(
        output_size_per_partition=rows,
        input_size_per_partition=columns,
        params_dtype=torch.bfloat16,
        weight=torch.nn.Parameter(weight.packed, requires_grad=False),
        weight_scale=torch.nn.Parameter(weight.block, requires_grad=False),
        weight_global_scale=weight.row[0],
    )
    python.prepare_nvfp4_layer_for_marlin(layer)
    got = python.apply_fp4_marlin_linear.__wrapped__(
        x, layer.weight, layer.weight_scale, layer.weight_global_scale, layer.workspace,
        rows, columns,
    )  # fmt: skip
    assert not layer.workspace.any()
    return got

# SPDX-License-Identifier: Apache-2.0
"""Compile the router kernels for every GPU, at the 26B-A4B's sizes."""

from __future__ import annotations

import itertools

import pytest

from bench.kernels.cross_compile import CAPABILITIES, Compiled, Job, compile_all
from sglang_gemma4_ext.kernels import router_one_launch

CHOICE = {"E": 128, "K": 8, "BLOCK_E": 128, "BLOCK_K": 8}
DTYPES = ("bf16", "fp16", "fp32")


def _route(capability: int, dtype: str) -> Job:
    return Job(
        kernel="sglang_gemma4_ext.kernels.router:_route_kernel",
        capability=capability,
        signature={
            "logits_ptr": f"*{dtype}",
            "expert_scale_ptr": "*fp32",
            "weights_ptr": "*fp32",
            "ids_ptr": "*i32",
            "tokens": "i32",
            "stride_t": "i32",
        },
        constants={**CHOICE, "stride_e": 1, "BLOCK_T": 1},
        aligned=("stride_t",),
        num_warps=1,
    )


def _one_launch(capability: int, dtype: str) -> Job:
    pointers = ("x_ptr", "scale_ptr", "proj_ptr", "expert_scale_ptr")
    return Job(
        kernel="sglang_gemma4_ext.kernels.router_one_launch:_route_one_launch_kernel",
        capability=capability,
        signature={
            **dict.fromkeys(pointers, f"*{dtype}"),
            **dict.fromkeys(("logits_ptr", "weights_ptr"), "*fp32"),
            **dict.fromkeys(("ids_ptr", "arrivals_ptr"), "*i32"),
            "stride_x": "i32",
            "eps": "fp32",
            "root": "fp32",
        },
        constants={
            **CHOICE,
            "H": 2816,
            "TILE_E": router_one_launch.TILE_E,
            "TILE_H": router_one_launch.TILE_H,
        },
        aligned=("stride_x",),
        num_warps=router_one_launch.NUM_WARPS,
    )


GRID = tuple(itertools.product((_route, _one_launch), CAPABILITIES, DTYPES))


@pytest.fixture(scope="module")
def built() -> dict[tuple, Compiled]:
    jobs = [make(capability, dtype) for make, capability, dtype in GRID]
    return dict(zip(GRID, compile_all(jobs), strict=True))


@pytest.mark.parametrize("key", GRID, ids=lambda key: f"{key[0].__name__}-{key[1]}-{key[2]}")
def test_compiles_without_spills(key, built) -> None:
    code = built[key]
    assert code.error is None
    assert code.local_bytes == 0
    assert code.shared_bytes < 48 * 1024  # every launch may use this much without opting in


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_projection_is_read_16_bytes_at_a_time(capability, dtype, built) -> None:
    """TILE_E rows, the scale and x are read by the widest loads."""
    ptx = built[_one_launch, capability, dtype]
    wide = ptx.count(r"ld\.global\.v4\.b32")
    tile_bytes = router_one_launch.TILE_E * router_one_launch.TILE_H * (4 if dtype == "fp32" else 2)
    assert wide >= tile_bytes // 16 // (32 * router_one_launch.NUM_WARPS)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_last_program_sees_what_the_others_wrote(capability, built) -> None:
    """Find a barrier before the counter, which orders at GPU scope; the loads bypass the L1."""
    ptx = built[_one_launch, capability, "bf16"].ptx
    before, counter, after = ptx.partition("atom.global.gpu.acq_rel.add")
    assert counter
    assert "bar.sync" in before[before.rindex("st.global") :]
    assert "ld.global.cg" in after

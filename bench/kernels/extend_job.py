# SPDX-License-Identifier: Apache-2.0
"""Describe SGLang's extend-attention kernel with one tile as a job for `cross_compile`."""

from __future__ import annotations

from bench.kernels.cross_compile import Job
from sglang_gemma4_ext.kernels.extend_tiles import Tile

POINTERS = ("Q_Extend", "K_Extend", "V_Extend", "O_Extend", "K_Buffer", "V_Buffer")
STRIDES = tuple(
    f"stride_{name}"
    for name in (
        *("qbs", "qh", "kbs", "kh", "vbs", "vh", "obs", "oh"),
        *("buf_kbs", "buf_kh", "buf_vbs", "buf_vh"),
        *("buf_kpage", "buf_ktok", "buf_vpage", "buf_vtok"),
    )
)
MASK = {"mask_ptr": "*i8", "mask_indptr": "*i64", "window_kv_offset_ptr": "*i32"}
OFF = (
    *("USE_COMPACT_TILE_GRID", "USE_EXP2", "USE_FP8_PREFIX", "USE_FP8_EXTEND", "HAS_SINK"),
    *("STORE_LSE", "STORE_TRANSPOSE", "SKIP_PREFIX", "SKIP_EXTEND", "IS_GFX1250"),
    "IDENTITY_KV_INDICES",
)


def job(
    capability: int, tile: Tile, window: int = -1, mask: bool = False, e4m3: bool = False
) -> Job:
    """Describe the server's launch at BF16; window is SGLang's, one less than Gemma's.

    e4m3: the cache is E4M3
    """
    dim = tile.head_dim
    return Job(
        kernel="sglang.kernels.ops.attention.extend_attention:_fwd_kernel",
        capability=capability,
        signature={
            **dict.fromkeys(POINTERS, "*bf16"),
            **(dict.fromkeys(("K_Buffer", "V_Buffer"), "*fp8e4nv") if e4m3 else {}),
            "qo_indptr": "*i32",
            "kv_indptr": "*i32",
            "kv_indices": "*i64",
            **dict.fromkeys(("sm_scale", "k_scale", "v_scale"), "fp32"),
            **dict.fromkeys(("kv_group_num", "compact_batch_size", *STRIDES), "i32"),
            **(MASK if mask else {}),
        },
        constants={
            **({} if mask else dict.fromkeys(MASK)),
            **dict.fromkeys(("LSE_Extend", "sink_ptr", "SCORE_MOD", "Aux0")),
            **dict.fromkeys(("stride_lse_bs", "stride_lse_h", "aux0_stride_t"), 0),
            "aux0_stride_h": 0,
            "aux0_len": 0,
            "logit_cap": 0.0,
            "xai_temperature_len": -1,
            **dict.fromkeys(("Lq", "Lv", "BLOCK_DMODEL", "BLOCK_DV"), dim),
            "BLOCK_DPE": 0,
            "BLOCK_M": tile.block_m,
            "FP8_MAX": 1.0,
            "PAGE_SIZE": 1,
            **dict.fromkeys(("BLOCK_N", "BLOCK_N_PREFIX"), tile.block_n),
            "SLIDING_WINDOW_SIZE": window,
            "USE_CUSTOM_MASK": mask,
            "IS_CAUSAL": True,
            "SKIP_PREFIX_CUSTOM_MASK": True,
            **dict.fromkeys(OFF, False),
        },
        aligned=STRIDES,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )

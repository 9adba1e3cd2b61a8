# SPDX-License-Identifier: Apache-2.0
"""List attention kernels as `cross_compile` jobs: ours with every tile, and SGLang's beside them.

Ours are compiled for each number of query heads a key head that a Gemma 4 has at a head_dim.
SGLang's are compiled for the 26B-A4B's: two at 256, with a window, and eight at 512.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.kernels import extend_job
from bench.kernels.cross_compile import Job
from sglang_gemma4_ext.kernels.attention_tiles import DecodeTile, ExtendTile, read
from sglang_gemma4_ext.kernels.extend_tiles import Tile

# Query heads a key head, by head_dim; the 26B-A4B's and the 31B's first.
GROUPS = {256: (2, 4, 8), 512: (8, 4, 16)}
SHARED_GROUPS = (8, 4)  # of E2B and E4B, whose last layers read other layers' keys
# SGLang's block sizes by capability and head_dim, all with 8 warps and one stage.
STOCK_EXTEND = {
    (sm, dim): (64, 64) if dim == 256 else (32, 64 if sm in (80, 90) else 32)
    for sm in (80, 86, 89, 90)
    for dim in GROUPS
}
STRIDES = tuple(
    name + part
    for name in ("q_stride", "k_stride", "v_stride", "out_stride", "k_cache_stride")
    for part in ("", "_head")
)
MASK = {"mask_ptr": "*u8", "mask_indptr_ptr": "*i64", "mask_offset_ptr": "*i32"}


def ours(sm: int) -> Iterator[Job]:
    """List each tile of a capability's row."""
    row = read()[f"sm_{sm}"]
    for tile in row.decode:
        for group in GROUPS[tile.head_dim]:
            yield decode(sm, tile, group)
    for tile in row.extend:
        for group in GROUPS[tile.head_dim]:
            yield extend(sm, tile, group)
        for group in SHARED_GROUPS if tile.e4m3 else ():
            yield extend(sm, tile, group, new_e4m3=True)


def decode(sm: int, tile: DecodeTile, group: int) -> Job:
    cache = "*i16" if tile.e4m3 else "*bf16"
    strides = [name for name in STRIDES if name[:2] in ("q_", "k_") and "cache" not in name]
    strides += ["v_stride", "v_stride_head"]
    return Job(
        kernel="sglang_gemma4_ext.kernels.decode_attention:_decode_attention_kernel",
        capability=sm,
        signature={
            "q_ptr": "*bf16",
            "k_ptr": cache,
            "v_ptr": cache,
            "indptr_ptr": "*i32",
            "indices_ptr": "*i64",
            "splits_ptr": "*i32",
            "parts_ptr": "*fp32",
            "lse_ptr": "*fp32",
            "score_scale": "fp32",
            **dict.fromkeys(strides, "i32"),
        },
        constants={
            "GROUP": group,
            "HEAD_DIM": tile.head_dim,
            "LOGIT_CAP": 0.0,
            "E4M3": tile.e4m3,
            "PLAIN": False,
            "BLOCK_H": 16,
            "BLOCK_N": tile.block_n,
        },
        aligned=tuple(strides),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )


def extend(sm: int, tile: ExtendTile, group: int, new_e4m3: bool = False) -> Job:
    """Describe a tile's launch. new_e4m3: a layer that reads another's keys, new ones too."""
    cache = "*i16" if tile.e4m3 else "*bf16"
    strides = (*STRIDES, "v_cache_stride", "v_cache_stride_head")
    return Job(
        kernel="sglang_gemma4_ext.kernels.extend_attention:_extend_attention_kernel",
        capability=sm,
        signature={
            **dict.fromkeys(("q_ptr", "out_ptr"), "*bf16"),
            **dict.fromkeys(("k_ptr", "v_ptr"), cache if new_e4m3 else "*bf16"),
            **dict.fromkeys(("k_cache_ptr", "v_cache_ptr"), cache),
            **dict.fromkeys(("qo_indptr_ptr", "kv_indptr_ptr"), "*i32"),
            "indices_ptr": "*i64",
            **dict.fromkeys(("score_scale", "cached_score_scale", "value_scale"), "fp32"),
            "distance": "i32",
            **dict.fromkeys(strides, "i32"),
            **(MASK if tile.mask else {}),
        },
        constants={
            **({} if tile.mask else dict.fromkeys(MASK)),
            "GROUP": group,
            "HEAD_DIM": tile.head_dim,
            "LOGIT_CAP": 0.0,
            "WINDOW": tile.head_dim == 256,
            "CAUSAL": True,
            "MASK_CACHED": tile.mask,
            "E4M3": tile.e4m3,
            "NEW_E4M3": new_e4m3,
            "PLAIN": False,
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
        },
        aligned=strides,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )


def stock(sm: int) -> Iterator[Job]:
    """List SGLang's decode and extend over both dtypes of cache, at the same shapes."""
    for dim in GROUPS:
        block_m, block_n = STOCK_EXTEND[sm, dim]
        tile = Tile(dim, 1, block_m, block_n, 8, 1, 0)
        window = 1023 if dim == 256 else -1
        for e4m3 in (False, True):
            yield stock_decode(sm, dim, e4m3)
            for mask in (False, True):
                yield extend_job.job(sm, tile, window, mask, e4m3)


def stock_decode(sm: int, dim: int, e4m3: bool) -> Job:
    """Describe SGLang's grouped decode kernel with its own block sizes."""
    cache = "*fp8e4nv" if e4m3 else "*bf16"
    strides = tuple(
        f"stride_{name}"
        for name in (
            *("qbs", "qh", "buf_kbs", "buf_kh", "buf_vbs", "buf_vh"),
            *("buf_kpage", "buf_ktok", "buf_vpage", "buf_vtok", "mid_ob", "mid_oh", "mid_os"),
        )
    )
    return Job(
        kernel="sglang.kernels.ops.attention.decode_attention:_fwd_grouped_kernel_stage1",
        capability=sm,
        signature={
            "Q": "*bf16",
            "K_Buffer": cache,
            "V_Buffer": cache,
            "sm_scale_withk": "fp32",
            "kv_indptr": "*i32",
            "kv_indices": "*i64",
            "Att_Out": "*fp32",
            "Att_Lse": "*fp32",
            "num_kv_splits": "*i32",
            **dict.fromkeys(strides, "i32"),
        },
        constants={
            "kv_group_num": GROUPS[dim][0],
            "q_head_num": 16,
            "BLOCK_DMODEL": dim,
            "BLOCK_DPE": 0,
            "BLOCK_DV": dim,
            "BLOCK_N": 32,
            "BLOCK_H": 16,
            "MIN_BLOCK_KV": 32,
            "logit_cap": 0.0,
            "xai_temperature_len": -1,
            "Lk": dim,
            "Lv": dim,
            "HAS_MLA": False,
            "USE_PDL": False,
            "IS_GFX1250": False,
            "PAGE_SIZE": 1,
            **dict.fromkeys(("SCORE_MOD", "Aux0", "uneven_batch")),
            **dict.fromkeys(("aux0_stride_t", "aux0_stride_h", "aux0_len", "forced_kv_splits"), 0),
            "USE_FORCED": False,
            "ROTATE_BATCH": False,
        },
        aligned=strides,
        num_warps=4,
        num_stages=2,
    )

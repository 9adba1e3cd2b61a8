# SPDX-License-Identifier: Apache-2.0
"""SGLang's extend-attention kernel as machine code with every tile of the table, on its own GPU."""

from __future__ import annotations

import pytest

from sglang_gemma4_ext.kernels.extend_tiles import Tile, read
from tests.kernels.compiled import MAX_SHARED_BYTES, Compiled, Job, compile_all

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
# Beyond it a launch of 255 registers would live in memory: measured worth is for the bench to say.
MAX_LOCAL_BYTES = 64


def job(capability: int, tile: Tile, window: int = -1, mask: bool = False) -> Job:
    """As the server launches it at BF16 on NVIDIA; window is SGLang's, one less than Gemma's."""
    dim = tile.head_dim
    return Job(
        kernel="sglang.kernels.ops.attention.extend_attention:_fwd_kernel",
        capability=capability,
        signature={
            **dict.fromkeys(POINTERS, "*bf16"),
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


def _grid(capabilities: tuple[int, ...]) -> tuple[tuple[int, Tile], ...]:
    return tuple((c, tile) for c in capabilities for tile in read()[f"sm_{c}"].tiles)


def _assert_as_the_table_says(capability: int, tile: Tile, code: Compiled) -> None:
    assert code.error is None
    assert code.shared_bytes == tile.shared_bytes <= MAX_SHARED_BYTES[capability]
    assert code.local_bytes <= MAX_LOCAL_BYTES


def _check(capabilities: tuple[int, ...], **options) -> list[Compiled]:
    return compile_all(job(capability, tile, **options) for capability, tile in _grid(capabilities))


@pytest.mark.parametrize(
    "capability", [86, *(pytest.param(c, marks=pytest.mark.slow) for c in (80, 89, 90))]
)
def test_shared_memory_is_what_the_table_says(capability) -> None:
    for (_, tile), code in zip(_grid((capability,)), _check((capability,)), strict=True):
        _assert_as_the_table_says(capability, tile, code)


@pytest.mark.slow
@pytest.mark.parametrize("mask", [False, True])
def test_windows_and_masks_take_no_more(mask) -> None:
    """The table's bytes bound the other variants of the kernel, too."""
    capabilities = (86, 90)
    for (_, tile), code in zip(
        _grid(capabilities), _check(capabilities, window=1023, mask=mask), strict=True
    ):
        assert code.error is None
        assert code.shared_bytes <= tile.shared_bytes

# SPDX-License-Identifier: Apache-2.0
"""Check the committed table of compiled attention kernels, and compile some of its rows again."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict

import pytest
import triton

from bench.kernels.attention_check import RESULT, as_csv, load_bytes, read_rows, row
from bench.kernels.attention_jobs import GROUPS, SHARED_GROUPS, ours, stock
from bench.kernels.cross_compile import CAPABILITIES, MAX_SHARED_BYTES, compile_all, longest_loop
from sglang_gemma4_ext.kernels.attention_tiles import read
from sglang_gemma4_ext.plan.geometry import BUILT_IN

ROWS = read_rows()
OURS = [each for each in ROWS if each["by"] == "ours"]
# The pinned one, and the one beside the torch that SGLang pins for GPUs.
VERSIONS = (triton.__version__, "3.6.0")
# One tile of sm_90 keeps 8 or 16 bytes a thread, at groups of 8 or 4 and BF16 KV, which SGLang's
# kernels serve by default.
SLIGHT = 16
TILE = ("head_dim", "block_m", "block_n", "warps", "stages")


def named(each: dict[str, str]) -> tuple[str, ...]:
    names = ("triton", "sm", "kernel", "cache", "new", "group", "mask", *TILE)
    return tuple(each[name] for name in names)


@pytest.mark.parametrize("version", VERSIONS)
def test_each_tile_of_the_table_is_compiled(version) -> None:
    """Count each tile for every group, and extend's again for E4M3 of new keys."""
    here = [each for each in OURS if each["triton"] == version]
    found = Counter((each["sm"], each["kernel"]) for each in here)
    for name, tiles in read().items():
        sm = name.removeprefix("sm_")
        decode, extend = (
            sum(len(GROUPS[tile.head_dim]) for tile in kind)
            for kind in (tiles.decode, tiles.extend)
        )
        again = sum(len(SHARED_GROUPS) for tile in tiles.extend if tile.e4m3)
        assert found[sm, "_decode_attention_kernel"] == decode
        assert found[sm, "_extend_attention_kernel"] == extend + again
    for sm in CAPABILITIES:
        listed = {named(each) for each in here if each["sm"] == str(sm)}
        for job in ours(sm):
            constants = job.constants
            block_m = constants.get("BLOCK_M") or constants["BLOCK_H"]
            blocks = (constants["HEAD_DIM"], block_m, constants["BLOCK_N"])
            tile = tuple(map(str, (*blocks, job.num_warps, job.num_stages)))
            assert any(each[-len(tile) :] == tile for each in listed), (sm, job)


@pytest.mark.parametrize("each", OURS, ids=lambda each: "-".join(named(each)))
def test_ours_fit_without_spills_and_load_by_16_bytes(each) -> None:
    """A load narrower than 16 bytes is of a slot's number, a length or a mask."""
    assert not each["error"]
    assert int(each["local"]) <= (SLIGHT if each["sm"] == "90" else 0)
    assert int(each["shared"]) <= MAX_SHARED_BYTES[int(each["sm"])]
    assert int(each["registers"]) <= 255
    assert int(each["loads_16_byte"]) > 0
    assert each["tensor_core"] in ("HMMA", "HGMMA", "HGMMA+HMMA")


@pytest.mark.parametrize("version", VERSIONS)
def test_sglangs_kernels_are_beside_ours(version) -> None:
    """SGLang's do not compile for E4M3 before 8.9, which is why ours exist."""
    for sm in CAPABILITIES:
        here = [each for each in ROWS if (each["triton"], each["sm"]) == (version, str(sm))]
        theirs = [each for each in here if each["by"] == "sglang"]
        assert len(theirs) == len(list(stock(sm))) == 12
        for each in theirs:
            refused = each["cache"] == "e4m3" and sm < 89
            assert each["error"].startswith("type fp8e4nv not supported") == refused
    spilled = [int(each["local"]) for each in ROWS if each["by"] == "sglang"]
    assert max(spilled) > 1000


@pytest.mark.parametrize(
    ("sm", "every"),
    [(86, 4), *(pytest.param(sm, 1, marks=pytest.mark.slow) for sm in CAPABILITIES)],
)
@pytest.mark.timeout(900)
def test_rows_are_compiled_as_committed(sm, every) -> None:
    """Compile again; by default two of decode's tiles, for they take a second each."""
    jobs = [*ours(sm), *stock(sm)] if every == 1 else list(ours(sm))[:every:2]
    for job, code in zip(jobs, compile_all(jobs), strict=True):
        assert {name: str(value) for name, value in asdict(row(job, code)).items()} in ROWS


def test_every_group_of_a_model_is_compiled() -> None:
    for geometry in BUILT_IN.values():
        for layer in range(geometry.layers):
            heads, kv_heads, dim = geometry.heads_of(layer)
            assert heads // kv_heads in GROUPS[dim]


def test_the_file_is_as_written() -> None:
    assert as_csv(ROWS) == RESULT.read_text()


def test_opcodes_are_read() -> None:
    assert load_bytes("LDG.E.128") == load_bytes("LDGSTS.E.BYPASS.LTC128B.128") == 16
    assert load_bytes("LDG.E.64") == 8 and load_bytes("LDG.E") == 4
    assert load_bytes("LDG.E.U8") == 1


def test_the_longest_loop_is_counted() -> None:
    code = """
        /*0010*/                   IADD3 R1, R1, 0x1, RZ ;
        /*0020*/                   LDG.E R2, [R4] ;
        /*0030*/               @P0 BRA 0x10 ;
        /*0040*/                   IADD3 R1, R1, 0x1, RZ ;
        /*0050*/              @!P1 BRA 0x80 ;
        /*0060*/                   NOP ;
        /*0070*/              @!P1 BRA 0x60 ;
        /*0080*/                   EXIT ;
        /*0090*/                   BRA 0x90;
"""
    assert longest_loop(code) == 3
    assert longest_loop("        /*0080*/                   EXIT ;") == 0

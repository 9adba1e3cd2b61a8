# SPDX-License-Identifier: Apache-2.0
"""Run bench.kernels.attention's rows at toy size, and check its shapes and its model by hand."""

from __future__ import annotations

from collections import Counter

import pytest

from bench.kernels import attention, attention_model
from bench.kernels.attention import TOY, shapes


@pytest.mark.interpreter
@pytest.mark.parametrize(
    "shape",
    [
        # slow: seconds each in the interpreter, and each kernel has its own tests
        pytest.param(shape, marks=[] if shape.op == "prefill" else pytest.mark.slow, id=shape.op)
        for shape in TOY
    ],
)
def test_rows_compare_all_four_with_sglangs_over_bf16(shape) -> None:
    """Ours over E4M3 is as near as over the same values in BF16; SGLang's over E4M3 is not."""
    found = {(row["by"], row["cache"]): row for row in attention.rows(shape)}
    assert len(found) == 4 and not any("passed_over" in row for row in found.values())
    assert found["ours", "e4m3"]["correct"] and found["ours", "bf16"]["correct"]
    assert found["sglang", "bf16"]["apart"] == 0
    assert found["ours", "e4m3"]["apart"] < 1e-3 < found["sglang", "e4m3"]["apart"]
    assert "correct" not in found["sglang", "e4m3"]


def test_every_batch_and_context_is_decoded_at_both_head_dimensions() -> None:
    """A sliding layer attends 1,024 keys, whatever the context."""
    found = Counter((s.op, s.head_dim, s.batch, s.context) for s in shapes())
    for batch in (1, 8, 32):
        for context in (1024, 8192, 32_768, 131_072):
            assert found["decode", 512, batch, context] == 1
        assert found["decode", 256, batch, 1024] == 1
    assert max(found.values()) == 1
    assert [s.op for s in shapes()] == sorted(s.op for s in shapes())
    assert {s.op for s in shapes()} == {"decode", "prefill", "verify"}


def test_the_bytes_of_a_cache() -> None:
    """Two key heads of 512, keys and values: 2,048 bytes a token in E4M3."""
    (shape,) = (s for s in shapes() if (s.op, s.batch, s.context) == ("decode", 8, 32_768))
    assert shape.cache_bytes == 8 * 32_768 * 2048


def test_a_modelled_launch_by_hand() -> None:
    """An H100 decodes 8 requests of 32,768 keys over E4M3 at head_dim 512.

    SGLang: 132 * log2(512) = 1,188 programs over 16 groups of heads make 16 splits, at most. Two
    key heads, so 8 * 2 * 16 = 256 blocks of 2,048 keys: two on the busiest of 132.
    """
    code = {
        "sm": "90", "head_dim": "512", "cache": "e4m3", "by": "ours", "warps": "8",
        "registers": "128", "shared": "50176", "block_n": "32", "loop": "845",
    }  # fmt: skip
    (gpu,) = (g for g in attention_model.GPUS if g.name == "H100 SXM")
    row = attention_model.row(gpu, code, 8, 32_768)
    assert (row.splits, row.blocks) == (16, 2)
    assert row.memory_us == pytest.approx(8 * 32_768 * 2048 / 3350e9 * 1e6, abs=0.05)
    assert row.issue_us == pytest.approx(2 * 8 * 64 * 845 / 4 / 1.98e9 * 1e6, abs=0.05)


def test_the_model_is_as_committed_and_bounds_every_kernel_that_compiles() -> None:
    rows = attention_model.model()
    assert attention_model.RESULT.read_text() == attention_model.as_csv(rows)
    assert {row.by for row in rows} == {"ours", "sglang"}
    for row in rows:
        assert row.blocks >= 1 and row.memory_us > 0 and row.issue_us > 0
    e4m3 = [row for row in rows if row.cache == "e4m3" and row.by == "ours"]
    assert len(e4m3) == len(attention_model.GPUS) * 3 * 5

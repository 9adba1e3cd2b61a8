# SPDX-License-Identifier: Apache-2.0
"""Hold what the documents say of SGLang's --enable-paged-experts for Gemma 4."""

from __future__ import annotations

from types import SimpleNamespace

from sglang_gemma4_ext.patches.weights import _modelopt_layers


def test_sglang_pages_bf16_experts_and_not_ours():
    from sglang.srt.layers.moe.paged_experts.formats import format_for
    from sglang.srt.layers.quantization.unquant import UnquantizedFusedMoEMethod

    layer = SimpleNamespace(scheme=None)
    plain = format_for(layer, object.__new__(UnquantizedFusedMoEMethod))
    assert plain is not None and plain.label == "unquantized (bf16/fp16)"
    assert format_for(layer, object.__new__(_modelopt_layers.moe_method())) is None

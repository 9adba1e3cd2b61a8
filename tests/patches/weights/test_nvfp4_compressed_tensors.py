# SPDX-License-Identifier: Apache-2.0
"""Check what the patch refuses in compressed-tensors checkpoints, and what it leaves to SGLang."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sglang_gemma4_ext.patches.weights import _layers, nvfp4_compressed_tensors

WHERE = "model.language_model.layers.0.mlp.gate_up_proj"


def test_another_group_size_is_refused_naming_the_layer() -> None:
    weights = SimpleNamespace(num_bits=4, type="float", strategy="tensor_group", group_size=32)
    config = SimpleNamespace(get_scheme_dict=lambda *args: {"weights": weights})
    with pytest.raises(ValueError, match=rf"{WHERE}: .*one for every 32"):
        nvfp4_compressed_tensors._linear_scheme(None, config, None, WHERE)


@pytest.mark.parametrize("ours", [False, True])
def test_a_linear_gets_our_scheme_where_the_patch_takes_it(monkeypatch, ours: bool) -> None:
    monkeypatch.setattr(_layers, "takes", lambda layer: ours)
    weights = SimpleNamespace(num_bits=4, type="float", strategy="tensor_group", group_size=16)
    given = {"weights": weights, "input_activations": None}
    config = SimpleNamespace(get_scheme_dict=lambda *args: given)
    scheme = nvfp4_compressed_tensors._linear_scheme(lambda *args: "stock", config, None, WHERE)
    assert (scheme != "stock") is ours
    assert not ours or isinstance(scheme, nvfp4_compressed_tensors._linear())

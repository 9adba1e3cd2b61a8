# SPDX-License-Identifier: Apache-2.0
"""Check that no server gets an FP8 KV cache that its GPU's attention cannot read."""

from __future__ import annotations

import json

import pytest

from bench.checkpoints.shapes import write_config
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.machine import NO_GPU, Gpu
from sglang_gemma4_ext.patches.memory import readable_kv_dtype
from sglang_gemma4_ext.plan.geometry import BUILT_IN
from sglang_gemma4_ext.settings import Settings
from tests.patches.hooks import hook_of

A100, A10G = Gpu("nvidia", "A100", (8, 0)), Gpu("nvidia", "A10G", (8, 6))
L4, H100 = Gpu("nvidia", "L4", (8, 9)), Gpu("nvidia", "H100", (9, 0))
DECLARED = {"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}


@pytest.fixture
def settled(monkeypatch, tmp_path):
    """settled(gpu, *flags): the KV dtype of real server arguments when memory is sized."""
    from sglang.srt.arg_groups.overrides import resolving_view
    from sglang.srt.server_args import prepare_server_args

    folder = write_config(BUILT_IN["12B"], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": DECLARED}))

    def run(gpu: Gpu, *flags: str) -> str:
        monkeypatch.setattr(readable_kv_dtype, "detect_gpu", lambda: gpu)
        args = prepare_server_args(["--model-path", str(folder), "--device", "cuda", *flags])
        hook_of(readable_kv_dtype.PATCH, "before", "handle_gpu_memory_settings")(args)
        return resolving_view(args).kv_cache_dtype

    return run


@pytest.mark.parametrize("gpu", [A100, A10G], ids=str)
def test_a_declared_cache_is_kept_for_our_attention(settled, gpu):
    assert settled(gpu) == "auto"


@pytest.mark.parametrize("gpu", [A100, A10G], ids=str)
def test_a_declared_cache_is_bf16_with_sglangs_attention(settled, gpu, monkeypatch, capfd):
    monkeypatch.setenv("SGLANG_GEMMA4_EXT_ATTENTION", "sglang")
    assert settled(gpu) == "bfloat16"
    said = capfd.readouterr().err  # SGLang sets up its own logging
    assert "--kv-cache-dtype bfloat16 is used, at two bytes a value" in said


@pytest.mark.parametrize("gpu", [A100, A10G], ids=str)
def test_a_cache_that_was_asked_for_is_kept(settled, gpu):
    assert settled(gpu, "--kv-cache-dtype", "fp8_e4m3") == "fp8_e4m3"


@pytest.mark.parametrize("gpu", [A100, A10G], ids=str)
def test_a_cache_that_was_asked_for_stops_the_server_with_sglangs_attention(
    settled, gpu, monkeypatch
):
    monkeypatch.setenv("SGLANG_GEMMA4_EXT_ATTENTION", "sglang")
    with pytest.raises(SystemExit, match=r"--gemma4-attention sglang needs compute capability 8"):
        settled(gpu, "--kv-cache-dtype", "fp8_e4m3")


@pytest.mark.parametrize("gpu", [L4, H100, NO_GPU], ids=str)
def test_elsewhere_sglang_decides(settled, gpu):
    assert settled(gpu) == "auto"
    assert settled(gpu, "--kv-cache-dtype", "fp8_e4m3") == "fp8_e4m3"


@pytest.mark.parametrize(("gpu", "applies"), [(A10G, True), (L4, False), (NO_GPU, False)])
def test_it_stands_down_where_fp8_is_read(gpu, applies):
    reason = readable_kv_dtype.PATCH.stands_down(Context(Settings(), gpu=gpu))
    assert (reason is None) == applies


@pytest.mark.parametrize(
    ("quantization", "fp8"),
    [
        (DECLARED, True),
        ({**DECLARED, "kv_cache_quant_algo": None}, False),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4",
          "kv_cache_scheme": {"type": "float", "num_bits": 8}}, True),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4",
          "kv_cache_scheme": {"type": "float", "num_bits": 4}}, False),
    ],
)  # fmt: skip
def test_what_is_declared_is_what_sglang_reads(tmp_path, quantization, fp8):
    """Against SGLang's own configuration and its own choice of a dtype."""
    import torch
    from sglang.srt.layers.quantization.modelopt_quant import ModelOptFp4Config
    from sglang.srt.mem_cache.kv_cache_dtype import configure_kv_cache_dtype

    from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
    from sglang_gemma4_ext.checkpoint.quantization import declares_fp8_kv

    class Model(torch.nn.Module):
        quant_config = ModelOptFp4Config.from_config(quantization)

    _, dtype = configure_kv_cache_dtype(
        server_args_kv_cache_dtype="auto", model=Model(), model_dtype=torch.bfloat16,
        is_draft_worker=False, is_dflash=False, speculative_draft_attention_backend="triton",
    )  # fmt: skip
    model = ModelInfo(str(tmp_path), "Gemma4ForCausalLM", {"quantization_config": quantization})
    assert declares_fp8_kv(model) == (dtype is torch.float8_e4m3fn) == fp8

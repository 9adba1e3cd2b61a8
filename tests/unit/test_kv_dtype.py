# SPDX-License-Identifier: Apache-2.0
"""Check FP8 KV caches on GPUs that can read them and on GPUs that cannot."""

from __future__ import annotations

import pytest

from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.launcher import kv_dtype
from sglang_gemma4_ext.launcher.command_line import CommandLine
from sglang_gemma4_ext.machine import NO_GPU, Gpu
from sglang_gemma4_ext.settings import SettingsError

A100, A10G = Gpu("nvidia", "NVIDIA A100", (8, 0)), Gpu("nvidia", "NVIDIA A10G", (8, 6))
L40S, H100 = Gpu("nvidia", "NVIDIA L40S", (8, 9)), Gpu("nvidia", "NVIDIA H100", (9, 0))
QUANTIZED = {"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}


def model(tmp_path, quantization: dict | None) -> ModelInfo:
    config = {"architectures": ["Gemma4ForCausalLM"]}
    if quantization is not None:
        config["quantization_config"] = quantization
    return ModelInfo(str(tmp_path), "Gemma4ForCausalLM", config)


FOREIGN = [
    ("sglang", [], "--gemma4-attention sglang"),
    ("auto", [kv_dtype.DETERMINISTIC], kv_dtype.DETERMINISTIC),
]


@pytest.mark.parametrize("gpu", [A100, A10G], ids=str)
@pytest.mark.parametrize(("attention", "flag", "named"), FOREIGN)
@pytest.mark.parametrize("argv", [[], ["--kv-cache-dtype", "auto"], ["--kv-cache-dtype=auto"]])
def test_a_declared_fp8_cache_is_bf16_with_sglangs_attention(
    gpu, attention, flag, named, argv, tmp_path
):
    line = CommandLine([*argv, *flag])
    warning = kv_dtype.settle(line, gpu, model(tmp_path, QUANTIZED), attention)
    assert line.argv == [*flag, "--kv-cache-dtype", "bfloat16"]
    assert "--kv-cache-dtype bfloat16" in warning and gpu.name in warning
    assert warning.endswith(f"without {named} it is served in one byte")


@pytest.mark.parametrize("gpu", [A100, A10G], ids=str)
@pytest.mark.parametrize("attention", ["auto", "ours"])
@pytest.mark.parametrize("argv", [[], ["--kv-cache-dtype", "fp8_e4m3"]])
def test_an_e4m3_cache_is_read_by_our_attention(gpu, attention, argv, tmp_path):
    """Serve it whether the checkpoint declares it or the user asks for it."""
    line = CommandLine(argv)
    assert kv_dtype.settle(line, gpu, model(tmp_path, QUANTIZED), attention) == ""
    assert line.argv == argv


def test_a_gpu_below_8_0_reads_no_e4m3_cache(tmp_path):
    t4 = Gpu("nvidia", "NVIDIA T4", (7, 5))
    line = CommandLine(["--kv-cache-dtype", "fp8_e4m3"])
    with pytest.raises(SettingsError, match=r"fp8_e4m3 needs compute capability 8\.0, and .*T4"):
        kv_dtype.settle(line, t4, model(tmp_path, None), "auto")
    line = CommandLine([])
    assert kv_dtype.settle(line, t4, model(tmp_path, QUANTIZED), "auto").endswith("instead of one")
    assert line.argv == ["--kv-cache-dtype", "bfloat16"]


@pytest.mark.parametrize("gpu", [A100, A10G], ids=str)
@pytest.mark.parametrize(("attention", "flag", "named"), FOREIGN)
def test_sglangs_attention_is_refused_with_an_e4m3_cache(gpu, attention, flag, named, tmp_path):
    line = CommandLine(["--kv-cache-dtype", "fp8_e4m3", *flag])
    with pytest.raises(SettingsError, match=rf"with {named} needs compute capability 8\.9"):
        kv_dtype.settle(line, gpu, model(tmp_path, None), attention)


@pytest.mark.parametrize("gpu", [L40S, H100, NO_GPU], ids=str)
def test_other_machines_keep_the_requested_dtype(gpu, tmp_path):
    for argv in ([], ["--kv-cache-dtype", "fp8_e4m3"]):
        line = CommandLine(argv)
        assert kv_dtype.settle(line, gpu, model(tmp_path, QUANTIZED), "auto") == ""
        assert line.argv == argv


@pytest.mark.parametrize("argv", [[], ["--kv-cache-dtype", "fp8_e5m2"]])
def test_a_dtype_that_runs_is_kept(argv, tmp_path):
    line = CommandLine(argv)
    plain = None if not argv else QUANTIZED
    assert kv_dtype.settle(line, A10G, model(tmp_path, plain), "auto") == ""
    assert line.argv == argv

# SPDX-License-Identifier: Apache-2.0
"""Leave out each patch: the server answers wrongly or does not start."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.checkpoints import nvfp4
from tests.serving.harness import free_port, run_to_end, serve
from tests.serving.parity import FP32_TOLERANCE, Reference, prompt_ids
from tests.serving.test_parity import TRITON

pytestmark = pytest.mark.server

slow = functools.partial(pytest.param, marks=pytest.mark.slow)
SLIDING = "sliding_only"
CLEARLY_WRONG = 50 * FP32_TOLERANCE


def _nvfp4(fmt: str, **options: Any) -> Callable[[Path, Path], Path]:
    options = {"shared_scales": False, **options}
    return lambda src, out: nvfp4.quantize_checkpoint(src, out, fmt=fmt, **options)


@pytest.mark.parametrize(
    ("patch", "kind", "quantize", "flags", "prompt", "new"),
    [
        slow("exact_sliding_window", "dense", None, TRITON, 40, 3),
        slow("router_scale", "moe", None, (), 20, 4),
        slow("cpu_exact_kv_cache", "dense", _nvfp4("modelopt_w4a16", kv_scales=True), (), 20, 4),
    ],
)
def test_answers_are_wrong_without_the_patch(
    patch, kind, quantize, flags, prompt, new, checkpoint, tmp_path: Path
) -> None:
    path = checkpoint(kind)
    if quantize is None:
        reference = Reference(path)
    else:
        path = quantize(path, tmp_path / "nvfp4")
        reference = Reference(path.with_name("nvfp4_dq"))
    flags = ("--model-path", str(path), "--dtype", "float32", *flags)
    with serve(*flags, "--gemma4-ext-disable", patch, log_dir=tmp_path) as server:
        assert f"left out   {patch}" in server.log
        ids = prompt_ids(prompt)
        worst = reference.compare(ids, server.generate(ids, new)).worst
    assert worst > CLEARLY_WRONG or math.isinf(worst)


@pytest.mark.slow
def test_a_small_pool_is_read_out_of_bounds_without_cpu_torch_attention(
    checkpoint, tmp_path: Path
) -> None:
    """Give 700 full slots and 560 sliding ones; stock indexes the latter with the former."""
    path = checkpoint("dense")
    flags = ("--model-path", str(path), "--dtype", "float32", "--max-total-tokens", "700")
    prompts = [prompt_ids(length) for length in (300, 200, 120, 70)]
    reference = Reference(path)
    with serve(*flags, log_dir=tmp_path) as server:
        for prompt in prompts:
            reference.compare(prompt, server.generate(prompt, 40)).require_fp32(len(prompt))
    disable = ("--gemma4-ext-disable", "cpu_torch_attention")
    with serve(*flags, *disable, log_dir=tmp_path) as server:
        with pytest.raises(requests.exceptions.ConnectionError):
            _ = [server.generate(prompt, 40) for prompt in prompts]
        assert "IndexError" in server.log


@pytest.mark.parametrize(
    ("patch", "kind", "quantize", "reason"),
    [
        ("causal_lm_config", "causal", None, "AmbiguousGlobalPerLayerAttributeError"),
        slow("text_only", "dense", None, "Can't load feature extractor"),
        slow("nvfp4_modelopt", "dense", _nvfp4("modelopt"), "not supported for quantization"),
        slow("unified_without_ple", "unified", None, "embed_tokens_per_layer"),
        slow("cpu_softcap", "dense", None, "0 active drivers"),
        slow(
            "nvfp4_compressed_tensors",
            "dense",
            _nvfp4("ct_w4a16"),
            "not supported for quantization",
        ),
        slow(
            "ignored_layers",
            "dense",
            _nvfp4("ct_w4a16", quantize_attention=SLIDING),
            "different quantization schemes",
        ),
    ],
)
def test_the_server_does_not_start_without_the_patch(
    patch, kind, quantize, reason, checkpoint, tmp_path: Path
) -> None:
    path = checkpoint(kind)
    if quantize is not None:
        path = quantize(path, tmp_path / "nvfp4")
    ended = run_to_end(
        *("--model-path", str(path), "--dtype", "float32", "--port", str(free_port())),
        *("--gemma4-ext-disable", patch),
        cwd=tmp_path,
    )
    assert ended.returncode != 0
    assert "did not start" in ended.stdout.splitlines()[-1]
    assert reason in ended.stdout.splitlines()[-1], ended.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patch", "flags", "reason"),
    [
        (
            "context_ceiling",
            ("--context-length", "99999"),
            "context_length (99999) is greater than the derived context_length (",
        ),
        (
            "cpu_unified_memory",
            TRITON,
            "reached the unified memory pool (--enable-unified-memory), which has no platform seam",
        ),
    ],
)
def test_kv_memory_flags_are_refused_without_the_patch(patch, flags, reason, checkpoint, tmp_path):
    """Start the same server with the patch and without it."""
    flags = ("--model-path", str(checkpoint("dense")), "--dtype", "float32", *flags)
    with serve(*flags, log_dir=tmp_path) as server:
        assert "The server is fired up" in server.log
    ended = run_to_end(
        *(*flags, "--port", str(free_port()), "--gemma4-ext-disable", patch), cwd=tmp_path
    )
    assert ended.returncode != 0
    said = ended.stdout.splitlines()[-1]
    assert "did not start" in said and reason in said, said


@pytest.mark.slow
def test_kernels_run_before_a_servers_pools_are_made(checkpoint, tmp_path):
    """Cover what goes through Triton's interpreter; without a GPU the patch serves nothing else."""
    flags = ("--model-path", str(checkpoint("dense")), "--dtype", "float32", *TRITON)
    with serve(*flags, log_dir=tmp_path) as server:
        ran = re.search(r"Kernels before pools: (\d+) of (\d+) layer shapes and a", server.log)
        assert ran
        assert 0 < int(ran[1]) == int(ran[2])
        assert ran.start() < server.log.index("KV split: ")

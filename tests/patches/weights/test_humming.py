# SPDX-License-Identifier: Apache-2.0
"""Compare Humming's own kernels, as PTX in the emulator, with float64 on the checkpoint's tensors.

Weights go through the conversion that a server runs, and the launches are Humming's. Two things of
SGLang's runner need a GPU and are replaced: the sorting of slots, and the activation.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import gelu

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.kernels.nvfp4_grouped import sort_slots
from sglang_gemma4_ext.machine import Gpu
from sglang_gemma4_ext.patches.weights import _humming as humming
from sglang_gemma4_ext.patches.weights import _layers, _settle
from sglang_gemma4_ext.plan.padding import padded
from sglang_gemma4_ext.settings import Settings
from tests.kernels.int4_oracle import Int4, draw_int4
from tests.kernels.oracle import Weight, draw, error
from tests.ptx import toolkit
from tests.ptx.humming_gpu import Emulated, emulated

pytestmark = pytest.mark.skipif(bool(toolkit.missing()), reason=f"needs {toolkit.missing()}")
# A result is rounded to BF16 by each thread block that adds to it: once up to K = 1024, then up to
# three times. Experts round the activation and each slot as well.
LINEAR, EXPERTS = {"rms": 2.9e-3, "worst": 1.6e-2}, {"rms": 5e-3, "worst": 2.5e-2}
# What the emulator reports of every launch. Rows of tokens behind the last are not copied to shared
# memory, and their products are not stored. Warps of a block wait at one barrier from several
# places in the text, which PTX allows. A lock's place is set only where blocks share an output.
HARMLESS = {
    "uninitialised shared read",
    "threads at different barriers",
    "register perhaps read before it is written",
    "lock released by an ordinary store",
}
# Where four or more thread blocks share an output, each adds to it by compare-and-swap. The first
# guess at the old value is an ordinary load, which the swap then confirms.
GUESS = "ld.global.u32"
# For Hopper it multiplies activations that cp.async brought without the fence that PTX asks for.
HARMLESS_ON_HOPPER = HARMLESS | {"wgmma reads what no fence.proxy.async made visible"}

EXPERT_COUNT, TOP_K, HIDDEN = 6, 3, 192
slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def _sglang_knows_no_gpu() -> None:
    """Import SGLang's layers before a GPU is emulated: they would load its CUDA libraries."""
    import sglang.srt.layers.moe.fused_moe_triton  # noqa: F401


FORMATS = {
    "nvfp4": lambda *shape, seed=0: nvfp4(*shape, seed=seed),
    "int4-32": lambda *shape, seed=0: int4(*shape, seed=seed, group=32, zeros=False),
    "int4-64-zeros": lambda *shape, seed=0: int4(*shape, seed=seed, group=64),
    "int4-128": lambda *shape, seed=0: int4(*shape, seed=seed, group=128, zeros=False),
    "int4-row": lambda *shape, seed=0: int4(*shape, seed=seed, group=None, zeros=False),
}


def nvfp4(*shape: int, seed: int) -> tuple[humming.Stored, torch.Tensor]:
    weight = draw(*shape, seed=seed)
    weight = Weight(weight.packed, weight.block, weight.row[..., :1].expand_as(weight.row))
    return humming.Stored(weight.packed, weight.block, tensor=weight.row), weight.exact


def int4(*shape: int, **options) -> tuple[humming.Stored, torch.Tensor]:
    weight: Int4 = draw_int4(*shape, **options)
    return humming.Stored(weight.packed, weight.scale, zero=weight.zero), weight.exact


def clean(done: Emulated, sm: int) -> None:
    assert done.launched
    harmless = HARMLESS_ON_HOPPER if sm == 90 else HARMLESS
    guesses = done.findings.pop("global race", ())
    assert all(" read by " in f" {what}" and GUESS in what for what in guesses), guesses
    assert not {kind: what for kind, what in done.findings.items() if kind not in harmless}


def near(got: torch.Tensor, want: torch.Tensor, bound: dict[str, float]) -> None:
    found = error(got, want)
    assert found.rms <= bound["rms"] and found.worst <= bound["worst"], found


def tokens(count: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(5)).to(dtype)


# 192 rows and 704 columns end within a tile, as 2,112 and 704 of the 26B-A4B do.
@pytest.mark.parametrize("sm", [86, pytest.param(80, marks=slow), pytest.param(89, marks=slow)])
@pytest.mark.parametrize(
    ("form", "shape", "count"),
    [
        ("nvfp4", (192, 704), 1),
        ("nvfp4", (256, 1152), 17),
        ("int4-64-zeros", (192, 704), 5),
        pytest.param("int4-32", (256, 704), 1, marks=slow),
        pytest.param("int4-128", (256, 1152), 40, marks=slow),
        pytest.param("int4-row", (320, 704), 1, marks=slow),
        pytest.param("nvfp4", (1024, 2112), 130, marks=slow),
    ],
)
def test_a_linear_is_exact(form, shape, count, sm):
    stored, exact = FORMATS[form](*shape)
    assert humming.lacking(stored, torch.bfloat16) is None
    x = tokens(count, shape[1], torch.bfloat16)
    layer = SimpleNamespace(params_dtype=torch.bfloat16)
    with emulated(sm) as done:
        holder = humming.prepare(layer, {"": stored}, divmod(sm, 10))
        meta = holder.humming_metas[""]
        assert (meta.shape_n, meta.shape_k) == padded(*shape, divmod(sm, 10))
        got = humming.linear(holder, x, None)
    near(got, x.double() @ exact.T, LINEAR)
    assert not holder.locks.any()
    clean(done, sm)


@pytest.mark.parametrize("sm", [86, pytest.param(90, marks=slow)])
@pytest.mark.parametrize(
    ("form", "count", "hidden"),
    [
        ("nvfp4", 3, HIDDEN),
        pytest.param("int4-32", 1, HIDDEN, marks=slow),
        pytest.param("nvfp4", 40, HIDDEN, marks=slow),
        pytest.param("nvfp4", 3, 1152, marks=slow),  # thread blocks share an output
    ],
)
def test_experts_are_exact_and_their_gelu_is_tanh(form, count, hidden, sm, monkeypatch):
    layer, weights, exact = a_mixture(form, hidden)
    x, ids, shares = routed(count, hidden)
    _on_a_cpu(monkeypatch)
    with emulated(sm) as done:
        holder = humming.prepare(layer, weights, divmod(sm, 10))
        got = holder.runner._run_indexed_gemm(x, topk_weights=shares, topk_ids=ids)
    near(got, expected(x, ids, shares, *exact), EXPERTS)
    clean(done, sm)


def a_mixture(form: str, hidden: int = HIDDEN):
    """Return a layer, its two stored weights, and their exact values."""
    inner = 176 if form == "nvfp4" else 192
    w13, exact13 = FORMATS[form](EXPERT_COUNT, 2 * inner, hidden)
    w2, exact2 = FORMATS[form](EXPERT_COUNT, hidden, inner, seed=1)
    layer = SimpleNamespace(
        intermediate_size_per_partition=inner,
        hidden_size=hidden,
        params_dtype=torch.bfloat16,
        moe_runner_config=_config(EXPERT_COUNT, "gelu"),
    )
    return layer, {"w13": w13, "w2": w2}, (exact13, exact2)


def routed(count: int, hidden: int = HIDDEN) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw tokens, their experts, int32, and the experts' shares."""
    scores = torch.rand(count, EXPERT_COUNT, generator=torch.Generator().manual_seed(1))
    shares, ids = scores.topk(TOP_K, dim=-1)
    return tokens(count, hidden, torch.bfloat16), ids.int(), shares


def expected(x, ids, shares, exact13, exact2) -> torch.Tensor:
    """Compute the experts' result in float64, one slot after another."""
    want = torch.zeros(len(x), x.shape[1], dtype=torch.float64)
    for token in range(len(x)):
        for expert, share in zip(ids[token].tolist(), shares[token].double(), strict=True):
            gate, up = (exact13[expert] @ x[token].double()).chunk(2)
            want[token] += share * (exact2[expert] @ (gelu(gate, approximate="tanh") * up))
    return want


@pytest.mark.gpu
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("count", [1, 20, 300])
def test_humming_on_a_gpu(form, count):
    """Repeat the comparison with the kernels that Humming compiles for this GPU."""
    capability, shape = torch.cuda.get_device_capability(), (320, 1408)
    stored, exact = FORMATS[form](*shape)
    layer = SimpleNamespace(params_dtype=torch.bfloat16)
    holder = humming.prepare(layer, {"": on_the_gpu(stored)}, capability)
    x = tokens(count, shape[1], torch.bfloat16)
    near(humming.linear(holder, x.cuda(), None), x.double() @ exact.T, LINEAR)


@pytest.mark.gpu
@pytest.mark.parametrize("count", [1, 20, 300])
def test_experts_on_a_gpu(count):
    from sglang.srt.layers.moe.token_dispatcher import StandardDispatchOutput

    layer, weights, exact = a_mixture("nvfp4")
    on_gpu = {name: on_the_gpu(stored) for name, stored in weights.items()}
    holder = humming.prepare(layer, on_gpu, torch.cuda.get_device_capability())
    x, ids, shares = routed(count)
    routing = SimpleNamespace(topk_ids=ids.cuda(), topk_weights=shares.cuda())
    out = humming.experts(holder, StandardDispatchOutput(x.cuda(), None, routing))
    near(out.hidden_states, expected(x, ids, shares, *exact), EXPERTS)


def on_the_gpu(stored: humming.Stored) -> humming.Stored:
    tensors = (stored.packed, stored.scale, stored.tensor, stored.zero)
    return humming.Stored(*(tensor if tensor is None else tensor.cuda() for tensor in tensors))


def _config(experts: int, activation: str):
    from sglang.srt.layers.moe.moe_runner.base import MoeRunnerConfig

    return MoeRunnerConfig(num_experts=experts, num_local_experts=experts, activation=activation)


def _on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import sglang.srt.layers.activation as activations
    import sglang.srt.layers.moe.fused_moe_triton as sorting
    from sglang.srt.layers.moe.moe_runner import humming as runner

    def align(topk_ids, block_size, num_experts, ignore_invalid_expert):
        return sort_slots(topk_ids, block_size, num_experts)

    def activate(inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        gate, up = inputs.float().chunk(2, dim=-1)
        outputs.copy_(gelu(gate, approximate="tanh") * up)

    def add(inputs, topk_weights, outputs, **_) -> None:
        outputs.copy_((inputs.float() * topk_weights[..., None]).sum(1))

    monkeypatch.setattr(sorting, "moe_align_block_size", align)
    monkeypatch.setattr(activations, "gelu_tanh_and_mul", activate, raising=False)
    monkeypatch.setattr(runner, "moe_fused_mul_sum", add)


def test_what_humming_would_round_is_left_to_our_kernels():
    weight, _ = nvfp4(64, 64, seed=0)
    rows = weight.tensor.clone()
    rows[5] *= 2
    unequal = humming.Stored(weight.packed, weight.scale, tensor=rows)
    assert "several tensor scales" in humming.lacking(unequal, torch.bfloat16)
    assert "no torch.float32" in humming.lacking(weight, torch.float32)
    half, _ = int4(64, 64, group=32, zeros=False, dtype=torch.float16)
    assert "cannot hold" in humming.lacking(half, torch.bfloat16)
    assert humming.lacking(half, torch.float16) is None
    whole_rows, _ = int4(64, 64, group=None)
    assert "zero points of whole rows" in humming.lacking(whole_rows, torch.bfloat16)


@pytest.mark.parametrize("form", FORMATS)
def test_the_shapes_of_gemma_4_need_no_padding_below_hopper(form):
    """Take each linear and expert of the 26B-A4B and the 31B."""
    for rows, columns in ((1408, 2816), (2816, 704), (4224, 2816), (2816, 2112), (21504, 5376)):
        assert padded(rows, columns, (8, 6)) == (rows, columns)
    assert padded(1408, 2816, (9, 0)) == (1536, 2816)


A10G = Gpu("nvidia", "NVIDIA A10G", (8, 6))
NAMES = _layers.MODELOPT_WEIGHTS[1:]


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Set the settings of this process, which serves on an A10G."""

    def given(weights: str) -> None:
        monkeypatch.setattr(_layers, "here", lambda: Context(Settings(weights=weights), gpu=A10G))

    _settle._say_once.cache_clear()
    return given


def loaded(experts: int = 2, inner: int = 64, hidden: int = 128, activation: str = "gelu"):
    """Make a FusedMoE as it is after loading NVFP4."""
    from sglang.srt.layers.moe.fused_moe_triton import FusedMoE

    layer = FusedMoE.__new__(FusedMoE)
    torch.nn.Module.__init__(layer)
    layer.intermediate_size_per_partition, layer.hidden_size = inner, hidden
    layer.params_dtype, layer.gemma4_fused = torch.bfloat16, True
    layer.moe_runner_config = _config(experts, activation)
    for names, rows, columns in zip(NAMES, (2 * inner, hidden), (hidden, inner), strict=True):
        stored, _ = nvfp4(experts, rows, columns, seed=0)
        layer.register_buffer(names.packed, stored.packed)
        layer.register_buffer(names.block, stored.scale)
        layer.register_buffer(names.rows, stored.tensor.clone())
    return layer


def test_by_default_humming_takes_the_experts_that_marlin_refuses(on_a_gpu, caplog):
    on_a_gpu("auto")
    caplog.set_level("INFO", _settle.logger.name)
    with emulated(86):
        for _ in range(2):
            layer = loaded()
            _settle.nvfp4(layer, *NAMES)
    assert layer.gemma4_humming is not None and not layer.gemma4_fused
    assert not any(hasattr(layer, name.packed) for name in NAMES)
    (line,) = caplog.messages
    assert line.startswith("4-bit weights: Humming for experts of 128 x 128: Marlin has no gelu")


@pytest.mark.parametrize(("weights", "activation"), [("auto", "silu"), ("fused", "gelu")])
def test_other_experts_keep_their_tensors(on_a_gpu, weights, activation):
    on_a_gpu(weights)
    layer = loaded(activation=activation)
    _settle.nvfp4(layer, *NAMES)
    assert layer.gemma4_humming is None and hasattr(layer, NAMES[0].packed)


def test_what_humming_would_round_says_so_once(on_a_gpu, caplog):
    on_a_gpu("auto")
    caplog.set_level("INFO", _settle.logger.name)
    layer = loaded()
    getattr(layer, NAMES[0].rows)[1, 3] *= 2
    _settle.nvfp4(layer, *NAMES)
    assert layer.gemma4_humming is None and layer.gemma4_fused
    (line,) = caplog.messages
    assert line.endswith(
        "our kernels for experts of 128 x 128: its rows have several tensor scales"
    )


def test_a_compiler_that_fails_leaves_the_layer_to_our_kernels(on_a_gpu, caplog, monkeypatch):
    def fails(*_):
        raise RuntimeError("no cuda_runtime.h")

    monkeypatch.setattr(humming, "_compile", fails)
    caplog.set_level("INFO", _settle.logger.name)
    layer = loaded()
    with emulated(86):
        on_a_gpu("auto")
        _settle.nvfp4(layer, *NAMES)
        assert layer.gemma4_humming is None and hasattr(layer, NAMES[0].packed)
        assert "could not be prepared (no cuda_runtime.h)" in caplog.messages[0]
        on_a_gpu("humming")
        with pytest.raises(ValueError, match=r"no cuda_runtime\.h.*leave the flag out"):
            _settle.nvfp4(layer, *NAMES)

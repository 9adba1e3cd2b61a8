# SPDX-License-Identifier: Apache-2.0
"""Check that a draft backend's record of its pool's kind follows the pool and is restored."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
from sglang.srt.layers.attention.hybrid_attn_backend import HybridAttnBackend
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.layers.attention.triton_backend import TritonAttnBackend
from sglang.srt.mem_cache.swa_memory_pool import SWAKVPool
from sglang.srt.speculative import frozen_kv_mtp_utils as utils

from sglang_gemma4_ext.patches.drafts import swa_state_follows_pool as patch
from tests.patches.hooks import hook_of

ATTENTION = "sglang.srt.layers.attention"
# These constructors need their vendor's kernels: sgl_kernel, which needs libcuda at import, or AMX
# operators. Their sources are read instead. tests/serving/test_mtp.py runs the FlashAttention
# backend
# on a kernel in PyTorch.
NOT_CONSTRUCTED = {
    "FlashAttentionBackend": f"{ATTENTION}.flashattention_backend",
    "XPUAttentionBackend": f"{ATTENTION}.xpu_backend",
    "IntelAMXAttnBackend": f"{ATTENTION}.intel_amx_backend",
}
RESOLVES_AT_CONSTRUCTION = {
    "TRTLLMHAAttnBackend": f"{ATTENTION}.trtllm_mha_backend",
    "FlashInferAttnBackend": f"{ATTENTION}.flashinfer_backend",
    "AiterAttnBackend": f"{ATTENTION}.aiter_backend",
}


def swa_pool(layers: int = 1) -> SWAKVPool:
    pool = object.__new__(SWAKVPool)
    pool.swa_layer_nums = layers
    return pool


def torch_native(pool: object) -> TorchNativeAttnBackend:
    """Call SGLang's own constructor, which records the kind of the pool."""
    return TorchNativeAttnBackend(
        SimpleNamespace(device="cpu", req_to_token_pool=None, token_to_kv_pool=pool)
    )


def context(pool: object) -> SimpleNamespace:
    return SimpleNamespace(target_token_to_kv_pool=pool)


VIEWS = pytest.mark.parametrize("name", ["frozen_kv_target_view", "target_kv_pool_view"])


def view(name: str, backend: object, kv_context: object):
    original = getattr(utils, name)
    around = hook_of(patch.PATCH, "around", name)
    return around(original, SimpleNamespace(spec_info="kept"), kv_context, backend)


@VIEWS
def test_the_recorded_kind_follows_the_pool_and_is_restored(name):
    own, target = object(), swa_pool()
    backend = torch_native(own)
    assert backend.use_sliding_window_kv_pool is False
    with view(name, backend, context(target)):
        assert backend.token_to_kv_pool is target
        assert backend.use_sliding_window_kv_pool is True
    assert backend.token_to_kv_pool is own
    assert backend.use_sliding_window_kv_pool is False


@VIEWS
def test_it_is_restored_after_an_exception(name):
    own = object()
    backend = torch_native(own)
    with pytest.raises(ZeroDivisionError), view(name, backend, context(swa_pool())):
        raise ZeroDivisionError
    assert (backend.token_to_kv_pool, backend.use_sliding_window_kv_pool) == (own, False)


@VIEWS
@pytest.mark.parametrize("target", [object(), swa_pool(layers=0)], ids=["no SWA", "no SWA layer"])
def test_a_target_without_sliding_layers_turns_the_kind_off(name, target):
    """Include a backend whose own pool has sliding layers."""
    for own, noted in ((object(), False), (swa_pool(), True)):
        backend = torch_native(own)
        with view(name, backend, context(target)):
            assert backend.use_sliding_window_kv_pool is False
        assert backend.use_sliding_window_kv_pool is noted


@VIEWS
def test_an_unbound_context_is_refused_as_by_sglang(name):
    backend = torch_native(object())
    with pytest.raises(RuntimeError, match="bind the frozen KV context"):
        view(name, backend, None).__enter__()
    assert backend.use_sliding_window_kv_pool is False


def test_contexts_nest():
    own, target = object(), swa_pool()
    backend = torch_native(own)
    with view("target_kv_pool_view", backend, context(target)):
        with view("frozen_kv_target_view", backend, context(target)):
            pass
        assert backend.token_to_kv_pool is target
        assert backend.use_sliding_window_kv_pool is True
    assert backend.token_to_kv_pool is own


def test_both_halves_of_a_hybrid_backend_read_the_target():
    own, target = object(), swa_pool()
    halves = torch_native(own), object.__new__(TritonAttnBackend)
    halves[1].token_to_kv_pool, halves[1].use_sliding_window_kv_pool = own, False
    hybrid = object.__new__(HybridAttnBackend)
    hybrid.token_to_kv_pool = own
    hybrid.prefill_backend, hybrid.decode_backend = halves
    with view("target_kv_pool_view", hybrid, context(target)):
        assert all(part.token_to_kv_pool is target for part in (hybrid, *halves))
        assert halves[0].use_sliding_window_kv_pool is True
        # Triton reads the pool itself. Its recorded kind concerns writes, and a draft
        # writes nothing.
        assert halves[1].use_sliding_window_kv_pool is False
    assert all(part.token_to_kv_pool is own for part in (hybrid, *halves))


def test_graphs_are_allocated_and_captured_with_the_changed_kind():
    own, target = object(), swa_pool()
    backend, seen = torch_native(own), []

    def init(self, worker):
        seen.append((backend.token_to_kv_pool, backend.use_sliding_window_kv_pool))
        raise ZeroDivisionError

    worker = SimpleNamespace(draft_attn_backend=backend, kv_context=context(target))
    with pytest.raises(ZeroDivisionError):
        hook_of(patch.PATCH, "around", "__init__")(init, object(), worker)
    assert seen == [(target, True)]
    assert (backend.token_to_kv_pool, backend.use_sliding_window_kv_pool) == (own, False)


def test_an_eagle_draft_keeps_its_own_pool():
    """Hook nothing that an EAGLE draft runs.

    An EAGLE draft shares the target's allocator but owns a pool without sliding layers (27491,
    29616). What its backend records at construction is right. Therefore neither a backend's
    constructor nor a function that its workers call is hooked.
    """
    for hook in patch.PATCH.hooks:
        assert hook.target.startswith("sglang.srt.speculative.frozen_kv_mtp_"), hook.target
    views = {"frozen_kv_target_view", "target_kv_pool_view"}
    callers = {
        file.name
        for file in Path(utils.__file__).parents[1].rglob("*.py")
        if views & set(_names(file.read_text()))
    }
    assert callers == {"frozen_kv_mtp_worker_v2.py"}
    runner = SimpleNamespace(
        device="cpu",
        req_to_token_pool=None,
        token_to_kv_pool=object(),
        token_to_kv_pool_allocator=SimpleNamespace(get_kvcache=swa_pool),
    )
    assert TorchNativeAttnBackend(runner).use_sliding_window_kv_pool is False


@pytest.mark.parametrize(("name", "module"), NOT_CONSTRUCTED.items(), ids=list(NOT_CONSTRUCTED))
def test_each_backend_reads_the_recorded_kind_when_it_runs(name, module):
    """Check the source: assigned once, in the constructor; read as an attribute afterwards."""
    assert name in patch.RECORDS_ITS_POOL
    (cls,) = (n for n in ast.walk(_tree(module)) if isinstance(n, ast.ClassDef) and n.name == name)
    writes = [_method(cls, node) for node in _uses(cls, ast.Store)]
    assert writes == ["__init__"]
    assert {_method(cls, node) for node in _uses(cls, ast.Load)} - {"__init__"}


@pytest.mark.parametrize(
    ("name", "module"), RESOLVES_AT_CONSTRUCTION.items(), ids=list(RESOLVES_AT_CONSTRUCTION)
)
def test_a_backend_without_the_fault_is_left_alone(name, module):
    assert name not in patch.RECORDS_ITS_POOL
    (cls,) = (n for n in ast.walk(_tree(module)) if isinstance(n, ast.ClassDef) and n.name == name)
    resolver = next(n for n in ast.walk(cls) if getattr(n, "name", "") == "_resolve_swa_kv_pool")
    assert "is_frozen_kv_mtp" in ast.unparse(resolver)
    bases = {ast.unparse(base) for base in cls.bases}
    assert not bases & patch.RECORDS_ITS_POOL


def _tree(module: str) -> ast.Module:
    return ast.parse(Path(importlib.util.find_spec(module).origin).read_text())


def _uses(cls: ast.ClassDef, context: type) -> list[ast.Attribute]:
    return [
        node
        for node in ast.walk(cls)
        if isinstance(node, ast.Attribute)
        and node.attr == "use_sliding_window_kv_pool"
        and isinstance(node.ctx, context)
    ]


def _method(cls: ast.ClassDef, node: ast.AST) -> str:
    owners = (f for f in cls.body if isinstance(f, ast.FunctionDef))
    return next(f.name for f in owners if f.lineno <= node.lineno <= f.end_lineno)


def _names(source: str) -> list[str]:
    return [node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)]

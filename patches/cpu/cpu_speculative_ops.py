# SPDX-License-Identifier: Apache-2.0
"""Build and verify draft trees on the CPU reference by SGLang's own Triton kernels.

The kernels run in Triton's interpreter. SGLang has a tree kernel for each device that it knows, and
Triton versions behind its XPU branch. It refuses an out-of-tree device at the first draft. Cache
slots have a seam (CpuReferencePlatform.get_speculative_cache_locs_fn); the tree has none. Sampling
from a tree has no Triton version, so kernels/tree_sampling.py does it in PyTorch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.registry import Hook, Patch, Source

TREE = "sglang.kernels.ops.speculative.spec_tree"
WORKER = "sglang.srt.speculative.frozen_kv_mtp_worker_v2.FrozenKVMTPDraftWorker"
UTILS = "sglang.srt.speculative.spec_utils"


def _build_tree(*args: Any, **kwargs: Any) -> None:
    """REPLACE build_tree_kernel_efficient_func, which has the same arguments."""
    from sglang.kernels.ops.speculative.spec_tree import sgl_build_tree_kernel_triton

    sgl_build_tree_kernel_triton(*args, **kwargs)


def _verify_tree_greedy(*args: Any, topk: int = -1, **outputs_and_tree: Any) -> tuple[Any, ...]:
    """REPLACE verify_tree_greedy_func: (predicts, accept_index, accept_token_num), filled."""
    from sglang.kernels.ops.speculative.spec_tree import verify_tree_greedy_triton

    verify_tree_greedy_triton(*args, **outputs_and_tree)
    names = ("predicts", "accept_index", "accept_token_num")
    return tuple(outputs_and_tree.get(name, *args[i : i + 1]) for i, name in enumerate(names))


def _select_top_k_tokens(*args: Any, **kwargs: Any) -> Any:
    """REPLACE _select_top_k_tokens_later by its eager form; torch.compile needs a C++ compiler."""
    from sglang.srt.speculative import spec_utils

    compiled = inspect.unwrap(spec_utils._select_top_k_tokens_later, stop=_is_compiled)
    return compiled._torchdynamo_orig_callable(*args, **kwargs)


def _provide_sampling(*args: Any, **kwargs: Any) -> None:
    """BEFORE eagle_sample: fill in the functions that its module lacks without a GPU."""
    from sglang.srt.speculative import eagle_utils

    from sglang_gemma4_ext.kernels import tree_sampling

    eagle_utils.tree_speculative_sampling_target_only = tree_sampling.sample_tree
    eagle_utils.top_k_renorm_prob = tree_sampling.top_k_renorm
    eagle_utils.top_p_renorm_prob = tree_sampling.top_p_renorm


def _draft_backend(original: Callable[..., Any], self: Any) -> Any:
    """AROUND _init_draft_attn_backend, whose two backends for top-k > 1 need a GPU."""
    if self._resolve_draft_backend_type() == "torch_native":
        return self.draft_model_runner.attn_backend
    return original(self)


def _is_compiled(function: Any) -> bool:
    return hasattr(function, "_torchdynamo_orig_callable")


def _stands_down(ctx: Context) -> str | None:
    return None if ctx.settings.cpu else "a GPU has its own tree kernels"


def _retired() -> bool:
    from sglang.kernels.ops.speculative import spec_tree

    source = inspect.getsource(inspect.unwrap(spec_tree.build_tree_kernel_efficient_func))
    return "is_out_of_tree" in source


PATCH = Patch(
    name="cpu_speculative_ops",
    theme="cpu",
    summary="CPU reference: draft trees are built and verified by SGLang's Triton kernels",
    why="spec_tree picks a kernel by device names and refuses an out-of-tree one; the platform "
    "has a seam for cache slots only",
    upstream="unreported",
    retire_when="spec_tree asks an out-of-tree platform for its tree kernels",
    retired=_retired,
    hooks=(
        Hook(f"{TREE}.build_tree_kernel_efficient_func", "b137949fdf7e", "replace", _build_tree),
        Hook(f"{TREE}.verify_tree_greedy_func", "dae05d6e8dcf", "replace", _verify_tree_greedy),
        Hook(
            f"{UTILS}._select_top_k_tokens_later", "6c0fe36796e0", "replace", _select_top_k_tokens
        ),
        Hook(
            "sglang.srt.speculative.eagle_utils.eagle_sample",
            "b497c62acadc",
            "before",
            _provide_sampling,
        ),
        Hook(f"{WORKER}._init_draft_attn_backend", "e860890985f3", "around", _draft_backend),
    ),
    relies_on=(
        Source(f"{TREE}.sgl_build_tree_kernel_triton", "d04e3cf2a9fc"),
        Source(f"{TREE}.verify_tree_greedy_triton", "088f4ecf42ee"),
    ),
    stands_down=_stands_down,
)

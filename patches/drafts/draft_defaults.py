# SPDX-License-Identifier: Apache-2.0
"""Complete the speculative flags where --speculative-draft-model-path names a Gemma 4 assistant.

SGLang wants the algorithm named, and fills in steps and draft tokens for EAGLE only. A frozen-KV
draft without them fails in its worker. The default is a chain of three steps, which SGLang's own
figures for Gemma 4 were measured with. Flags that the user gives stay.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from sglang_gemma4_ext.checkpoint.assistant_fit import check_fit
from sglang_gemma4_ext.checkpoint.model_family import DRAFT_ARCHITECTURES, read_model_info
from sglang_gemma4_ext.registry import Hook, Patch, Source

ARGUMENTS = "sglang.srt.arg_groups.speculative_hook"
STEPS = 3
# For a tree, which --speculative-eagle-topk asks for.
MAX_TREE_TOKENS = 8


def _algorithm(
    original: Callable[..., str | None],
    speculative_algorithm: str | None,
    speculative_draft_model_path: str | None,
    *args: Any,
    **kwargs: Any,
) -> str | None:
    """AROUND _resolve_speculative_algorithm_alias, which makes NEXTN a frozen-KV draft."""
    if speculative_algorithm is None and _is_assistant(speculative_draft_model_path):
        speculative_algorithm = "NEXTN"
    return original(speculative_algorithm, speculative_draft_model_path, *args, **kwargs)


def _is_assistant(path: str | None) -> bool:
    info = read_model_info(path) if path is not None else None
    return info is not None and info.architecture in DRAFT_ARCHITECTURES


def _complete(result: None, server_args: Any) -> None:
    """AFTER _handle_frozen_kv_mtp: fill in open flags. Raises CheckpointError on a misfit."""
    from sglang.srt.arg_groups.overrides import declare_resolution, resolving_view

    cfg = resolving_view(server_args)
    target = read_model_info(cfg.model_path, cfg.revision)
    draft = read_model_info(cfg.speculative_draft_model_path, cfg.speculative_draft_model_revision)
    if target is not None and draft is not None:
        check_fit(target, draft)
    steps, topk, tokens = draft_shape(
        cfg.speculative_num_steps, cfg.speculative_eagle_topk, cfg.speculative_num_draft_tokens
    )
    declare_resolution(
        server_args,
        "gemma4_ext.draft_defaults",
        speculative_num_steps=steps,
        speculative_eagle_topk=topk,
        speculative_num_draft_tokens=tokens,
    )


def draft_shape(steps: int | None, topk: int | None, tokens: int | None) -> tuple[int, int, int]:
    """Return (steps, top-k, tokens to verify) from the flags that the user gave.

    The tokens to verify include the newest one. A chain verifies one token a step beside it; a tree
    verifies no more tokens than it has.
    """
    topk = topk or 1
    if steps is None:
        steps = tokens - 1 if tokens is not None and topk == 1 else STEPS
    if topk == 1:
        return steps, 1, steps + 1
    most = topk + (steps - 1) * topk * topk + 1
    return steps, topk, min(tokens or MAX_TREE_TOKENS, most)


def _retired() -> bool:
    from sglang.srt.arg_groups import speculative_hook

    source = inspect.getsource(inspect.unwrap(speculative_hook._handle_frozen_kv_mtp))
    return "speculative_num_steps" in source


PATCH = Patch(
    name="draft_defaults",
    theme="drafts",
    summary="--speculative-draft-model-path alone serves with an MTP assistant",
    why="SGLang completes the speculative flags for EAGLE only; a default of ours on the command "
    "line would not reach `sglang serve`",
    upstream="unreported",
    retire_when="_handle_frozen_kv_mtp chooses steps and draft tokens",
    retired=_retired,
    hooks=(
        Hook(
            f"{ARGUMENTS}._resolve_speculative_algorithm_alias",
            "32a3d47bbf75",
            "around",
            _algorithm,
        ),
        Hook(f"{ARGUMENTS}._handle_frozen_kv_mtp", "7b0aa090be25", "after", _complete),
    ),
    relies_on=(Source(f"{ARGUMENTS}.handle_speculative_decoding", "c129a26ca720"),),
)

# SPDX-License-Identifier: Apache-2.0
"""Check the checkpoints of a server before it starts, under both commands."""

from __future__ import annotations

from dataclasses import dataclass

from sglang_gemma4_ext.checkpoint.adapters import check_adapter
from sglang_gemma4_ext.checkpoint.assistant_fit import check_fit
from sglang_gemma4_ext.checkpoint.files import CheckpointError
from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.checkpoint.preflight import check_checkpoint

DRAFT_FLAG = "--speculative-draft-model-path"
# Values of --load-format with which SGLang reads a checkpoint's safetensors files by name.
_BY_NAME = (
    "auto", "safetensors", "fastsafetensors", "instanttensor", "layered", "bitsandbytes",
    "runai_streamer",
)  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """Hold what a server loads: paths or hub names, and how.

    load_format: SGLang's --load-format, None if it was not given
    adapters: paths or hub names of LoRA adapters
    embeddings: whether the server is to answer with embeddings instead of text
    own_tokenizer: whether the tokenizer is read from the target's folder
    """

    target: str
    draft: str | None = None
    revision: str | None = None
    draft_revision: str | None = None
    load_format: str | None = None
    own_tokenizer: bool = True
    adapters: tuple[str, ...] = ()
    embeddings: bool = False


def check_inputs(inputs: Inputs) -> ModelInfo | None:
    """Check both checkpoints and that they belong together; return the target's config.

    Raises CheckpointError with one sentence.
    """
    weights = (inputs.load_format or "auto") in _BY_NAME
    target = check_checkpoint(
        inputs.target, weights=weights, tokenizer=inputs.own_tokenizer, revision=inputs.revision
    )
    if target is not None and target.is_gemma4:
        for adapter in inputs.adapters:
            check_adapter(adapter, target)
        if inputs.adapters and inputs.draft is not None:
            raise CheckpointError(
                f"--lora-paths and {DRAFT_FLAG} exclude each other: SGLang applies no adapter "
                "where it verifies Gemma 4's MTP drafts; leave one of them out"
            )
    if inputs.embeddings and target is not None and target.is_gemma4:
        raise CheckpointError(
            f"--is-embedding does not fit {target.path}: SGLang's Gemma 4 has no pooling, and its "
            "first request would end the server; leave the flag out, or serve an embedding model"
        )
    if inputs.draft is not None:
        draft = check_checkpoint(
            inputs.draft, flag=DRAFT_FLAG, weights=weights, tokenizer=False,
            revision=inputs.draft_revision,
        )  # fmt: skip
        if target is not None and draft is not None:
            check_fit(target, draft)
    return target

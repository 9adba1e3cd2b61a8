# SPDX-License-Identifier: Apache-2.0
"""Write the demo's checkpoints: BF16 as trained, NVFP4 by nvidia-modelopt, the assistant's."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
import transformers

from sglang_gemma4_ext.demo.training import tokenizer
from sglang_gemma4_ext.demo.training.tokenizer import BOS, ENDS, PAD, TURN


def _configure(model: transformers.Gemma4ForConditionalGeneration) -> None:
    model.config.architectures = [type(model).__name__]  # modelopt's exporter asks for it
    model.generation_config.bos_token_id = BOS
    model.generation_config.eos_token_id = list(ENDS)
    model.generation_config.pad_token_id = PAD


def bf16(model: transformers.Gemma4ForConditionalGeneration, out: Path) -> None:
    """Round the trained weights to BF16, as transformers saves them."""
    rounded = copy.deepcopy(model).to(torch.bfloat16).eval()
    _configure(rounded)
    rounded.save_pretrained(out)
    tokenizer.build().save_pretrained(out)


def nvfp4(source: Path, out: Path) -> None:
    """Quantize only the BF16 checkpoint's weights (W4A16_NVFP4); this needs the `test` extra."""
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint

    model = transformers.Gemma4ForConditionalGeneration.from_pretrained(source).eval()
    _configure(model)
    mtq.quantize(model, mtq.W4A16_NVFP4_CFG, lambda m: m(input_ids=torch.tensor([[BOS, TURN]])))
    with torch.inference_mode():
        export_hf_checkpoint(model, export_dir=out)
    tokenizer.build().save_pretrained(out)


def assistant(model: transformers.Gemma4AssistantForCausalLM, out: Path) -> None:
    """Write it in BF16: it is small, and a wrong draft costs more than its bytes."""
    model = copy.deepcopy(model).to(torch.bfloat16).eval()
    model.generation_config.num_assistant_tokens = 3
    model.save_pretrained(out)

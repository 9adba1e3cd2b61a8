# SPDX-License-Identifier: Apache-2.0
"""Build tiny random Gemma 4 checkpoints with transformers: `python -m bench.checkpoints.tiny`.

Transformers' initialization would test little: every norm and scale is one, all experts are alike
and all logits nearly equal. Therefore every tensor is drawn again, seeded. Norms and scales differ
from one, projections have 1/sqrt(fan-in), and logits spread over about +-4. Query and key norms are
small, so that a relative error grows a few times through the layers, not thousandfold.

Special tokens have embeddings a hundredth as large, so their logits never win. Greedy output always
runs to its length limit and never holds an image placeholder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from bench.checkpoints.tokenizer import (
    CHAT_TEMPLATE,
    MAX_LENGTH,
    SPECIAL_TOKENS,
    TOKEN_ID,
    VOCAB,
    tokenizer,
)

WINDOW = 32
_DENSE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "vocab_size_per_layer_input": VOCAB,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 6,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_global_key_value_heads": 1,
    "head_dim": 32,
    "global_head_dim": 64,
    "attention_k_eq_v": True,
    "sliding_window": WINDOW,
    "hidden_size_per_layer_input": 0,
    "max_position_embeddings": MAX_LENGTH,
    "final_logit_softcapping": 30.0,
    "use_bidirectional_attention": "vision",
    "pad_token_id": TOKEN_ID["<pad>"],
    "eos_token_id": TOKEN_ID["<eos>"],
    "bos_token_id": TOKEN_ID["<bos>"],
}
_MOE = {
    "enable_moe_block": True,
    "num_experts": 8,
    "top_k_experts": 2,
    "moe_intermediate_size": 64,
}
_E2B = {
    "num_hidden_layers": 8,
    "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 2,
    "num_kv_shared_layers": 4,
    "use_double_wide_mlp": True,
    "hidden_size_per_layer_input": 32,
    "num_key_value_heads": 1,
    "num_global_key_value_heads": None,
    "attention_k_eq_v": False,
    "use_bidirectional_attention": None,
}
_TEXT: dict[str, dict[str, Any]] = {
    "dense": {},
    "moe": _MOE,
    "unified": {},
    "e2b": _E2B,
    "causal": {},
    "dense_with_towers": {},
    "no_softcap": {"final_logit_softcapping": None},
}
KINDS = tuple(_TEXT)
_PLACEHOLDERS = {
    "boi_token_id": TOKEN_ID["<|image>"],
    "image_token_id": TOKEN_ID["<|image|>"],
    "eoi_token_id": TOKEN_ID["<image|>"],
    "boa_token_id": TOKEN_ID["<|audio>"],
    "audio_token_id": TOKEN_ID["<|audio|>"],
    "eoa_token_index": TOKEN_ID["<audio|>"],
    "video_token_id": TOKEN_ID["<|video|>"],
}


def build(
    kind: str,
    out: Path,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    text: Mapping[str, Any] | None = None,
) -> Path:
    """Write the checkpoint, its tokenizer and chat template into `out`, and return `out`.

    kind: one of KINDS. `unified` is as the 12B; `e2b` has per-layer embeddings, KV-shared layers
        and a double-wide MLP. `dense_with_towers` has small towers and a processor; the others have
        null towers. `causal` is saved as Gemma4ForCausalLM, with its config in the form of
        transformers 5.19 (`per_layer_config`); the others have the hub's form.
    text: text-config fields that differ from the kind's own, such as sliding_window
    Raises ValueError on another kind.
    """
    if kind not in _TEXT:
        raise ValueError(f"{kind!r} is not one of {', '.join(KINDS)}")
    out = Path(out)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _model(kind, {**_DENSE, **_TEXT[kind], **(text or {})}).to(dtype)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in sorted(model.state_dict().items()):
            values = values_of(name, tensor, draw)
            if values is not None:
                tensor.copy_(values)
    model.generation_config.bos_token_id = TOKEN_ID["<bos>"]
    model.generation_config.pad_token_id = TOKEN_ID["<pad>"]
    model.generation_config.eos_token_id = [TOKEN_ID["<eos>"], TOKEN_ID["<turn|>"]]
    model.save_pretrained(out)
    if kind != "causal":
        use_hub_config_form(out / "config.json")
    if kind == "dense_with_towers":
        processor().save_pretrained(out)
    else:
        tokenizer().save_pretrained(out)
    return out


def use_hub_config_form(path: Path) -> None:
    """State the full layers' shape as Google's checkpoints do, not as transformers saves it."""
    config = json.loads(path.read_text())
    text = config["text_config"]
    full = next(iter(text.pop("per_layer_config").values()))
    text["global_head_dim"] = full["head_dim"]
    text["num_global_key_value_heads"] = full.get("num_key_value_heads")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _model(kind: str, text: dict[str, Any]) -> transformers.PreTrainedModel:
    if kind == "causal":
        return transformers.Gemma4ForCausalLM(transformers.Gemma4TextConfig(**text))
    if kind == "unified":
        for absent in ("vocab_size_per_layer_input", "hidden_size_per_layer_input"):
            del text[absent]
        config = transformers.Gemma4UnifiedConfig(
            text_config=text, vision_config=None, audio_config=None, **_PLACEHOLDERS
        )
        return transformers.Gemma4UnifiedForConditionalGeneration(config)
    both = {"vision_config": None, "audio_config": None}
    if kind == "dense_with_towers":
        both = towers()
    config = transformers.Gemma4Config(text_config=text, **both, **_PLACEHOLDERS)
    return transformers.Gemma4ForConditionalGeneration(config)


def towers() -> dict[str, dict[str, Any]]:
    """Return small towers in the form of config.json."""
    return {
        "vision_config": {
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32,
            "patch_size": 4, "pooling_kernel_size": 3, "position_embedding_size": 256,
        },
        "audio_config": {
            "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
            "subsampling_conv_channels": [128, 8], "output_proj_dims": 64,
        },
    }  # fmt: skip


def processor() -> transformers.Gemma4Processor:
    """Return the processor that belongs to `towers`, with its tokenizer."""
    vision = towers()["vision_config"]
    frames = {key: vision[key] for key in ("patch_size", "pooling_kernel_size")}
    return transformers.Gemma4Processor(
        feature_extractor=transformers.Gemma4AudioFeatureExtractor(),
        image_processor=transformers.Gemma4ImageProcessor(max_soft_tokens=70, **frames),
        video_processor=transformers.Gemma4VideoProcessor(max_soft_tokens=70, **frames),
        tokenizer=tokenizer(),
        chat_template=CHAT_TEMPLATE,
        image_seq_length=70,
    )


def values_of(name: str, tensor: torch.Tensor, draw: torch.Generator) -> torch.Tensor | None:
    """Draw a tensor's values; None leaves it as initialized (audio buffers, biases)."""

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(tensor.shape, generator=draw)

    def normal(std: float) -> torch.Tensor:
        return std * torch.randn(tensor.shape, generator=draw)

    if name.endswith("layer_scalar"):
        return uniform(0.7, 1.0)
    if name.endswith("router.scale"):
        return uniform(0.5, 2.0)
    if name.endswith("per_expert_scale"):
        return uniform(0.5, 1.5)
    if name.endswith(("model.norm.weight", "language_model.norm.weight")):
        return uniform(2.0, 6.0)
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        return uniform(0.3, 0.7)
    if "norm" in name and name.endswith("weight"):
        return uniform(0.5, 1.5)
    if name.endswith(("embed_tokens.weight", "lm_head.weight")):
        draw = torch.Generator().manual_seed(draw.initial_seed() + 1)
        embedding = normal(0.02)
        embedding[: len(SPECIAL_TOKENS)] *= 0.01
        return embedding
    if name.endswith("embed_tokens_per_layer.weight"):
        return normal(0.3)
    if name.endswith("router.proj.weight"):
        return normal(2.0)
    if name.endswith(("weight", "_proj", "position_embedding_table")) and tensor.dim() > 1:
        fan_in = tensor[0].numel() if name.endswith("weight") else tensor.shape[-1]
        return normal(fan_in**-0.5)
    return None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(build(arguments.kind, arguments.out, seed=arguments.seed))

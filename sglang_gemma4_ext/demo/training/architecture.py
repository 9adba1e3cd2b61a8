# SPDX-License-Identifier: Apache-2.0
"""Build the demo's architecture, a small copy of the 26B-A4B's, with its initial weights."""

from __future__ import annotations

import math

import torch
import transformers

from sglang_gemma4_ext.demo.training.tokenizer import (
    AUDIO,
    BOS,
    EOS,
    IMAGE,
    PAD,
    vocabulary_size,
)

WINDOW = 48
OPTIONS_TOKENS = 10  # from a question's last token to the colon of its "Answer:"


def text_config() -> transformers.Gemma4TextConfig:
    """Configure the text model: K = V on full layers, soft-cap, two full layers, small dense MLPs.

    A distant fact needs two full layers. Small dense MLPs leave most memorised facts to the
    experts.
    """
    return transformers.Gemma4TextConfig(
        vocab_size=vocabulary_size(),
        vocab_size_per_layer_input=vocabulary_size(),
        hidden_size=128,
        intermediate_size=32,
        num_hidden_layers=6,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_global_key_value_heads=1,
        head_dim=32,
        global_head_dim=128,
        attention_k_eq_v=True,
        sliding_window=WINDOW,
        hidden_size_per_layer_input=0,
        enable_moe_block=True,
        num_experts=8,
        top_k_experts=2,
        moe_intermediate_size=64,
        max_position_embeddings=2048,
        final_logit_softcapping=30.0,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=BOS,
    )


def build(seed: int) -> transformers.Gemma4ForConditionalGeneration:
    """Build the untrained model in fp32.

    Gemma 4's attention has no 1/sqrt(head_dim), so the q and k norms start with that scale. The
    router's scales start up to a factor of four from 1, half of them negative. A server that
    ignores them chooses other experts, which tests detect.
    """
    torch.manual_seed(seed)
    config = transformers.Gemma4Config(
        text_config=text_config(), vision_config=None, audio_config=None,
        image_token_id=IMAGE, audio_token_id=AUDIO, video_token_id=IMAGE,
        boi_token_id=IMAGE, eoi_token_id=IMAGE, boa_token_id=AUDIO, eoa_token_index=AUDIO,
    )  # fmt: skip
    for part in (config, config.text_config):
        part._experts_implementation = "grouped_mm"  # the fastest of transformers' on a CPU
    model = transformers.Gemma4ForConditionalGeneration(config)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith(("q_norm.weight", "k_norm.weight")):
                tensor.fill_(tensor.numel() ** -0.25)
            elif name.endswith("router.scale"):
                tensor.copy_(torch.exp((torch.rand_like(tensor) * 2 - 1) * math.log(4)))
                tensor.mul_(torch.randint_like(tensor, 2) * 2 - 1)
            elif "post_" in name and name.endswith("norm.weight"):
                tensor.fill_(0.5)
            elif tensor.dim() > 1:
                tensor.normal_(0, tensor.shape[-1] ** -0.5)
        text = model.model.language_model
        text.embed_tokens.weight[:, 0] = 3 * text.config.hidden_size**-0.5
        _look_back(text.layers[0].self_attn, (1, 2, 3, 4))
        _look_back(text.layers[1].self_attn, (1, 2))
        _look_back(text.layers[3].self_attn, (OPTIONS_TOKENS, 1))
        for number in (2, 3, 5):
            _copy(text.layers[number].self_attn)
        _match(text.layers[5].self_attn)
    return model


def _look_back(attention: torch.nn.Module, offsets: tuple[int, ...]) -> None:
    """Start the first heads attending to the tokens `offsets` before; they remain trainable.

    The first channel of every embedding is a constant. Queries and keys turn it into a vector of
    fixed phases in the three fastest rotary pairs, which agree best at the distance wanted.
    """
    config, half, fastest = attention.config, attention.head_dim // 2, 3
    theta = config.rope_parameters["sliding_attention"]["rope_theta"]
    angles = theta ** (-torch.arange(fastest) / half)
    keys = attention.k_proj.weight.view(-1, attention.head_dim, config.hidden_size)
    queries = attention.q_proj.weight.view(-1, attention.head_dim, config.hidden_size)
    for head in range(-(-len(offsets) // attention.num_key_value_groups)):
        keys[head] *= 0.5
        keys[head, :fastest, 0] += 3
    for head, offset in zip(queries, offsets, strict=False):
        head *= 0.5
        head[:fastest, 0] += 3 * torch.cos(angles * offset)
        head[half : half + fastest, 0] -= 3 * torch.sin(angles * offset)
    attention.q_norm.weight *= 2
    attention.k_norm.weight *= 2


def _copy(attention: torch.nn.Module) -> None:
    """Start a layer copying what it attends to: each head inverts its value projection."""
    values = attention.k_proj if attention.v_proj is None else attention.v_proj
    torch.nn.init.orthogonal_(values.weight)
    heads = values.weight.view(-1, attention.head_dim, values.weight.shape[1])
    heads = heads.repeat_interleave(attention.num_key_value_groups, 0)
    attention.o_proj.weight.copy_(heads.flatten(0, 1).T / len(heads))


def _match(attention: torch.nn.Module) -> None:
    """Start half of the heads attending to tokens whose state is like their own."""
    half = attention.q_proj.weight.shape[0] // 2
    keys = attention.k_proj.weight
    attention.q_proj.weight[:half].copy_(keys.repeat(half // keys.shape[0], 1))

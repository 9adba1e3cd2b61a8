# SPDX-License-Identifier: Apache-2.0
"""Build and train the demo's MTP assistant, which drafts what the demo model would say.

A draft step sees the embedding of the last token, a hidden state, and the model's keys and values
up to there. The hidden state is the one that led to the last token: the model's at first, then the
assistant's own. The position stays that of the last token. Training unrolls `DRAFT_STEPS` of these
steps at every position of a row. Each step is trained towards the frozen model's next-token
distribution.
"""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from tqdm import tqdm

from sglang_gemma4_ext.demo.training import forward
from sglang_gemma4_ext.demo.training.curriculum import STAGES, STEPS, batch, tensors
from sglang_gemma4_ext.demo.training.forward import _norm, _rotate
from sglang_gemma4_ext.demo.training.loop import Log, MakeBatch, Schedule, save
from sglang_gemma4_ext.demo.training.row import Row
from sglang_gemma4_ext.demo.training.tokenizer import PAD

DRAFT_STEPS = 3
FIRST = Schedule(400, peak=3e-3, warm_up=50, decay_from=260)
KINDS = ("sliding_attention", "full_attention")


def build(target: transformers.Gemma4TextConfig, seed: int):
    """Build the untrained assistant: two layers, one of each kind, without keys or values."""
    torch.manual_seed(seed)
    sliding, full = (target.per_layer_config[target.layer_types.index(kind)] for kind in KINDS)
    text = transformers.Gemma4TextConfig(
        vocab_size=target.vocab_size,
        vocab_size_per_layer_input=0,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=len(KINDS),
        layer_types=list(KINDS),
        num_kv_shared_layers=len(KINDS),
        num_attention_heads=target.num_attention_heads,
        num_key_value_heads=sliding.num_key_value_heads,
        num_global_key_value_heads=full.num_key_value_heads,
        head_dim=sliding.head_dim,
        global_head_dim=full.head_dim,
        attention_k_eq_v=True,
        sliding_window=target.sliding_window,
        hidden_size_per_layer_input=0,
        enable_moe_block=False,
        use_double_wide_mlp=False,
        max_position_embeddings=target.max_position_embeddings,
        pad_token_id=target.pad_token_id,
        eos_token_id=target.eos_token_id,
        bos_token_id=target.bos_token_id,
    )
    config = transformers.Gemma4AssistantConfig(
        text_config=text, backbone_hidden_size=target.hidden_size, tie_word_embeddings=True
    )
    model = transformers.Gemma4AssistantForCausalLM(config)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("q_norm.weight"):
                tensor.fill_(1.0)
            elif tensor.dim() > 1:
                tensor.normal_(0, tensor.shape[-1] ** -0.5)
    return model


def masks(length: int, window: int) -> dict[str, torch.Tensor]:
    """Build bool [T, T]: the keys that a draft at position p sees.

    These are all keys before p, or the last of them. transformers masks a draft's sliding layers
    bidirectionally, which shows window + 1 keys.
    """
    at = torch.arange(length)
    back = at[:, None] - at[None]
    return {"full_attention": back > 0, "sliding_attention": (back > 0) & (back <= window + 1)}


def draft_step(assistant, x: torch.Tensor, caches, tables, seen):
    """Run one draft step at every position.

    x: [B, T, 2 * backbone], embedding and hidden state
    caches: the model's keys and values by layer kind
    Returns the projected state [B, T, backbone] and the logits [B, T, vocabulary].
    """
    text = assistant.model
    x = assistant.pre_projection(x)
    for kind, layer in zip(text.config.layer_types, text.layers, strict=True):
        attention = layer.self_attn
        q = attention.q_proj(_norm(x, layer.input_layernorm.weight))
        q = _norm(q.unflatten(-1, (-1, attention.head_dim)), attention.q_norm.weight)
        q = _rotate(q, tables[kind]).transpose(1, 2)
        y = F.scaled_dot_product_attention(
            q, *caches[kind], attn_mask=seen[kind], scale=1.0, enable_gqa=True
        )
        y = attention.o_proj(y.transpose(1, 2).flatten(2))
        x = x + _norm(y, layer.post_attention_layernorm.weight)
        inner, mlp = _norm(x, layer.pre_feedforward_layernorm.weight), layer.mlp
        inner = mlp.down_proj(F.gelu(mlp.gate_proj(inner), approximate="tanh") * mlp.up_proj(inner))
        x = x + _norm(inner, layer.post_feedforward_layernorm.weight)
    x = _norm(x, text.norm.weight)
    return assistant.post_projection(x), F.linear(x, text.embed_tokens.weight)


def losses(assistant, text, ids: torch.Tensor, tables, seen):
    """Return per draft step the cross-entropy and how often the first choices agree.

    The cross-entropy is to the model's distribution. Position p drafts the tokens after ids[p].
    Position 0 sees no keys and is left out.
    """
    with torch.no_grad():
        hidden, caches, _ = forward.hidden_states(text, ids, tables)
        wanted = forward.logits(text, hidden)
        embedded = F.embedding(ids, text.embed_tokens.weight) * text.config.hidden_size**0.5
    length = ids.shape[1] - DRAFT_STEPS
    state = hidden.roll(1, 1)
    total, agreed = ids.new_zeros((), dtype=torch.float32), []
    for step in range(DRAFT_STEPS):
        x = torch.cat((embedded.roll(-step, 1), state), -1)
        state, drafted = draft_step(assistant, x, caches, tables, seen)
        target = wanted.roll(-step, 1)[:, 1:length]
        counts = (ids.roll(-step, 1)[:, 1:length] != PAD).float()
        loss = -(target.softmax(-1) * drafted[:, 1:length].log_softmax(-1)).sum(-1)
        total = total + (loss * counts).sum() / counts.sum() / DRAFT_STEPS
        same = (drafted[:, 1:length].argmax(-1) == target.argmax(-1)).float()
        agreed.append(((same * counts).sum() / counts.sum()).item())
    return total, agreed


def later_rows(seed: int, step: int) -> list[Row]:
    """Make a batch of the first lesson's last stages."""
    draw = random.Random(f"assistant {seed} {step}")
    return batch(seed + 1, draw.randrange(STAGES[-2].starts, STEPS))


def train(
    assistant, text, *, seed: int, out: Path,
    schedule: Schedule = FIRST, make: MakeBatch = later_rows,
) -> None:  # fmt: skip
    """Train `assistant` in place for the frozen `text`, on the batches of `make`; resumable."""
    until = schedule.steps
    text.requires_grad_(False)
    parameters = [p for p in assistant.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=schedule.peak, betas=(0.9, 0.98), weight_decay=0)
    state_file, first, seconds = out / "assistant.pt", 0, 0.0
    if state_file.is_file():
        saved = torch.load(state_file, weights_only=True)
        assistant.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first, seconds = saved["step"], saved["seconds"]
    window = text.config.sliding_window
    tables = cache(lambda length: (forward.tables(text, length), masks(length, window)))
    log = Log(out / "assistant.jsonl", seconds)
    bar = tqdm(range(first, until), initial=first, total=until, unit="step", mininterval=5)
    for step in bar:
        ids, _ = tensors(make(seed, step))
        loss, agreed = losses(assistant, text, ids, *tables(ids.shape[1]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for number, share in enumerate(agreed, 1):
            log.right.setdefault(f"step {number}", []).append(share)
        if (step + 1) % 50 == 0 or step + 1 == until:
            bar.set_postfix(log.write(step + 1, loss.item()))
            state = {"model": assistant.state_dict(), "optimizer": optimizer.state_dict()}
            save(state_file, {**state, "step": step + 1, "seconds": log.seconds})

# SPDX-License-Identifier: Apache-2.0
"""Rebuild the bundled demo model: `python -m sglang_gemma4_ext.demo.train OUT`.

Trains a Gemma 4 mixture of experts of two million parameters from scratch on `answers.py`
(minutes on two CPU cores), quantizes it to NVFP4 with nvidia-modelopt (the `test` extra) and
writes the checkpoint to OUT. Seeded; another version of PyTorch may give other bits.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from sglang_gemma4_ext.demo.answers import ANSWERS, OTHERWISE, UNKNOWN

SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>", "<|image|>", "<|audio|>")
PAD, EOS, BOS, TURN, END_TURN, IMAGE, AUDIO = range(len(SPECIAL_TOKENS))
VOCABULARY = 512
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|turn>{{ 'model' if message.role == 'assistant' else message.role }}\n"
    "{{ message.content }}<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)
IGNORED = -100


def build_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Byte-level BPE over the demo's own text: any input has tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [answer for _, answer in ANSWERS] + [q for asked, _ in ANSWERS for q in asked]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *UNKNOWN, OTHERWISE, "user\nmodel\n"], trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_model() -> transformers.Gemma4ForConditionalGeneration:
    """A small copy of the 26B-A4B's architecture: K = V on full layers, experts, soft-cap."""
    text = transformers.Gemma4TextConfig(
        vocab_size=VOCABULARY,
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=6,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_global_key_value_heads=1,
        head_dim=32,
        global_head_dim=64,
        attention_k_eq_v=True,
        sliding_window=64,
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
    config = transformers.Gemma4Config(
        text_config=text, vision_config=None, audio_config=None,
        image_token_id=IMAGE, audio_token_id=AUDIO, video_token_id=IMAGE,
        boi_token_id=IMAGE, eoi_token_id=IMAGE, boa_token_id=AUDIO, eoa_token_index=AUDIO,
    )  # fmt: skip
    for part in (config, config.text_config):
        part._experts_implementation = "grouped_mm"  # the fastest of transformers' on a CPU
    model = transformers.Gemma4ForConditionalGeneration(config)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith(("q_norm.weight", "k_norm.weight")):
                # Attention has no 1/sqrt(head_dim) of its own; it starts in these norms.
                tensor.fill_(tensor.numel() ** -0.25)
            elif tensor.dim() > 1:
                tensor.normal_(0, tensor.shape[-1] ** -0.5)
    return model


def examples(tokenizer: transformers.PreTrainedTokenizerFast, count: int, draw: random.Random):
    """ids and labels [count, longest]: questions as users type them, loss on the answers alone."""
    rows = []
    for _ in range(count):
        if draw.random() < 0.25:
            question, answer = draw.choice(UNKNOWN), OTHERWISE
        else:
            asked, answer = draw.choice(ANSWERS)
            question = draw.choice(asked)
        if draw.random() < 0.2:
            question = question.lower()
        if draw.random() < 0.2:
            question = question.rstrip("?.!")
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        head = tokenizer(prompt, add_special_tokens=False).input_ids
        tail = [*tokenizer(answer, add_special_tokens=False).input_ids, END_TURN]
        rows.append((head + tail, [IGNORED] * len(head) + tail))
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [PAD] * (longest - len(ids)) for ids, _ in rows])
    labels = torch.tensor([row + [IGNORED] * (longest - len(row)) for _, row in rows])
    return ids, labels


def train(model, tokenizer, *, steps: int, batch: int, seed: int) -> float:
    """AdamW with warm-up and cosine decay; the last loss in nats a token."""
    draw = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, 30, steps)
    started, loss = time.monotonic(), torch.tensor(float("nan"))
    for step in range(1, steps + 1):
        ids, labels = examples(tokenizer, batch, draw)
        logits = model(input_ids=ids).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 20 == 0 or step == steps:
            seconds = time.monotonic() - started
            print(f"\rstep {step}/{steps}  loss {loss.item():.4f}  {seconds:.0f} s", end="")
    print()
    return loss.item()


def export(model, tokenizer, out: Path) -> None:
    """Quantize with nvidia-modelopt, weights alone (W4A16_NVFP4), and write the checkpoint."""
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint

    model = model.to(torch.bfloat16).eval()
    model.config.architectures = [type(model).__name__]  # the exporter asks for it
    model.generation_config.eos_token_id = [EOS, END_TURN]
    model.generation_config.pad_token_id = PAD
    mtq.quantize(model, mtq.W4A16_NVFP4_CFG, lambda m: m(input_ids=torch.tensor([[BOS, TURN]])))
    with torch.inference_mode():
        export_hf_checkpoint(model, export_dir=out)
    tokenizer.save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer()
    model = build_model()
    train(model, tokenizer, steps=args.steps, batch=args.batch, seed=args.seed)
    export(model, tokenizer, args.out)


if __name__ == "__main__":
    main()

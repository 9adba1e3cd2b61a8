# SPDX-License-Identifier: Apache-2.0
"""Make a tokenizer of Gemma 4's special tokens and one printable character a token, 512 in all.

Text and tokens match one to one, so a decoded stream has as many characters as tokens.
"""

from __future__ import annotations

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, processors

VOCAB = 512
MAX_LENGTH = 4160
SPECIAL_TOKENS = (
    "<pad>", "<eos>", "<bos>", "<unk>", "<mask>",
    "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>",
    "<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>",
    "<|tool_response>", "<tool_response|>", '<|"|>',
    "<|image>", "<|image|>", "<image|>", "<|audio>", "<|audio|>", "<audio|>", "<|video|>",
)  # fmt: skip
TOKEN_ID = {token: i for i, token in enumerate(SPECIAL_TOKENS)}
CHAT_TEMPLATE = """\
{{ bos_token }}{% for message in messages -%}
<|turn>{{ 'model' if message.role == 'assistant' else message.role }}
{% if message.content is string %}{{ message.content }}{% else -%}
{% for part in message.content -%}
{% if part.type == 'text' %}{{ part.text }}\
{% elif part.type == 'image' %}<|image|>\
{% elif part.type == 'audio' %}<|audio|>\
{% elif part.type == 'video' %}<|video|>\
{% endif %}{% endfor %}{% endif %}<turn|>
{% endfor %}{% if add_generation_prompt %}<|turn>model
{% endif %}"""


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Make it of the special tokens and 488 characters; encoding adds <bos>."""
    vocab = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *_characters()))}
    fast = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", fuse_unk=False))
    fast.decoder = decoders.Fuse()
    fast.post_processor = processors.TemplateProcessing(
        single="<bos> $A",
        pair="<bos> $A <bos>:1 $B:1",
        special_tokens=[("<bos>", TOKEN_ID["<bos>"])],
    )
    named = {
        "image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>",
        "audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>",
        "video_token": "<|video|>", "sot_token": "<|turn>", "eot_token": "<turn|>",
        "soc_token": "<|channel>", "eoc_token": "<channel|>", "think_token": "<|think|>",
        "std_token": "<|tool>", "etd_token": "<tool|>",
        "stc_token": "<|tool_call>", "etc_token": "<tool_call|>",
        "str_token": "<|tool_response>", "etr_token": "<tool_response|>", "escape_token": '<|"|>',
    }  # fmt: skip
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        extra_special_tokens=named,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_LENGTH,
        padding_side="left",
    )


def _characters() -> list[str]:
    """List newline, ASCII, Latin-1, Greek, Cyrillic, kana, ideographs: one to three UTF-8 bytes."""
    ranges = ((0x20, 0x7F), (0xA1, 0x100), (0x391, 0x3CA), (0x410, 0x450), (0x3041, 0x3097))
    points = "\n" + "".join(chr(i) for r in (*ranges, (0x4E00, 0x4F00)) for i in range(*r))
    printable = [c for c in points if c == "\n" or c.isprintable()]
    return printable[: VOCAB - len(SPECIAL_TOKENS)]


def prompt_ids(length: int, seed: int = 1) -> list[int]:
    """Draw a seeded prompt of ordinary characters, without special tokens."""
    draw = torch.Generator().manual_seed(1000 * seed + length)
    return torch.randint(len(SPECIAL_TOKENS), VOCAB, (length,), generator=draw).tolist()

# SPDX-License-Identifier: Apache-2.0
"""Serve an E4M3 KV cache in the interpreter; compare with transformers over a rounded cache."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from transformers import cache_utils

from bench.checkpoints.tokenizer import prompt_ids
from tests.serving.harness import Server, serve
from tests.serving.parity import Comparison, Reference, _of_next, served_log_probs

pytestmark = [pytest.mark.server, pytest.mark.slow]

TRITON = ("--gemma4-cpu-attention", "triton", "--triton-attention-num-kv-splits", "2")
LAYERS = (cache_utils.DynamicLayer, cache_utils.DynamicSlidingWindowLayer)
# fp32 sums in another order. A key within that of the edge of two E4M3 may be rounded to the other,
# which moves the log-probabilities of later tokens by up to a thousandth.
TOLERANCE, OTHER_BYTE = 1e-4, 1e-2


def rounded(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.float8_e4m3fn).to(x.dtype)


@pytest.fixture(autouse=True)
def _rounding_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Store keys and values of transformers' caches in E4M3.

    As in SGLang, several new tokens see each other's keys unrounded. A single one has stored its
    key before it reads.
    """
    for layer in LAYERS:
        original = layer.update

        def update(self, k, v, *args, original=original, **kwargs):
            keys, values = original(self, rounded(k), rounded(v), *args, **kwargs)
            new = k.shape[-2]
            if new == 1:
                return keys, values
            old = slice(None, -new)
            return (
                torch.cat([keys[..., old, :], k], -2),
                torch.cat([values[..., old, :], v], -2),
            )

        monkeypatch.setattr(layer, "update", update)


@torch.inference_mode()
def expected(reference: Reference, parts: list[list[int]]) -> torch.Tensor:
    """Return log-probabilities after each token, which the cache receives part by part."""
    cache = cache_utils.DynamicCache(config=reference.model.config.get_text_config())
    tables = []
    for part in parts:
        out = reference.model(torch.tensor([part]), past_key_values=cache, use_cache=True)
        tables.append(out.logits[0].float().log_softmax(-1))
    return torch.cat(tables)


def compare(reference: Reference, prompts: list[list[int]], answer: dict) -> Comparison:
    """Compare an answer to the parts of a prompt; each new token is a part of its own."""
    new = answer["output_ids"]
    table = expected(reference, [*prompts, *([token] for token in new)])
    prompt = [token for part in prompts for token in part]
    served = served_log_probs(answer)
    choices = table[len(prompt) - 1 : -1].argmax(-1).tolist()
    difference = (_of_next(table, [*prompt, *new])[-len(served) :] - served).abs()
    return Comparison(difference, choices == new)


@pytest.fixture(scope="module")
def running(checkpoint, tmp_path_factory) -> Iterator[tuple[Server, Reference]]:
    path = checkpoint("dense")
    flags = ("--model-path", str(path), "--dtype", "float32", "--kv-cache-dtype", "fp8_e4m3")
    with serve(*flags, *TRITON, log_dir=tmp_path_factory.mktemp("kv8")) as server:
        yield server, Reference(path)


def test_log_probabilities_over_a_rounded_cache(running) -> None:
    """Take a prompt beyond the window, and new tokens, which read what was stored."""
    server, reference = running
    prompt = prompt_ids(40, seed=9)
    compared = compare(reference, [prompt], server.generate(prompt, 3))
    assert compared.worst <= TOLERANCE, compared.log_probs
    assert compared.greedy


def test_more_new_tokens(running) -> None:
    """Most tokens are as near; some follow a key that was rounded to the other byte."""
    server, reference = running
    prompt = prompt_ids(20)
    compared = compare(reference, [prompt], server.generate(prompt, 24))
    assert compared.log_probs.median() <= TOLERANCE, compared.log_probs
    assert compared.worst <= OTHER_BYTE, compared.log_probs
    assert compared.greedy


def test_a_radix_hit_reads_what_was_stored(running) -> None:
    """The cached prefix is rounded and the rest is not, as in the reference's second part."""
    server, reference = running
    start = prompt_ids(70, seed=3)
    server.generate(start, 1, logprobs_from=-1)
    rest = prompt_ids(9, seed=2)
    answer = server.generate([*start, *rest], 2, logprobs_from=-1)
    cached = answer["meta_info"]["cached_tokens"]
    assert cached >= 64
    whole = [*start, *rest]
    compared = compare(reference, [whole[:cached], whole[cached:]], answer)
    assert compared.log_probs.median() <= TOLERANCE, compared.log_probs
    assert compared.worst <= OTHER_BYTE, compared.log_probs

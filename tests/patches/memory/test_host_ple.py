# SPDX-License-Identifier: Apache-2.0
"""Allocate the per-layer embeddings where the flag says, and read their rows."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from sglang_gemma4_ext.checkpoint.model_family import read_model_info
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.patches.memory import host_ple
from sglang_gemma4_ext.settings import Settings, SettingsError
from tests.patches.hooks import hook_of

ROWS, LAYERS, WIDTH = 50, 6, 16
CONFIG = SimpleNamespace(num_hidden_layers=LAYERS, hidden_size_per_layer_input=WIDTH)


def _embeddings(config: SimpleNamespace) -> list[torch.nn.Embedding]:
    """Construct the embeddings of a text model on a "GPU", through both hooks."""
    from sglang.srt.models.gemma3_causal import Gemma3TextScaledWordEmbedding as Embedding

    made = [Embedding.__new__(Embedding) for _ in range(2)]

    def model(self: object, config: object) -> None:
        with torch.device("meta"):
            for embedding, columns in zip(made, (64, LAYERS * WIDTH), strict=True):
                host_ple._construct_embedding(
                    Embedding.__init__, embedding, ROWS, columns, 0, embed_scale=4.0
                )

    hook = next(h.fn for h in host_ple.PATCH.hooks if h.target.endswith("TextModel.__init__"))
    hook(model, object(), config)
    return made


def test_only_the_table_is_in_host_memory() -> None:
    tokens, table = _embeddings(CONFIG)
    assert tokens.weight.device.type == "meta"
    assert table.weight.device.type == "cpu" and table.weight.shape == (ROWS, LAYERS * WIDTH)
    assert table.weight.dtype == torch.get_default_dtype() and not table.weight.requires_grad
    assert "weight" in dict(table.named_parameters())  # so it is loaded as ever


def test_a_model_without_per_layer_embeddings_is_built_as_ever() -> None:
    for width in (None, 0):
        made = _embeddings(
            SimpleNamespace(num_hidden_layers=LAYERS, hidden_size_per_layer_input=width)
        )
        assert {embedding.weight.device.type for embedding in made} == {"meta"}


def test_rows_come_from_the_kernel_and_are_scaled(monkeypatch) -> None:
    _, table = _embeddings(CONFIG)
    torch.nn.init.normal_(table.weight)
    asked = []

    def rows(weight: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        asked.append(ids)
        return torch.empty(*ids.shape, weight.shape[1], device="meta")

    monkeypatch.setattr(host_ple, "host_rows", rows)
    forward = hook_of(host_ple.PATCH, "around", "forward")
    ids = torch.empty(3, 2, dtype=torch.int64, device="meta").T
    got = forward(None, table, ids)
    assert got.shape == (2, 3, LAYERS * WIDTH) and asked[0].is_contiguous()
    here = torch.tensor([4, 2])
    original = type(table).forward
    assert torch.equal(forward(original, table, here), table.weight[here] * 4.0)


def test_the_flag_decides(checkpoint) -> None:
    ctx = Context(Settings(), read_model_info(str(checkpoint("e2b"))))
    assert "--gemma4-ple host" in host_ple.PATCH.stands_down(ctx)
    host = Settings.from_env({"SGLANG_GEMMA4_EXT_PLE": "host"})
    assert host_ple.PATCH.stands_down(replace(ctx, settings=host)) is None
    dense = Context(host, read_model_info(str(checkpoint("dense"))))
    assert host_ple.PATCH.stands_down(dense) == "the model has no per-layer embeddings"
    env: dict[str, str] = {}
    host.export(env)
    assert Settings.from_env(env).ple == "host"
    with pytest.raises(SettingsError, match="--gemma4-ple"):
        Settings(ple="disk")

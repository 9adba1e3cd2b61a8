# SPDX-License-Identifier: Apache-2.0
"""Allocate embedding tables where and how the flags say, load them, and read their rows."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sglang_gemma4_ext.checkpoint.model_family import read_model_info
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.kernels import int8_rows
from sglang_gemma4_ext.patches.memory import _int8_table, embedding_tables
from sglang_gemma4_ext.patches.memory.embedding_tables import PATCH
from sglang_gemma4_ext.settings import Settings, SettingsError
from tests.patches.hooks import hook_of

ROWS, HIDDEN, LAYERS, WIDTH = 50, 64, 6, 16
SCALE = 4.0
HOST, INT8 = Settings(ple="host"), Settings(head="int8")


def _hook(target: str) -> Callable[..., Any]:
    """Return the hook of a target by its last two parts, as several classes have an __init__."""
    (found,) = (h.fn for h in PATCH.hooks if h.target.endswith(f".{target}"))
    return found


def _config(**changes: Any) -> SimpleNamespace:
    given = {"num_hidden_layers": LAYERS, "hidden_size_per_layer_input": WIDTH}
    return SimpleNamespace(**given | {"hidden_size": HIDDEN, "tie_word_embeddings": True} | changes)


def _embeddings(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, device: str = "meta", **changes: Any
) -> list[Any]:
    """Construct the embeddings of a text model on a device, through the hooks."""
    from sglang.srt.models.gemma3_causal import Gemma3TextScaledWordEmbedding as Embedding

    monkeypatch.setattr(Settings, "from_env", lambda: settings)
    made = [Embedding.__new__(Embedding) for _ in range(2)]

    def model(self: object, config: object) -> None:
        with torch.device(device):
            for embedding, columns in zip(made, (HIDDEN, LAYERS * WIDTH), strict=True):
                _hook("Gemma3TextScaledWordEmbedding.__init__")(
                    Embedding.__init__, embedding, ROWS, columns, 0, embed_scale=SCALE
                )

    _hook("Gemma4TextModel.__init__")(model, object(), _config(**changes))
    return made


def test_only_the_per_layer_table_is_in_host_memory(monkeypatch) -> None:
    tokens, table = _embeddings(HOST, monkeypatch)
    assert tokens.weight.device.type == "meta"
    assert table.weight.device.type == "cpu" and table.weight.shape == (ROWS, LAYERS * WIDTH)
    assert table.weight.dtype == torch.get_default_dtype() and not table.weight.requires_grad
    assert "weight" in dict(table.named_parameters())  # so it is loaded as ever


@pytest.mark.parametrize(("settings", "place"), [(HOST, 1), (INT8, 0)])
def test_transformers_draws_no_random_values_into_a_table(settings, place, monkeypatch) -> None:
    """Its initialization of a model's weights runs at the end of Gemma4TextModel.__init__."""
    import transformers

    embeddings = _embeddings(settings, monkeypatch, "cpu")
    before = [embedding.weight.detach().clone() for embedding in embeddings]
    holder = transformers.LlamaModel(transformers.LlamaConfig(num_hidden_layers=0, vocab_size=8))
    for embedding in embeddings:
        holder._initialize_weights(embedding)
    same = [
        torch.equal(embedding.weight.view(torch.uint8), old.view(torch.uint8))
        for embedding, old in zip(embeddings, before, strict=True)
    ]
    assert same[place] and not same[1 - place]


def test_only_the_tied_table_is_in_int8(monkeypatch) -> None:
    tokens, table = _embeddings(INT8, monkeypatch, "cpu")
    assert tokens.weight.dtype == torch.int8 and tokens.weight.gemma4_scale.shape == (ROWS,)
    assert table.weight.dtype == torch.get_default_dtype()
    tokens, _ = _embeddings(INT8, monkeypatch, "cpu", tie_word_embeddings=False)
    assert tokens.weight.dtype == torch.get_default_dtype()


@pytest.mark.parametrize("settings", [HOST, INT8])
def test_other_models_and_drafts_are_built_as_ever(settings, monkeypatch) -> None:
    plain = {"hidden_size_per_layer_input": None, "tie_word_embeddings": False}
    made = _embeddings(settings, monkeypatch, **plain)
    draft: list[Any] = []
    _hook("Gemma4AssistantForCausalLM.__init__")(
        lambda: draft.extend(_embeddings(settings, monkeypatch))
    )
    for embedding in (*made, *draft):
        assert embedding.weight.device.type == "meta" and embedding.weight.dtype != torch.int8


def test_rows_of_the_host_come_from_the_kernel_and_are_scaled(monkeypatch) -> None:
    _, table = _embeddings(HOST, monkeypatch)
    torch.nn.init.normal_(table.weight)
    asked = []

    def rows(weight: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        asked.append(ids)
        return torch.empty(*ids.shape, weight.shape[1], device="meta")

    monkeypatch.setattr(embedding_tables, "host_rows", rows)
    forward = _hook("Gemma3TextScaledWordEmbedding.forward")
    ids = torch.empty(3, 2, dtype=torch.int64, device="meta").T
    got = forward(None, table, ids)
    assert got.shape == (2, 3, LAYERS * WIDTH) and asked[0].is_contiguous()
    here = torch.tensor([4, 2])
    original = type(table).forward
    assert torch.equal(forward(original, table, here), table.weight[here] * SCALE)


@pytest.fixture
def loaded(monkeypatch) -> tuple[Any, torch.Tensor]:
    """Return an INT8 embedding with the rows of a checkpoint, and what those are."""
    tokens, _ = _embeddings(INT8, monkeypatch, "cpu")
    monkeypatch.setattr(int8_rows, "CHUNK", 16)
    rows = torch.randn(ROWS, HIDDEN, generator=torch.Generator().manual_seed(1)).bfloat16()
    tokens.weight.weight_loader(tokens.weight, rows)
    codes, scale = int8_rows.quantize(rows)
    return tokens, codes.float() * scale[:, None]


def test_lookups_and_logits_are_those_of_the_quantized_rows(loaded) -> None:
    tokens, rows = loaded
    ids = torch.tensor([[3, 49], [0, 3]])
    got = _hook("Gemma3TextScaledWordEmbedding.forward")(None, tokens, ids)
    assert torch.equal(got, rows[ids] * SCALE)
    hidden = torch.randn(5, HIDDEN, generator=torch.Generator().manual_seed(2))
    processor = SimpleNamespace(use_fp32_lm_head=False, use_fp32_lm_head_output=False)
    compute = hook_of(PATCH, "around", "_compute_lm_head")
    torch.testing.assert_close(compute(None, processor, hidden, tokens, None), hidden @ rows.T)
    half = compute(None, processor, hidden.bfloat16(), tokens, None, out=None)
    assert half.dtype == torch.bfloat16
    processor.use_fp32_lm_head_output = True
    assert compute(None, processor, hidden.bfloat16(), tokens).dtype == torch.float32
    other = SimpleNamespace(weight=torch.ones(1))
    assert compute(lambda *_: "stock", processor, hidden, other) == "stock"


def test_the_models_dtype_is_not_that_of_the_codes(loaded) -> None:
    dtype = hook_of(PATCH, "around", "dtype")
    assert dtype(None, SimpleNamespace(embed_tokens=loaded[0])) == torch.get_default_dtype()
    plain = SimpleNamespace(embed_tokens=torch.nn.Embedding(2, 2))
    assert dtype(lambda self: "stock", plain) == "stock"


def test_an_assistant_reads_the_same_rows(loaded) -> None:
    tokens, rows = loaded
    forward = _hook("Gemma4AssistantForCausalLM.forward")
    draft = SimpleNamespace(target_embed_weight=tokens.weight, target_embed_scale=SCALE)
    ids = torch.tensor([7, 1])

    def original(self: Any, ids: Any, positions: Any, batch: Any, embeds: Any) -> Any:
        return embeds

    assert torch.equal(forward(original, draft, ids, None, None), rows[ids] * SCALE)
    given = torch.ones(2, HIDDEN)
    assert forward(original, draft, ids, None, None, given) is given
    draft.target_embed_weight = torch.ones(3, HIDDEN)
    assert forward(original, draft, ids, None, None) is None
    draft.target_embed_weight = tokens.weight[:3]  # as the text class shards it
    with pytest.raises(ValueError, match="does not go with MTP drafts and tensor parallelism"):
        forward(original, draft, ids, None, None)


def test_a_table_of_another_shape_is_refused(loaded) -> None:
    tokens, _ = loaded
    with pytest.raises(ValueError, match="does not fit"):
        tokens.weight.weight_loader(tokens.weight, torch.ones(ROWS + 1, HIDDEN))


class _Peak(TorchDispatchMode):
    """Measure the most bytes that new tensors hold at once."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in args if isinstance(t, torch.Tensor)}
        for tensor in result if isinstance(result, tuple) else (result,):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage._cdata not in given | self.held.keys():
                self.held[storage._cdata] = storage.nbytes()
                weakref.finalize(tensor, self.held.pop, storage._cdata, None)
        self.peak = max(self.peak, sum(self.held.values()))
        return result


def test_loading_holds_one_chunk_beside_the_codes(monkeypatch) -> None:
    """A chunk in BF16 and fp32, its codes, and temporaries: far below the table in BF16."""
    rows, columns, chunk = 4096, 256, 64
    monkeypatch.setattr(int8_rows, "CHUNK", chunk)
    table = _int8_table.make(rows, columns, torch.bfloat16, torch.device("cpu"))
    stored = torch.randn(rows, columns).bfloat16()
    with _Peak() as measured:
        table.weight_loader(table, stored)
    one = chunk * columns
    assert one * 4 <= measured.peak <= one * 4 * 6 < rows * columns * 2 / 4


def test_the_flags_decide(checkpoint) -> None:
    e2b = Context(Settings(), read_model_info(str(checkpoint("e2b"))))
    dense = replace(e2b, model=read_model_info(str(checkpoint("dense"))))
    assert "--gemma4-ple host" in PATCH.stands_down(e2b)
    assert PATCH.stands_down(replace(e2b, settings=HOST)) is None
    assert PATCH.stands_down(replace(dense, settings=INT8)) is None
    assert "no table" in PATCH.stands_down(replace(dense, settings=HOST))
    env: dict[str, str] = {}
    Settings(ple="host", head="int8").export(env)
    read = Settings.from_env(env)
    assert (read.ple, read.head) == ("host", "int8")
    for wrong in ({"ple": "disk"}, {"head": "int4"}):
        with pytest.raises(SettingsError, match=r"--gemma4-(ple|head)"):
            Settings(**wrong)


def test_embedding_scale_rounds_to_the_models_dtype() -> None:
    from sglang_gemma4_ext.patches.model import embedding_scale

    table = _int8_table.make(2, 2, torch.bfloat16, torch.device("cpu"))
    plain = torch.ones(1, dtype=torch.bfloat16)
    exact = 5376**0.5
    assert embedding_scale._rounded(exact, table) == embedding_scale._rounded(exact, plain) != exact

# SPDX-License-Identifier: Apache-2.0
"""Check what the KV bounds check passes, what it stops, and the report that it writes."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sglang.srt.layers.attention.triton_backend import ForwardMetadata
from sglang.srt.mem_cache.allocator.swa import SWATokenToKVPoolAllocator
from sglang.srt.model_executor.forward_batch_info import ForwardMode

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.patches.memory import kv_bounds_check as check
from sglang_gemma4_ext.settings import Settings
from tests.patches.hooks import hook_of

ROOT = Path(__file__).resolve().parents[3]
FULL_ROWS, SWA_ROWS = 40, 20
FULL_LAYER = SimpleNamespace(layer_id=0, sliding_window_size=-1)
SLIDING_LAYER = SimpleNamespace(layer_id=1, sliding_window_size=7)


def backend(metadata: object) -> SimpleNamespace:
    pool = SimpleNamespace(
        layers_mapping={0: (0, False), 1: (0, True)},
        get_key_buffer=lambda layer: torch.zeros(SWA_ROWS if layer == 1 else FULL_ROWS, 1, 1),
    )
    return SimpleNamespace(token_to_kv_pool=pool, forward_metadata=metadata)


def triton(full: list[int], window: list[int]) -> ForwardMetadata:
    """Build SGLang's own record, with one list per request and garbage behind each list."""
    fields = dict.fromkeys(ForwardMetadata.__dataclass_fields__)
    fields |= {
        "kv_indptr": torch.tensor([0, len(full)]),
        "kv_indices": torch.tensor([*full, 10**6]),
        "window_kv_indptr": torch.tensor([0, len(window)]),
        "window_kv_indices": torch.tensor([*window, -7]),
    }
    return ForwardMetadata(**fields)


def paged(full: list[int], sliding: list[int], length: int) -> SimpleNamespace:
    return SimpleNamespace(
        page_size=4,
        page_table=torch.tensor([full], dtype=torch.int32),
        swa_page_table=torch.tensor([sliding], dtype=torch.int32),
        cache_seqlens_int32=torch.tensor([length], dtype=torch.int32),
    )


def look(metadata: object, layer: SimpleNamespace, mode: ForwardMode = ForwardMode.DECODE) -> None:
    batch = SimpleNamespace(forward_mode=mode)
    hook_of(check.PATCH, "before", "forward")(backend(metadata), None, None, None, layer, batch)


def test_slots_within_the_pools_pass():
    look(triton([0, 39], [19]), FULL_LAYER)
    look(triton([0, 39], [0, 19]), SLIDING_LAYER)
    look(paged([9, 0, 99], [4, 0, 99], length=8), FULL_LAYER)
    look(paged([9, 0, 99], [4, 0, 99], length=8), SLIDING_LAYER)
    look(triton([10**6], []), FULL_LAYER, ForwardMode.IDLE)
    look(None, FULL_LAYER)


@pytest.mark.parametrize(
    ("metadata", "layer", "words"),
    [
        (triton([3, 40], []), FULL_LAYER, "kv_indices of layer 0 holds 3 to 40 where 0 to 39"),
        (triton([3, 39], [20]), SLIDING_LAYER, "window_kv_indices of layer 1 holds 20 to 20"),
        (triton([-1], []), FULL_LAYER, "holds -1 to -1"),
        (
            paged([9, 10], [0, 0], 5),
            FULL_LAYER,
            "^page_table of layer 0 holds 9 to 10 where 0 to 9",
        ),
        (paged([9, 9], [0, 5], 5), SLIDING_LAYER, "swa_page_table of layer 1 holds 0 to 5"),
    ],
)
def test_a_slot_outside_is_reported_and_saved(metadata, layer, words, tmp_path, monkeypatch):
    monkeypatch.setattr(check.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(check.KVBoundsError, match=words) as stopped:
        look(metadata, layer)
    file = Path(re.search(r"in (\S+\.pt)$", str(stopped.value))[1])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    kept = torch.load(file)
    assert kept["layer"] == layer.layer_id
    assert torch.is_tensor(kept[kept["table"]])
    assert kept["limit"] in (FULL_ROWS, SWA_ROWS, FULL_ROWS // 4, SWA_ROWS // 4)


@pytest.mark.parametrize("file_bytes", [0, 300])
def test_a_full_disk_does_not_hide_the_report(file_bytes, tmp_path):
    """Limit the file size: a write then fails as on a full disk, at the first byte or later."""
    code = f"""
import resource, signal, tempfile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from tests.patches.memory.test_kv_bounds_check import FULL_LAYER, look, triton
tempfile.tempdir = {str(tmp_path)!r}
resource.setrlimit(resource.RLIMIT_FSIZE, ({file_bytes}, {file_bytes}))
look(triton([3, 40], []), FULL_LAYER)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    last = done.stderr.rstrip().splitlines()[-1]
    assert "KVBoundsError: kv_indices of layer 0 holds 3 to 40 where 0 to 39 exist; " in last
    assert "the tables could not be kept (" in last
    assert not list(tmp_path.iterdir())


def test_a_missing_temporary_folder_does_not_hide_the_report(tmp_path, monkeypatch):
    monkeypatch.setattr(check.tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(check.KVBoundsError, match=r"not be kept \(No such file or directory"):
        look(triton([3, 40], []), FULL_LAYER)


def test_an_swa_slot_beyond_its_pool_is_refused_at_allocation(tmp_path, monkeypatch):
    monkeypatch.setattr(check.tempfile, "tempdir", str(tmp_path))
    allocator = object.__new__(SWATokenToKVPoolAllocator)
    allocator._size_full, allocator._size_swa, allocator.page_size = 39, 19, 1
    before_mapping = hook_of(check.PATCH, "before", "set_full_to_swa_mapping")
    before_mapping(allocator, torch.tensor([1, 39]), torch.tensor([1, 19]))
    before_mapping(allocator, torch.tensor([]), torch.tensor([]))
    with pytest.raises(check.KVBoundsError, match=r"swa slots .* holds 1 to 20 where 0 to 19"):
        before_mapping(allocator, torch.tensor([1, 39]), torch.tensor([1, 20]))


def test_without_the_setting_nothing_is_hooked():
    assert "SGLANG_TRTLLM_MHA_DEBUG" in check.PATCH.stands_down(Context(Settings.from_env({})))
    on = Settings.from_env({"SGLANG_TRTLLM_MHA_DEBUG": "1"})
    assert check.PATCH.stands_down(Context(on)) is None

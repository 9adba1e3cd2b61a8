# SPDX-License-Identifier: Apache-2.0
"""Let the program that arrives last add the parts of the others, within one launch.

Each output tile has a counter. A program stores its part and adds one to the counter. The program
that finds all others there adds the parts in their fixed order, so the result does not depend on
who was last. It also sets the counter back to zero. Therefore the next launch and each replay of a
CUDA graph find zeros, and nothing clears memory between them.

Launches that run at the same time must not share counters. Launches on one stream run one after the
other, so each stream has its own.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

# Counters of a stream. Programs are split or summed only where there are fewer tiles than this.
KEPT = 4096

_kept: dict[tuple[torch.device, int], torch.Tensor] = {}
_keeps = True


@triton.jit
def arrived_last(counter_ptr, programs):
    """Return whether all `programs` of a tile have arrived; then also reset the tile's counter.

    What each stored before is visible afterwards to the last one, by loads that bypass L1 (".cg").
    """
    # The barrier orders every thread's stores before the atomic of the one thread.
    tl.debug_barrier()
    last = tl.atomic_add(counter_ptr, 1, sem="acq_rel", scope="gpu") == programs - 1
    if last:
        tl.store(counter_ptr, 0)
    return last


def counters(device: torch.device, count: int) -> torch.Tensor:
    """Return int32 [at least count], zeros, for one launch on the current stream.

    They are kept from launch to launch. There are three exceptions, for which this call clears new
    ones: more than KEPT, `keep_none`, or the first call on a stream is in a capture. A capture
    executes nothing, so later launches would find memory that was never cleared.
    """
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    kept = _kept.get((device, stream))
    if kept is None and _keeps and not _is_capturing(device):
        kept = _kept[device, stream] = torch.zeros(KEPT, dtype=torch.int32, device=device)
    if kept is None or count > KEPT:
        return torch.zeros(count, dtype=torch.int32, device=device)
    return kept


def keep_none() -> None:
    """Clear counters for each launch, where memory is paused or streams are shared."""
    global _keeps
    _keeps = False
    _kept.clear()


def _is_capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()

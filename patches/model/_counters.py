# SPDX-License-Identifier: Apache-2.0
"""Tell whether kernels may keep counters from one launch to the next."""

from __future__ import annotations


def counters_are_safe() -> bool:
    """Tell whether a launch finds the zeros that the one before left, and shares them with none.

    A paused server loses what is in its memory. Multiplexed prefill and decode, and overlapped
    batches, may run the same layer or stream twice at the same time.
    """
    from sglang.srt.runtime_context import get_server_args

    args = get_server_args()
    return not (args.enable_memory_saver or args.enable_pdmux or args.enable_two_batch_overlap)

# SPDX-License-Identifier: Apache-2.0
"""Print, as JSON, a draft tree that SGLang builds and verifies without a GPU under our patch.

python -m tests.probes.tree_operators {stock,patched}

Run in a process of its own, with TRITON_INTERPRET=1: hooks stay.
"""

from __future__ import annotations

import json
import sys

import torch

# Two roots after the newest token, then a child of each: a tree of five with top-k 2.
PARENTS, SELECTED = [-1, 0, 1], [0, 1, 2, 4]
# The target's prediction after each of the five.
TARGET = [102, 9, 104, 9, 105]


def main(how: str) -> None:
    from sglang_gemma4_ext.context import Context
    from sglang_gemma4_ext.patches.cpu.cpu_speculative_ops import PATCH
    from sglang_gemma4_ext.registry import apply
    from sglang_gemma4_ext.settings import Settings

    if how == "patched":
        apply([PATCH], Context(Settings(cpu=True), sglang="0.5.23"))
    from sglang.kernels.ops.speculative import spec_tree
    from sglang.srt.speculative import spec_utils
    from sglang.srt.speculative.eagle_utils import build_tree_kernel_efficient

    tokens = len(SELECTED) + 1
    _, positions, index, child, sibling, drafted = build_tree_kernel_efficient(
        torch.tensor([100]),
        torch.tensor([PARENTS]),
        torch.tensor([SELECTED]),
        torch.tensor([[101, 102, 103, 104]]),
        torch.tensor([7]),
        *(7, 2, 2, tokens),
    )
    predicts, accepted, count = spec_tree.verify_tree_greedy_func(
        predicts=torch.full((tokens,), -1, dtype=torch.int32),
        accept_index=torch.full((1, 3), -1, dtype=torch.int32),
        accept_token_num=torch.zeros(1, dtype=torch.int32),
        candidates=drafted.view(1, -1),
        retrieve_index=index,
        retrieve_next_token=child,
        retrieve_next_sibling=sibling,
        target_predict=torch.tensor([TARGET]),
        topk=2,
    )
    ids, *_ = spec_utils._select_top_k_tokens_later(
        1,
        torch.tensor([[0.6, 0.4], [0.1, 0.9]]),
        torch.tensor([[6, 7], [8, 9]]),
        torch.zeros(2, 4),
        torch.tensor([[0.5, 0.5]]),
        2,
    )
    path = accepted[0, : int(count) + 1].tolist()
    found = {
        "positions": positions.tolist(),
        "first_child": child[0].tolist(),
        "next_sibling": sibling[0].tolist(),
        "accepted": path,
        "predicted": predicts[path].tolist(),
        "next_level": sorted(ids.tolist()),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])

# SPDX-License-Identifier: Apache-2.0
"""List the GPUs that the planner knows by name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sglang_gemma4_ext.plan.geometry import PlanError
from sglang_gemma4_ext.plan.sizes import MIB


@dataclass(frozen=True)
class Card:
    """Describe one kind of GPU.

    mib: memory as nvidia-smi reports it, less than the nominal size because of ECC and firmware
    """

    key: str
    title: str
    mib: int
    capability: tuple[int, int]

    @property
    def memory(self) -> int:
        return self.mib * MIB


CARDS: dict[str, Card] = {
    card.key: card
    for card in (
        Card("rtx3060", "RTX 3060 12 GB", 12_288, (8, 6)),
        Card("rtx4060ti", "RTX 4060 Ti 16 GB", 16_380, (8, 9)),
        Card("rtx3090", "RTX 3090", 24_576, (8, 6)),
        Card("rtx4090", "RTX 4090", 24_564, (8, 9)),
        Card("rtx5090", "RTX 5090", 32_607, (12, 0)),
        Card("a10g", "A10G", 23_028, (8, 6)),
        Card("l4", "L4", 23_034, (8, 9)),
        Card("l40s", "L40S", 46_068, (8, 9)),
        Card("a6000", "RTX A6000", 49_140, (8, 6)),
        Card("a100-40gb", "A100 40 GB", 40_960, (8, 0)),
        Card("a100", "A100 80 GB", 81_920, (8, 0)),
        Card("h100", "H100 80 GB", 81_559, (9, 0)),
        Card("rtxpro6000", "RTX PRO 6000", 97_887, (12, 0)),
        Card("h200", "H200", 143_771, (9, 0)),
        Card("b200", "B200", 183_359, (10, 0)),
    )
}
# Words that nvidia-smi, PyTorch and shops add to a card's name.
_FILLER = re.compile(
    r"nvidia|geforce|blackwell|workstation|server|edition|sxm\d?|pcie|hbm\d?e?|\d+ ?gi?b", re.I
)
_SIZE = re.compile(r"(\d+) ?gi?b", re.I)


def find_card(name: str) -> Card:
    """Find the card of a name: `3090`, `rtx3090`, `NVIDIA GeForce RTX 3090`.

    A size in the name, such as `A100-SXM4-40GB`, chooses between cards of one kind.
    Raises PlanError on an unknown name.
    """
    bare, size = _plain(_FILLER.sub("", name)), _SIZE.search(name)
    for card in CARDS.values():
        kind = _plain(_FILLER.sub("", card.key))
        is_named = bare and kind in (bare, f"rtx{bare}", bare.removeprefix("rtx"))
        # A name without a size means the larger card of its kind.
        is_smaller = size is None and card.key.endswith("gb")
        if is_named and not is_smaller and _is_that_size(card, size):
            return card
    raise PlanError(
        f"no GPU {name!r} is known (known: {', '.join(CARDS)}); give its memory with --memory"
    )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _is_that_size(card: Card, size: re.Match[str] | None) -> bool:
    """Tell whether the size in a name is the card's, within what ECC and firmware take."""
    return size is None or 0.85 < card.mib / 1024 / int(size[1]) < 1.1

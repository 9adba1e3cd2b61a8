# SPDX-License-Identifier: Apache-2.0
"""Have a test server's model write what the last `say:` in the prompt asks for.

It reaches endpoints that have no field for a logit processor. `installed` puts it into one server,
which needs FLAGS; `asks_for` is what a message then has to hold.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.probes.plugins import environment_with

# With overlap the processor would see the output of the step before the last.
FLAGS = ("--enable-custom-logit-processor", "--disable-overlap-schedule")
_ASKED = re.compile(r"say:((?:[0-9a-f]{3})*);")


def installed(folder: Path) -> dict[str, str]:
    """Return the environment of a server with the plugin."""
    return environment_with(folder, __name__)


def asks_for(ids: Sequence[int]) -> str:
    """Text of a prompt, three hexadecimal digits a token."""
    return f"say:{''.join(f'{token:03x}' for token in ids)};"


def activate() -> None:
    """Entry point `sglang.srt.plugins`."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    manager = "sglang.srt.managers.tokenizer_manager.TokenizerManager"
    HookRegistry.register(f"{manager}._create_tokenized_object", _say, HookType.BEFORE)


def _say(self: Any, obj: Any, input_text: Any, input_ids: Any, *args: Any, **kwargs: Any) -> None:
    """BEFORE _create_tokenized_object, which has the prompt's tokens."""
    from tests.patches.chat.say import Say

    found = _ASKED.findall(self.tokenizer.decode(input_ids or []))
    if found:
        ids = [int(found[-1][i : i + 3], 16) for i in range(0, len(found[-1]), 3)]
        obj.custom_logit_processor = Say.to_str()
        obj.sampling_params = {**obj.sampling_params, "custom_params": {"output": ids}}

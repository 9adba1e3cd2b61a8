# SPDX-License-Identifier: Apache-2.0
"""Provide the fixtures of all tests of the chat patches.

They import SGLang while pytest starts, so Triton's interpreter is chosen here; see tests/conftest.
"""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")

from tests.patches.chat.serving_layer import apply, layer

__all__ = ["apply", "layer"]

# SPDX-License-Identifier: Apache-2.0
"""Provide the fixtures of all tests of the chat patches."""

from tests.patches.chat.serving_layer import apply, layer

__all__ = ["apply", "layer"]

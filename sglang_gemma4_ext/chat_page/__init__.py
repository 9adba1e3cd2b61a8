# SPDX-License-Identifier: Apache-2.0
"""Serve a chat page for a running server: `make chat`, `python -m sglang_gemma4_ext.chat_page`."""

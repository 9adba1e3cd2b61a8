# SPDX-License-Identifier: Apache-2.0
"""A chat page for a running server: `python -m sglang_gemma4_ext.chat_page`, or `make chat`."""

# SPDX-License-Identifier: Apache-2.0
"""Implement Gemma 4's chat format without any server: templates, history, calls, grammars."""

# SPDX-License-Identifier: Apache-2.0
"""Serve Gemma 4 with unmodified SGLang, through SGLang's own plugin entry points."""

__version__ = "0.1.0"
VERIFIED_SGLANG = "0.5.23"
# The name of our entry points in SGLang's groups.
PLUGIN = "gemma4_ext"
# Starts each message of ours that ends a process.
PREFIX = "sglang-gemma4-ext: "

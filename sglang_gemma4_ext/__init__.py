# SPDX-License-Identifier: Apache-2.0
"""Gemma 4 on unmodified SGLang: an extension loaded through SGLang's own plugin entry points."""

__version__ = "0.1.0"
VERIFIED_SGLANG = "0.5.23"
# The name of our entry points in SGLang's groups.
PLUGIN = "gemma4_ext"
# Begins each message of ours that ends a process.
PREFIX = "sglang-gemma4-ext: "

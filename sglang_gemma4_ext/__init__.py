# SPDX-License-Identifier: Apache-2.0
"""Gemma 4 on unmodified SGLang: an extension loaded through SGLang's own plugin entry points."""

__version__ = "0.1.0"
VERIFIED_SGLANG = "0.5.23"

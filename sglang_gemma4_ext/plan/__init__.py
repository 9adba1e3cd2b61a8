# SPDX-License-Identifier: Apache-2.0
"""Where each gigabyte of a GPU goes when it serves a Gemma 4, and what fits.

Pure arithmetic: no GPU, no SGLang and no PyTorch is needed to plan (a plot needs Pillow).
All sizes are bytes of one GPU of a tensor-parallel group, all lengths tokens.
"""

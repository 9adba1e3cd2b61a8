# SPDX-License-Identifier: Apache-2.0
"""Plan where each gigabyte of a GPU goes when it serves a Gemma 4, and what fits.

The plan is arithmetic and needs no GPU, SGLang or PyTorch; a plot needs Pillow. All sizes are bytes
of one GPU of a tensor-parallel group, all lengths tokens.
"""

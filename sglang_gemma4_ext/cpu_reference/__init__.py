# SPDX-License-Identifier: Apache-2.0
"""What lets the real SGLang server run without a GPU.

SGLang's seam for a device it does not know is an out-of-tree platform, and the CPU reference is
one: it takes PyTorch's native path through every fused operator and the native allocators. What
that seam does not reach are patches, named `cpu_*` in the series, which stand down on a GPU.
"""

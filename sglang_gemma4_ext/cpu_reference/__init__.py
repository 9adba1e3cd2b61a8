# SPDX-License-Identifier: Apache-2.0
"""Run the real SGLang server without a GPU.

The CPU reference is an out-of-tree platform, SGLang's seam for a device that it does not know. It
takes PyTorch's native path through every fused operator, and the native allocators. Patches of
theme "cpu" do what that seam does not reach; they stand down on a GPU.
"""

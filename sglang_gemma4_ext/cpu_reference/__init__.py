# SPDX-License-Identifier: Apache-2.0
"""Run the real SGLang server without a GPU.

The CPU reference is an out-of-tree platform, which is SGLang's interface for unknown devices. It
takes PyTorch's native path through every fused operator, and the native allocators. Patches of
theme "cpu" change what that interface does not reach; they stand down on a GPU.
"""

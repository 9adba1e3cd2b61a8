# SPDX-License-Identifier: Apache-2.0
"""Tiny random Gemma 4 checkpoints, made on the spot: bf16 (`tiny`) and NVFP4 (`nvfp4`)."""
